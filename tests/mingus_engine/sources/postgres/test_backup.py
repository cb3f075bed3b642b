"""Both transports on all versions: what comes is what pg_basebackup gets, starts, and nothing stays behind."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken, Cancelled, MingusError, SourceDenied, SourceUnreachable
from mingus_engine.settings import Measurement, Predicate
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.postgres import open_backup
from mingus_engine.sources.postgres.pages import PageVerifier
from tests.mingus_engine.sources.postgres.collecting import (
    TRANSPORTS,
    collect,
    connection,
    leftovers,
    pg_basebackup,
    source,
    started,
)
from tests.support.fixtures import MakeCluster
from tests.support.pg_versions import PgVersion
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import wait_until

# Different in any two backups, or only ours, or only pg_basebackup's.
NOT_COMPARED = {b"backup_label", b"backup_manifest", b"global/pg_control"}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_idle_server_is_copied_as_pg_basebackup_copies_it(
    make_cluster: MakeCluster, pg_version: PgVersion, transport: str
) -> None:
    cluster = make_cluster(pg_version.major, conf={"autovacuum": "off"})
    location = cluster.create_tablespace("ts")
    cluster.execute(
        "create table a (x int primary key, y text)",
        "insert into a select g, repeat('y', 100) from generate_series(1, 50000) g",
        "create table b (x int) tablespace ts",
        "insert into b select * from generate_series(1, 100000)",
        "create unlogged table c (x int primary key)",
        "create table empty (x int)",
        "vacuum",
        "checkpoint",
    )
    expected = pg_basebackup(cluster, cluster.data_directory.parent / "bb")
    got = collect(source(cluster, transport))

    ours = {p for p in got.entries if not p.startswith(b"mingus-")}
    assert ours - {b"tablespace_map"} == set(expected) - {b"backup_manifest"}
    for path, content in expected.items():
        if content is None:
            assert got.entries[path].kind in {FileKind.DIRECTORY, FileKind.SYMLINK}
        elif path not in NOT_COMPARED:
            assert got.contents[path] == content, path
    (link,) = [e for e in got.entries.values() if e.kind == FileKind.SYMLINK]
    assert link.target == bytes(location)
    assert got.contents[b"tablespace_map"] == b"%s %s\n" % (link.path.rpartition(b"/")[2], bytes(location))
    assert b"LABEL: test\n" in got.contents[b"backup_label"]
    assert got.finished.facts["system_id"] == str(cluster.value("select system_identifier from pg_control_system()"))


def test_the_wal_covers_start_to_stop_and_is_the_servers_own(
    make_cluster: MakeCluster, pg_version: PgVersion, transport: str
) -> None:
    cluster = make_cluster(pg_version.major, wal_segment_mib=1 if pg_version.major == 16 else 16)
    got = collect(source(cluster, transport))  # an idle database: the server itself switches the segment
    size = got.segment_bytes
    assert got.wal_start == lsns.segment_start(got.start_lsn, size)
    assert got.wal_start + len(got.wal) >= got.stop_lsn > got.start_lsn
    for name, data in got.segments().items():
        assert (cluster.data_directory / "pg_wal" / name).read_bytes()[: len(data)] == data
    label = got.contents[b"backup_label"].decode()
    assert f"START WAL LOCATION: {lsns.text(got.start_lsn)} (file {next(iter(got.segments()))})" in label


def test_a_backup_under_load_restores_to_a_consistent_cluster(
    make_cluster: MakeCluster, pg_version: PgVersion, transport: str
) -> None:
    cluster = make_cluster(pg_version.major)
    cluster.pgbench_init(scale=3)
    sums = Predicate(
        "balanced",
        "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)"
        " and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)",
    )
    count = Measurement("accounts", "select count(*) from pgbench_accounts", tolerance=10)

    def disturb(number: int, _: Any) -> None:
        if number % 100 == 0:
            cluster.execute(
                f"create table d{number} as select * from generate_series(1, 5000) g",
                f"drop table if exists d{abs(number - 100)}",
                "vacuum full pgbench_branches",
                "truncate pgbench_branches_copy",
                "insert into pgbench_branches_copy select g from generate_series(1, 3000) g",
            )

    cluster.execute("create table pgbench_branches_copy (a int)")
    with cluster.pgbench(clients=2):
        got = collect(source(cluster, transport, predicates=(sums,), measurements=(count,)), before_item=disturb)
    assert [c for c in got.finished.checks if not c.ok] == []
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        assert restored.value(sums.sql) is True
        assert restored.value(count.sql) == 300_000
        if cluster.version.has_amcheck:
            restored.execute("create extension amcheck")
            where = ("-h", restored.socket_directory, "-p", str(restored.port), "-U", "postgres")
            restored.tool("pg_amcheck", "--heapallindexed", "--parent-check", *where, "postgres")
        restored.stop()
        verifier = PageVerifier(1 << 30)
        for path in (restored.data_directory / "base").rglob("*"):
            if path.name.isdigit() and path.is_file():
                assert verifier.bad_pages(memoryview(path.read_bytes()), 0) == [], path


def test_a_backup_of_a_standby_restores(make_cluster: MakeCluster, transport: str) -> None:
    primary = make_cluster(15)
    primary.execute("create table t as select * from generate_series(1, 1000) g")
    with PgCluster.standby_of(primary, primary.data_directory.parent / "standby") as standby:
        standby.start()
        primary.execute("insert into t select * from generate_series(1, 1000) g", "checkpoint")
        wait_until(lambda: standby.value("select count(*) from t") == 2000, "the standby has it")
        got = collect(source(standby, transport))
        assert b"BACKUP FROM: standby" in got.contents[b"backup_label"]
        assert got.finished.facts["standby"] is True
        with started(got, primary, primary.data_directory.parent / "restored") as restored:
            assert restored.value("select count(*) from t") == 2000


def test_the_history_of_a_later_timeline_comes_first(make_cluster: MakeCluster, transport: str) -> None:
    primary = make_cluster(16)
    with PgCluster.standby_of(primary, primary.data_directory.parent / "standby") as standby:
        standby.start()
        standby.promote()
        got = collect(source(standby, transport))
    assert got.timeline == 2
    assert [h.filename for h in got.histories] == ["00000002.history"]


def test_nothing_stays_on_the_server(pg: PgCluster, transport: str) -> None:
    collect(source(pg, transport))
    wait_until(lambda: not leftovers(pg), "nothing is left")


@pytest.mark.parametrize("when", ["opened", "one item read", "all items read"])
def test_a_backup_that_is_given_up_leaves_nothing(pg: PgCluster, transport: str, when: str) -> None:
    backup = open_backup(source(pg, transport), label="x", cancel=threading.Event())
    if when != "opened":
        items = backup.items()
        next(items)
        if when == "all items read":
            for item in items:
                item.release()
    backup.close()
    backup.close()
    wait_until(lambda: not leftovers(pg), "nothing is left")
    with open_backup(source(pg, transport), label="again", cancel=threading.Event()):
        pass


def test_a_cancelled_backup_ends_soon_and_leaves_nothing(pg: PgCluster, transport: str) -> None:
    cancel = threading.Event()

    def stop(number: int, _: Any) -> None:
        if number == 5:
            cancel.set()

    with pytest.raises(Cancelled):
        collect(source(pg, transport), before_item=stop, cancel=cancel, before_finish=lambda: None)
    wait_until(lambda: not leftovers(pg), "nothing is left")


def terminate(cluster: PgCluster) -> None:
    cluster.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mingus'")


def cancel_statements(cluster: PgCluster) -> None:
    cluster.execute("select pg_cancel_backend(pid) from pg_stat_activity where backend_type = 'walsender'")


@pytest.mark.parametrize(
    "deed", [terminate, PgCluster.kill, PgCluster.restart], ids=["terminated", "kill -9", "restarted"]
)
def test_a_server_that_goes_away_breaks_the_backup(
    make_cluster: MakeCluster, transport: str, deed: Callable[[PgCluster], Any]
) -> None:
    cluster = make_cluster(15)
    cluster.pgbench_init(scale=6)  # more than fits the buffers between the server and us

    def strike(number: int, _: Any) -> None:
        if number == 3:
            deed(cluster)

    with pytest.raises((BackupBroken, SourceUnreachable)) as caught:
        collect(source(cluster, transport), before_item=strike)
    assert caught.value.transient
    if not cluster.is_running:
        cluster.start()
    wait_until(lambda: not leftovers(cluster), "nothing is left")
    collect(source(cluster, transport))


def test_a_cancelled_base_backup_is_broken(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(16)
    cluster.pgbench_init(scale=6)

    def strike(number: int, _: Any) -> None:
        if number == 3:
            cancel_statements(cluster)

    with pytest.raises(BackupBroken):
        collect(source(cluster, "replication"), before_item=strike)


def test_a_file_that_grows_or_shrinks_or_vanishes_is_no_failure(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15, conf={"autovacuum": "off"})
    cluster.execute(
        *(f"create table t{i} as select g, repeat('x', 500) from generate_series(1, 4000) g" for i in range(3))
    )
    paths = [cluster.value(f"select pg_relation_filepath('t{i}')").encode() for i in range(3)]
    sizes = [(cluster.data_directory / p.decode()).stat().st_size for p in paths]

    def change(number: int, _: Any) -> None:
        if number == 0:
            cluster.execute(
                "insert into t0 select g, repeat('y', 500) from generate_series(1, 4000) g",
                "delete from t1 where g > 100",
                "vacuum t1",
                "drop table t2",
                "checkpoint",
            )

    got = collect(source(cluster, transport), before_item=change)
    assert len(got.contents[paths[0]]) >= sizes[0]
    with started(got, cluster, cluster.data_directory.parent / "restored") as restored:
        assert restored.value("select count(*) from t0") == 8000
        assert restored.value("select count(*) from t1") == 100
        assert restored.value("select to_regclass('t2')") is None


def test_a_role_with_only_what_is_needed_can_back_up(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15)
    options, functions = ("", BACKUP_FUNCTIONS) if transport == "sql" else ("REPLICATION", BACKUP_FUNCTIONS[:2])
    cluster.create_role("bk", options=options, execute=functions)
    settings = source(
        cluster, transport, connection=connection(cluster, "bk", tcp=True), data_directory=str(cluster.data_directory)
    )
    got = collect(settings)
    assert got.contents[b"PG_VERSION"] == b"15\n"
    assert got.finished.facts["configuration"]["stored"] == []


def test_a_role_without_a_right_it_needs_is_denied(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(15)
    cluster.create_role("bk", execute=BACKUP_FUNCTIONS[:2])
    settings = source(cluster, transport, connection=connection(cluster, "bk", tcp=True))
    with pytest.raises(SourceDenied):
        open_backup(settings, label="x", cancel=threading.Event())


@pytest.mark.parametrize("conf", [{"wal_level": "minimal", "max_wal_senders": "0"}, {"max_replication_slots": "0"}])
def test_a_server_that_cannot_be_backed_up_says_so(
    make_cluster: MakeCluster, transport: str, conf: dict[str, str]
) -> None:
    with pytest.raises(MingusError) as caught:
        open_backup(source(make_cluster(15, conf=conf), transport), label="x", cancel=threading.Event())
    assert caught.value.hint


def test_configuration_outside_the_data_directory_is_kept(make_cluster: MakeCluster, transport: str) -> None:
    cluster = make_cluster(16, start=False)
    outside = cluster.data_directory.parent / "etc"
    outside.mkdir()
    (outside / "extra.conf").write_text("work_mem = '5MB'\n")
    (outside / "hba.conf").write_text((cluster.data_directory / "pg_hba.conf").read_text())
    for path in (outside, outside / "extra.conf", outside / "hba.conf"):
        path.chmod(0o755)
    with (cluster.data_directory / "postgresql.conf").open("a") as conf:
        conf.write(f"include '{outside}/extra.conf'\nhba_file = '{outside}/hba.conf'\n")
    cluster.start()
    got = collect(source(cluster, transport))
    for name in ("extra.conf", "hba.conf"):
        stored = b"mingus-config" + bytes(outside / name)
        assert got.contents[stored] == (outside / name).read_bytes()
    assert got.finished.facts["configuration"]["unreadable"] == {}


@pytest.mark.parametrize("label", ["two\nlines", "x" * 2000])
def test_a_label_the_server_would_not_take_is_refused(pg15: PgCluster, transport: str, label: str) -> None:
    with pytest.raises(MingusError, match="label"):
        open_backup(source(pg15, transport), label=label, cancel=threading.Event())


def test_a_rate_limit_holds(make_cluster: MakeCluster, transport: str, tmp_path: Path) -> None:
    import time

    cluster = make_cluster(15)
    began = time.monotonic()
    got = collect(source(cluster, transport, max_rate_bytes_per_s=16 << 20))
    took = time.monotonic() - began
    assert sum(map(len, got.contents.values())) / took < 24 << 20
