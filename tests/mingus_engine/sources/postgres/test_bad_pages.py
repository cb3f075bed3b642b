"""Damaged pages are found by both transports and named; a page that was only torn is not."""

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mingus_engine.bounds import PAGE_BYTES, SLAB_BYTES
from mingus_engine.sources.postgres import open_backup
from tests.mingus_engine.sources.postgres.collecting import TRANSPORTS, collect, source
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster

CHECK = "page checksums"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def table_on_disk(cluster: PgCluster, tablespace: str = "pg_default") -> str:
    """A table that the server does not hold in its buffers; returns its path in the data directory."""
    cluster.execute(
        f"create table damaged (a int, b text) tablespace {tablespace}",
        "insert into damaged select g, repeat('x', 1000) from generate_series(1, 2000) g",
        "vacuum damaged",
        "checkpoint",
    )
    path = str(cluster.value("select pg_relation_filepath('damaged')"))
    cluster.restart()
    return path


def flip(path: Path, *positions: int) -> None:
    with path.open("r+b") as file:
        for position in positions:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes((byte ^ 0x40,)))


@pytest.mark.parametrize("major", [15, 16, 18])
def test_bad_pages_flag_the_backup_and_are_named(make_cluster: MakeCluster, transport: str, major: int) -> None:
    cluster = make_cluster(major)
    path = table_on_disk(cluster)
    flip(cluster.data_directory / path, 3 * PAGE_BYTES + 4000, 7 * PAGE_BYTES + 8191)
    got = collect(source(cluster, transport))
    check = got.check(CHECK)
    assert not check.ok
    assert check.data["bad"] == 2
    assert check.data["pages"] == {path: [3, 7]}
    assert path in check.detail
    assert got.contents[path.encode()] == (cluster.data_directory / path).read_bytes(), "kept as it is"
    assert got.stop_lsn > got.start_lsn
    assert len(got.wal) >= got.stop_lsn - got.start_lsn


@pytest.mark.parametrize("major", [15, 18])
def test_a_file_that_ends_within_a_page_flags_nothing(make_cluster: MakeCluster, transport: str, major: int) -> None:
    """As a server leaves it for a moment while it extends the file."""
    cluster = make_cluster(major)
    path = table_on_disk(cluster)
    with (cluster.data_directory / path).open("ab") as file:
        file.write(b"\0" * 4096)
    check = collect(source(cluster, transport)).check(CHECK)
    assert check.ok, check.detail
    if transport == "replication":
        assert path in check.data["unverified"][0]
        assert check.detail.endswith("except the end of files that changed their size (1)")


def test_a_bad_page_in_a_tablespace_is_named(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15)
    cluster.create_tablespace("ts")
    path = table_on_disk(cluster, "ts")
    flip(cluster.data_directory / path, PAGE_BYTES + 100)
    check = collect(source(cluster, transport)).check(CHECK)
    assert not check.ok
    assert list(check.data["pages"].values()) == [[1]]
    (named,) = check.data["pages"]
    assert named.endswith(Path(path).name)


def test_a_page_of_garbage_that_looks_newer_is_found_locally(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    path = table_on_disk(cluster)
    with (cluster.data_directory / path).open("r+b") as file:
        file.seek(5 * PAGE_BYTES)
        file.write(b"\xee" * PAGE_BYTES)  # LSN EEEEEEEE/EEEEEEEE: later than any start, pg_basebackup skips it
    check = collect(source(cluster, "local")).check(CHECK)
    assert check.data["pages"] == {path: [5]}


def test_many_bad_pages_are_counted_and_the_list_is_bounded(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.execute(
        "create table damaged as select g, repeat('x', 1000) from generate_series(1, 12000) g", "checkpoint"
    )
    path = str(cluster.value("select pg_relation_filepath('damaged')"))
    cluster.restart()
    file = cluster.data_directory / path
    flip(file, *(range(1000, file.stat().st_size, PAGE_BYTES)))
    check = collect(source(cluster, "local")).check(CHECK)
    assert check.data["bad"] == file.stat().st_size // PAGE_BYTES > 1000
    assert len(check.data["pages"][path]) == 1000


class Repairing(threading.Event):
    """An event whose waits (the pauses between two reads of a page) run a deed first."""

    def __init__(self, deed: Callable[[], None]) -> None:
        super().__init__()
        self.deed = deed
        self.waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        self.deed()
        return super().wait(0)


def test_a_torn_page_that_heals_is_not_reported_and_the_healed_one_is_kept(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    path = table_on_disk(cluster)
    file = cluster.data_directory / path
    good = file.read_bytes()
    flip(file, 3 * PAGE_BYTES + 5000)
    cancel = Repairing(lambda: None)

    def heal_at_the_third_look() -> None:
        if cancel.waits == 3:
            flip(file, 3 * PAGE_BYTES + 5000)

    cancel.deed = heal_at_the_third_look
    got = collect(source(cluster, "local"), cancel=cancel)
    assert cancel.waits == 3
    assert got.check(CHECK).ok
    assert got.contents[path.encode()] == good


def test_a_bad_page_that_is_cut_off_meanwhile_is_not_reported(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    path = table_on_disk(cluster)
    file = cluster.data_directory / path
    last = file.stat().st_size - PAGE_BYTES
    flip(file, last + 5000)
    got = collect(source(cluster, "local"), cancel=Repairing(lambda: os.truncate(file, last)))
    assert got.check(CHECK).ok


def test_verification_can_be_off_by_setting_or_by_cluster(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15)
    path = table_on_disk(cluster)
    flip(cluster.data_directory / path, 5000)
    got = collect(source(cluster, transport, verify_page_checksums=False))
    assert [c for c in got.finished.checks if c.name == CHECK] == []

    without = make_cluster(18, checksums=False)
    flip(without.data_directory / table_on_disk(without), 5000)
    check = collect(source(without, transport)).check(CHECK)
    assert check.ok
    assert check.data == {"enabled": False}


def test_pages_beyond_the_first_slab_are_counted_from_the_files_begin(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.execute("create table damaged as select g, repeat('x', 1000) from generate_series(1, 9000) g", "checkpoint")
    path = str(cluster.value("select pg_relation_filepath('damaged')"))
    cluster.restart()
    block = SLAB_BYTES // PAGE_BYTES + 7
    flip(cluster.data_directory / path, block * PAGE_BYTES + 100)
    assert collect(source(cluster, "local")).check(CHECK).data["pages"] == {path: [block]}


def test_pages_of_a_second_segment_verify(make_cluster: MakeCluster, transport: str) -> None:
    """A relation over 1 GiB: sparse, so that it costs nothing; its second segment has one real page."""
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute("create table big (a int)", "insert into big values (1)", "checkpoint")
    path = cluster.data_directory / cluster.value("select pg_relation_filepath('big')")
    cluster.stop()
    os.truncate(path, 1 << 30)
    second = path.with_name(path.name + ".1")
    second.write_bytes(b"")
    os.chown(second, path.stat().st_uid, path.stat().st_gid)
    cluster.start()
    cluster.execute("insert into big select g from generate_series(1, 200000) g", "checkpoint")
    assert second.stat().st_size > PAGE_BYTES, "rows went to the second segment"
    cluster.restart()
    settings = dataclasses.replace(source(cluster, transport))
    with open_backup(settings, label="x", cancel=threading.Event()) as backup:
        scratch = memoryview(bytearray(SLAB_BYTES))
        for item in backup.items():
            item.read(scratch)
            item.release()
        finished = backup.finish()
    assert [c for c in finished.checks if not c.ok] == []
