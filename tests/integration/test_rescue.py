"""A cluster comes back without the product: by the script that ``init`` put into the repository, and a key."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mingus_engine.errors import SettingsError
from mingus_engine.jobs.postgres.restore import restore
from mingus_engine.jobs.postgres.windows import windows
from mingus_engine.jobs.verify import verify
from tests.integration import ledger
from tests.integration.conftest import Install
from tests.support import directories
from tests.support.installation import SECOND, SOURCE, Installation, running
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user


def rescue(installation: Installation, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script of the repository as a process that cannot see the product (-I: no PYTHONPATH, no directory)."""
    root = installation.path(SECOND)
    (script,) = (root / "rescue").glob("1.*.py")
    assert hashlib.sha256(script.read_bytes()).hexdigest() in script.name
    return subprocess.run(
        [sys.executable, "-I", str(script), str(root), *arguments], env={"PATH": os.environ["PATH"], **environment},
        cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def shipped(books: PgCluster, install: Install) -> Installation:
    """The ledger with a tablespace, backed up and shipped; only the second repository is left."""
    if not books.value("select count(*) from pg_tablespace where spcname = 'apart'"):
        books.create_tablespace("apart")
        books.execute("create table in_apart tablespace apart as select generate_series(1, 5000) n")
    installation = install(books)
    installation.back_up()
    installation.ship()
    directories.remove(installation.path())
    return installation


def test_the_escrow_key_and_the_script_are_enough(shipped: Installation, books: PgCluster, workspace: Path) -> None:
    key = {"MINGUS_ESCROW_KEY": shipped.escrow[SECOND]}
    listed = rescue(shipped, "list", **key)
    assert listed.returncode == 0, listed.stderr
    assert re.search(rf"{SOURCE} [0-9A-Z]{{26}} postgres full", listed.stdout)
    assert "good: " in rescue(shipped, "verify", SOURCE, **key).stdout
    done = rescue(shipped, "restore", SOURCE, str(workspace / "data"), **key)
    assert done.returncode == 0, done.stderr
    directories.give_tree(workspace / "data", unprivileged_user())
    directories.give_tree(workspace / "data.tablespaces", unprivileged_user())
    with running(workspace, workspace / "data", books) as restored:
        assert ledger.turnover(restored) == ledger.turnover(books)
        assert restored.value("select sum(n) from in_apart") == 12502500
        (place,) = restored.rows("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'apart'")
        assert place[0].startswith(str(workspace / "data.tablespaces"))


def test_a_wrong_key_and_a_place_that_is_taken_are_refused(shipped: Installation, workspace: Path) -> None:
    refused = rescue(shipped, "list", BACKUP_ENCRYPTION_KEY="00" * 32)
    assert refused.returncode != 0
    assert "the key opens no slot" in refused.stderr
    (workspace / "data").mkdir()
    taken = rescue(shipped, "restore", SOURCE, str(workspace / "data"), MINGUS_ESCROW_KEY=shipped.escrow[SECOND])
    assert "FileExistsError" in taken.stderr
    assert not any((workspace / "data").iterdir())


def test_settings_that_name_only_a_repository_are_enough(
    shipped: Installation, books: PgCluster, workspace: Path
) -> None:
    alone = replace(shipped.settings, repositories=(shipped.settings.repository(SECOND),), sources=())
    context = shipped.context()
    (found,) = windows(alone, SOURCE, context=context).repositories
    assert found["windows"]
    (oid,) = books.rows("select oid::text from pg_tablespace where spcname = 'apart'")[0]
    report = restore(
        alone, SOURCE, directory=workspace / "data", context=context, to="immediate",
        tablespace_map={oid: str(workspace / "apart")},
    )  # fmt: skip
    assert report.repository == SECOND
    with running(workspace, workspace / "data", books) as restored:
        assert ledger.turnover(restored) == ledger.turnover(books)
    assert verify(alone, SOURCE, context=context, level="L2").ok
    with pytest.raises(SettingsError, match="no source named 'nobody'"):
        restore(shipped.settings, "nobody", directory=workspace / "other", context=context)
