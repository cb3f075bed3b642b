"""``wal archive`` and ``wal push`` as a process: what is shown, and the exit code."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.archives import write_wal
from tests.mingus_engine.cli.support import PLUGINS
from tests.support import processes
from tests.support.fixtures import MakeCluster
from tests.support.installation import Installation


@pytest.fixture
def mingus(make_cluster: MakeCluster, workspace: Path):
    with Installation.make(workspace / "m", make_cluster(18, wal_segment_mib=1)) as made:
        yield made


def run(mingus: Installation, *arguments: str) -> tuple[int, str, str]:
    done = processes.run(
        [sys.executable, "-m", "mingus_engine", "wal", *arguments, "--config", mingus.root / "mingus.yaml"],
        env={**mingus.environment, "PYTHONPATH": str(PLUGINS)}, cwd=mingus.root, check=False,
    )  # fmt: skip
    for secret in mingus.environment.values():
        assert secret not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_archive_shows_position_lag_and_every_repository(mingus: Installation) -> None:
    write_wal(mingus.cluster, 2)
    code, out, err = run(mingus, "archive", "ledger")
    assert (code, "error" in err) == (0, False)
    assert "archived to" in out
    assert "mingus_ledger (reserved)" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("first", "second"))]
    assert [row[1:3] for row in rows] == [["yes", "yes"], ["yes", "yes"]]


def test_a_repository_that_is_not_there_fails_the_command_after_the_others(mingus: Installation) -> None:
    shutil.rmtree(mingus.path("second"))
    code, out, err = run(mingus, "archive", "ledger")
    assert code == 4
    assert "but not everywhere: second" in err
    assert [line.split()[1] for line in out.splitlines() if line.startswith(("first", "second"))] == ["yes", "no"]


def test_push_says_nothing_and_tells_by_its_exit_code(mingus: Installation) -> None:
    write_wal(mingus.cluster, 1)
    name = str(mingus.cluster.value("select pg_walfile_name(pg_switch_wal())"))
    segment = mingus.cluster.data_directory / "pg_wal" / name
    assert run(mingus, "push", str(segment)) == (0, "", "")
    (mingus.root / name).write_bytes(segment.read_bytes()[:-1] + b"\xff")
    code, _, err = run(mingus, "push", str(mingus.root / name), "--source", "ledger")
    assert code == 6
    assert "another log" in err
    assert run(mingus, "push", "not/there/000000010000000000000001")[0] == 2


def test_sources_of_other_kinds_leave_no_doubt_whose_log_is_pushed(mingus: Installation) -> None:
    settings = mingus.root / "mingus.yaml"
    document = yaml.safe_load(settings.read_text())
    document["sources"].append({"id": "docs", "kind": "files", "files": {"roots": [{"path": str(mingus.root)}]}})
    settings.write_text(yaml.safe_dump(document))
    write_wal(mingus.cluster, 1)
    name = str(mingus.cluster.value("select pg_walfile_name(pg_switch_wal())"))
    assert run(mingus, "push", str(mingus.cluster.data_directory / "pg_wal" / name)) == (0, "", "")
    document["sources"].append({**document["sources"][0], "id": "other"})
    settings.write_text(yaml.safe_dump(document))
    code, _, err = run(mingus, "push", name)
    assert code == 2
    assert "--source: ledger, other" in err
