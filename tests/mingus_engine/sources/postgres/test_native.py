"""What is sent to a server for an increment of its own, and what comes back as the label."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from mingus_engine.bounds import PAGE_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.postgres import backup_manifest
from mingus_engine.postgres.backup_manifest import WalRange
from mingus_engine.sources.base import Parent
from mingus_engine.sources.postgres import native
from mingus_engine.sources.postgres.connection import connect_replication
from mingus_engine.sources.postgres.link import LibpqLink, RawLink, Rows, ServerFailure
from tests.mingus_engine.sources.postgres.collecting import connection
from tests.support.postgres import PgCluster


class Made:
    """A parent that has nothing but a list of files."""

    snapshot = "01KPARENT"
    ranges_allowed = True
    facts: Mapping[str, Any] = {"system_id": "77", "timeline": 3, "start_lsn": "1/2000028", "stop_lsn": "1/2000158"}

    def __init__(self, sizes: Mapping[bytes, int]) -> None:
        self._sizes = sizes

    def size(self, path: bytes) -> int | None:
        return self._sizes.get(path)

    def files(self) -> Iterator[tuple[bytes, int]]:
        yield from self._sizes.items()

    def content(self, path: bytes) -> Iterator[bytes]:
        raise NotImplementedError


def made(**sizes: int) -> Parent:
    return Made({path.encode(): size for path, size in sizes.items()})


def test_main_and_init_forks_of_whole_pages_are_listed_and_nothing_else() -> None:
    sizes = {
        "PG_VERSION": 3,
        "base/5/1": PAGE_BYTES,
        "base/5/1.1": 5 * PAGE_BYTES,
        "base/5/1_vm": PAGE_BYTES,
        "base/5/1_fsm": PAGE_BYTES,
        "base/5/2_init": PAGE_BYTES,
        "base/5/3": 0,
        "base/5/4": PAGE_BYTES + 1,
        "global/1260": PAGE_BYTES,
        "pg_tblspc/9/PG_18_202506291/5/6": PAGE_BYTES,
        "pg_xact/0000": PAGE_BYTES,
    }
    pieces = list(native.parent_manifest(made(**sizes), 18))
    found = backup_manifest.parse(b"".join(pieces))
    assert {f.path.decode() for f in found.files} == {
        "base/5/1",
        "base/5/1.1",
        "base/5/2_init",
        "global/1260",
        "pg_tblspc/9/PG_18_202506291/5/6",
    }
    assert found.system_identifier == 77
    assert found.wal_ranges == (WalRange(3, 0x102000028, 0x102000158),)


def test_a_long_list_goes_in_pieces() -> None:
    pieces = list(native.parent_manifest(made(**{f"base/5/{n}": PAGE_BYTES for n in range(1, 5000)}), 18))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 100_000
    assert len(backup_manifest.parse(b"".join(pieces)).files) == 4999


LABEL = (
    b"START WAL LOCATION: 1/3000028 (file 000000030000000100000003)\nCHECKPOINT LOCATION: 1/3000080\n"
    b"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: x\nLABEL: mingus\nSTART TIMELINE: 3\n"
)


@pytest.mark.parametrize("written", [b"1/2000028", b"1/02000028"])
def test_a_label_loses_what_makes_it_an_increments(written: bytes) -> None:
    label = LABEL + b"INCREMENTAL FROM LSN: " + written + b"\nINCREMENTAL FROM TLI: 3\n"
    assert native.full_label(label, made()) == LABEL


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b"INCREMENTAL FROM LSN: 1/2000028\n",
        b"INCREMENTAL FROM LSN: 1/2000030\nINCREMENTAL FROM TLI: 3\n",
        b"INCREMENTAL FROM LSN: 1/2000028\nINCREMENTAL FROM TLI: 2\n",
        b"INCREMENTAL FROM LSN: \xff\nINCREMENTAL FROM TLI: 3\n",
    ],
)
def test_a_label_of_another_increment_ends_the_backup(more: bytes) -> None:
    with pytest.raises(BackupBroken, match="backup_label"):
        native.full_label(LABEL + more, made())


@pytest.mark.parametrize("kind", [RawLink, LibpqLink])
def test_a_list_that_the_server_refuses_leaves_the_link_fit_for_use(
    kind: type[RawLink | LibpqLink], pg18: PgCluster
) -> None:
    link = kind(connect_replication(connection(pg18)), threading.Event(), lambda _: None)
    for pieces in ([b"garbage" * 100_000] * 20, [b""], [], [b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n}\n']):
        with pytest.raises(ServerFailure) as refused:
            link.upload("UPLOAD_MANIFEST", pieces)
        assert refused.value.sqlstate
    (answer,) = link.run("IDENTIFY_SYSTEM")
    assert isinstance(answer, Rows)
    link.close()


def test_an_older_server_refuses_the_upload(pg15: PgCluster) -> None:
    link = RawLink(connect_replication(connection(pg15)), threading.Event(), lambda _: None)
    with pytest.raises(ServerFailure, match="syntax error"):
        link.upload("UPLOAD_MANIFEST", [b"x"])
    link.close()
