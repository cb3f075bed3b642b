"""What must never be readable: keys and passwords anywhere, data anywhere but in the database and in restores."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mingus_engine.errors import MingusError
from tests.integration import ledger
from tests.integration.conftest import Install
from tests.integration.trouble import moody
from tests.support.installation import FIRST, SECOND, SOURCE
from tests.support.postgres import PgCluster
from tests.support.s3 import S3Bucket

# Random, so that no compression hides it; long, so that it is nowhere by chance.
MARKER = os.urandom(32)


@pytest.fixture(scope="module")
def marked(books: PgCluster) -> PgCluster:
    """A cluster with the marker in a table, in a database's name and in a setting of a role."""
    books.execute(
        "create table marked (t bytea)",
        "alter table marked alter t set storage external",
        f"insert into marked select '\\x{MARKER.hex()}'::bytea from generate_series(1, 2000)",
        f'create database "{MARKER.hex()[:50]}"',
        "checkpoint",
    )
    return books


def _holders(root: Path, *needles: bytes) -> list[Path]:
    """Files below *root* with one of the needles in their bytes or their name."""
    return [
        path
        for path in root.rglob("*")
        if any(needle in os.fsencode(path.name) for needle in needles)
        or (path.is_file() and any(needle in path.read_bytes() for needle in needles))
    ]


@contextlib.contextmanager
def _watching(look: Callable[[], None]) -> Iterator[None]:
    """*look* again and again while the block runs."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            while not ended.wait(0.005):
                look()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: raised below
            errors.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("transport", ["local", "replication"])
def test_no_byte_of_the_data_rests_readable_in_repositories_spool_or_state(
    transport: str, marked: PgCluster, install: Install
) -> None:
    needles = (MARKER[:16], MARKER.hex()[:32].encode(), b"debits equal credits", b"pg_hba.conf")
    assert _holders(marked.data_directory / "base", MARKER[:16]), "the search finds nothing at all"
    installation = install(marked, transport=transport, predicates=ledger.PREDICATES)
    seen: set[str] = set()

    def look_into_spool() -> None:
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError, OSError):
                if str(installation.root) in (target := str(link.readlink())) and link.is_file():
                    seen.add(target)
                    content = link.read_bytes()
                    assert not any(needle in content for needle in needles), f"readable data in {target}"

    with _watching(look_into_spool):
        installation.back_up()
        installation.ship()
    assert any("(deleted)" in target for target in seen), "no spool file was looked into"
    installation.verify("L4")
    for place in (
        installation.path(FIRST),
        installation.path(SECOND),
        *map(installation.root.joinpath, ("spool", "tmp")),
    ):
        assert _holders(place, *needles) == []
    assert _holders(installation.settings.state_path, *needles) == []


def test_no_secret_is_in_arguments_reports_logs_errors_or_files(
    marked: PgCluster, install: Install, rclone_s3: S3Bucket, workspace: Path
) -> None:
    marked.create_role("cashier", options="SUPERUSER REPLICATION")
    with moody(rclone_s3) as (bucket, mood):
        installation = install(
            marked,
            repositories={FIRST: None, SECOND: None, "cloud": bucket},
            repository_options={"attempts": 1},
            tcp_user="cashier",
            predicates=ledger.PREDICATES,
        )
        secrets = [*installation.environment.values(), *installation.escrow.values()]
        secrets += [escrow.replace("-", "") for escrow in installation.escrow.values()]
        assert len(secrets) >= 4 + 3
        needles = [secret.encode() for secret in secrets]
        seen: set[bytes] = set()

        def look_at_arguments() -> None:
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    if entry.name.isdigit():
                        line = (entry / "cmdline").read_bytes()
                        seen.add(line)
                        assert not any(needle in line for needle in needles), "a secret is in a process's arguments"

        reports: list[object] = []
        with _watching(look_at_arguments):
            reports.append(installation.back_up().as_dict())
            reports.append(installation.ship().as_dict())
            reports.append(installation.verify("L4").as_dict())
            reports.append(installation.restore(workspace / "restored").as_dict())
            for status in (403, 500):
                mood.answer = lambda method, path, n, status=status: status
                with pytest.raises(MingusError) as caught:
                    installation.ship(FIRST, "cloud")
                reports.append([caught.value.message, caught.value.hint, repr(caught.value)])
        assert any(b"guardian" in line or b"postgres" in line for line in seen), "no process was looked at"
        shown = json.dumps(reports) + "\n".join(installation.messages) + repr(installation.settings)
        assert SOURCE in shown
        for secret in secrets:
            assert secret not in shown
        for place in ("state", "spool", "tmp", FIRST, SECOND):
            assert _holders(installation.root / place, *needles) == []
        assert _holders(workspace / "restored", needles[0]) == []
