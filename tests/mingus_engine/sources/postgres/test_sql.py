"""Transport `sql`: what the server's functions do and do not tell, and write-ahead log without a slot."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import BackupBroken, MingusError, SourceUnsupported
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import Item
from mingus_engine.sources.postgres import open_backup, sql_links
from mingus_engine.sources.postgres.link import LibpqLink
from mingus_engine.sources.postgres.sql_links import DataLinks
from mingus_engine.sources.postgres.sql_small import SMALL_BYTES
from tests.mingus_engine.sources.postgres.collecting import WalThread, collect, connection, leftovers, source, started
from tests.support.fixtures import MakeCluster
from tests.support.pg_versions import PgVersion
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import wait_until


def plain(cluster: PgCluster) -> SourceSettings:
    """Settings of a role that may do nothing but call the functions."""
    return source(cluster, "sql", connection=connection(cluster, "bk", tcp=True))


@pytest.fixture(scope="module")
def shared(pg_versions: dict[int, PgVersion], session_directory: Path) -> Iterator[PgCluster]:
    with PgCluster.create(pg_versions[15], session_directory / "sql15") as made:
        made.start().create_role("bk", execute=BACKUP_FUNCTIONS)
        yield made


@pytest.fixture
def cluster(shared: PgCluster) -> Iterator[PgCluster]:
    """Without what a test put into its data directory afterwards."""
    before = set(shared.data_directory.iterdir())
    yield shared
    for path in set(shared.data_directory.iterdir()) - before:
        path.unlink(missing_ok=True)


def test_wal_that_was_recycled_breaks_the_backup_and_says_what_to_grant(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf={"max_wal_size": "2MB", "min_wal_size": "2MB"})
    cluster.create_role("bk", execute=BACKUP_FUNCTIONS)
    with open_backup(plain(cluster), label="x", cancel=threading.Event()) as backup:
        for _ in range(4):  # nobody looks meanwhile
            cluster.execute("create table t as select g from generate_series(1, 60000) g", "drop table t", "checkpoint")
        with pytest.raises(BackupBroken, match="pg_wal/0000") as caught:
            list(backup.wal())
    assert "grant REPLICATION" in caught.value.hint


def test_wal_is_followed_while_segments_are_recycled(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf={"max_wal_size": "2MB", "min_wal_size": "2MB"})
    cluster.create_role("bk", execute=BACKUP_FUNCTIONS)
    cluster.execute("create table kept (n int)")
    with open_backup(plain(cluster), label="x", cancel=threading.Event()) as backup:
        first = lsns.segment_name(1, backup.start_lsn, backup.wal_segment_bytes)
        wal = WalThread(backup)
        for _ in range(6):
            cluster.execute("insert into kept select g from generate_series(1, 9000) g")
            flush = lsns.parse(cluster.flush_lsn())
            wait_until(lambda: backup.receiver.position >= flush, "it was read")  # noqa: B023
            cluster.execute("checkpoint")
        assert not (cluster.data_directory / "pg_wal" / first).exists(), "it was recycled meanwhile"
        for item in backup.items():
            item.release()
        backup.finish()
        wal.join()
        assert wal.start + len(wal.data) >= backup.stop_lsn
        assert len(wal.data) >= 3 * backup.wal_segment_bytes


def test_a_standby_on_a_second_timeline_is_backed_up_without_a_slot(make_cluster: MakeCluster) -> None:
    primary = make_cluster(16)
    primary.create_role("bk", execute=BACKUP_FUNCTIONS)
    with PgCluster.standby_of(primary, primary.data_directory.parent / "standby") as standby:
        standby.passwords = primary.passwords
        standby.start()
        primary.execute("create table t as select 1", "checkpoint")
        flush = primary.flush_lsn()
        wait_until(lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", flush), "it was replayed")
        assert collect(plain(standby)).timeline == 1
        standby.promote()
        got = collect(plain(standby))
        assert got.timeline == 2
        assert [history.filename for history in got.histories] == ["00000002.history"]
        with started(got, primary, primary.data_directory.parent / "restored") as restored:
            assert restored.value("select count(*) from t") == 1


def test_files_that_shrink_grow_and_vanish_are_taken_as_they_are(cluster: PgCluster) -> None:
    large, size = SLAB_BYTES + 1000, {b"large": SLAB_BYTES + 10, b"grown": SMALL_BYTES + 50}
    for name, length in {"large": large, "grown": SMALL_BYTES + 50, "gone": SMALL_BYTES + 1, "small": 9}.items():
        (cluster.data_directory / name).write_bytes(b"x" * length)

    def change(number: int, item: Item) -> None:
        path = cluster.data_directory / os.fsdecode(item.file.path)
        if item.file.path == b"large" and item.offset:
            os.truncate(path, SLAB_BYTES + 10)
        elif item.file.path == b"grown":
            path.write_bytes(b"x" * 999_999)
        elif item.file.path == b"gone":
            path.unlink()

    got = collect(source(cluster, "sql", workers=1), before_item=change)
    assert got.vanished == {b"gone"}
    assert {path: len(got.contents[path]) for path in size} == size
    assert got.contents[b"small"] == b"x" * 9


@pytest.mark.parametrize("name", [b'it\'s \\ "so"', b"new\nline", "größe".encode()])
def test_any_name_that_is_text_is_read(cluster: PgCluster, name: bytes) -> None:
    for content, path in ((b"s", name), (b"l" * (SMALL_BYTES + 1), name + b"-large")):
        with open(os.path.join(os.fsencode(cluster.data_directory), path), "wb") as file:  # noqa: PTH118, PTH123
            file.write(content)
    got = collect(plain(cluster))
    assert got.contents[name] == b"s"
    assert len(got.contents[name + b"-large"]) == SMALL_BYTES + 1


def test_a_name_that_is_not_text_is_refused_and_named(cluster: PgCluster) -> None:
    with open(os.path.join(os.fsencode(cluster.data_directory), b"\xff\xfe"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"x" * (SMALL_BYTES + 1))
    with pytest.raises(SourceUnsupported, match="encoding"):
        collect(plain(cluster))


def test_a_link_to_a_directory_above_it_is_refused(cluster: PgCluster) -> None:
    (cluster.data_directory / "loop").symlink_to(cluster.data_directory)
    with pytest.raises(SourceUnsupported, match="deep"):
        collect(plain(cluster))
    wait_until(lambda: not leftovers(cluster), "nothing is left")


def test_connections_that_reach_another_server_are_refused(pg15: PgCluster) -> None:
    with pytest.raises(SourceUnsupported, match="two servers"):
        DataLinks(connection(pg15), 2, threading.Event(), "7 2020-01-01")
    wait_until(lambda: not leftovers(pg15), "nothing is left")


def test_one_data_connection_that_is_cut_breaks_the_backup(cluster: PgCluster) -> None:
    def strike(number: int, item: Item) -> None:
        if number == 300:
            cluster.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'mingus'"
                " and query like 'COPY (SELECT%' order by backend_start desc limit 1"
            )

    cluster.execute("create table t as select g, repeat('x', 500) from generate_series(1, 50000) g")
    with pytest.raises(MingusError) as caught:
        collect(plain(cluster), before_item=strike)
    assert caught.value.transient
    wait_until(lambda: not leftovers(cluster), "nothing is left")


def test_a_link_that_only_libpq_can_read_serves_as_well(cluster: PgCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with TLS."""
    monkeypatch.setattr(sql_links, "take_over", LibpqLink)
    (cluster.data_directory / "note").write_bytes(b"x" * (SLAB_BYTES + 9))
    got = collect(plain(cluster))
    assert got.contents[b"note"] == b"x" * (SLAB_BYTES + 9)
    assert got.wal_start <= got.start_lsn < got.stop_lsn <= got.wal_start + len(got.wal)


def test_no_snapshot_is_held_while_files_are_read(cluster: PgCluster) -> None:
    held: list[Any] = []

    def look(number: int, _: Item) -> None:
        if number % 200 == 0:
            held.extend(
                cluster.rows(
                    "select query from pg_stat_activity where application_name = 'mingus' and backend_xmin is not null"
                )
            )

    collect(source(cluster, "sql"), before_item=look)
    assert held == []
