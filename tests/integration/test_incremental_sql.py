"""Increments by transport `sql`: what the server says has changed, and when it is not believed."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.sources.postgres import sql_changes
from mingus_engine.sources.postgres.sql import SqlBackup
from mingus_engine.sources.postgres.sql_changes import Changes
from tests.integration import ledger
from tests.integration.comparing import base_backup, difference, tree
from tests.integration.conftest import QUIET, Install
from tests.support import directories
from tests.support.directories import give_tree
from tests.support.installation import SECOND, Installation
from tests.support.pg_versions import PgVersion
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import unprivileged_user, wait_until

MakeCluster = Callable[..., PgCluster]
BY_LSN = "page LSNs and digests on the server"
BY_DIGEST = "digests on the server"
BIG = "create table big as select g, repeat(md5(g::text), 8) t from generate_series(1, 60000) g"
SOME = "update big set g = g + 1 where g % 100 = 0"


@pytest.fixture(scope="module")
def quiet(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[PgCluster]:
    with PgCluster.create(pg_versions[15], module_directory / "quiet", conf=QUIET) as cluster:
        yield cluster.start()


def facts(installation: Installation) -> dict[str, Any]:
    """Facts of the newest snapshot."""
    from mingus_engine.repository.reader import SnapshotReader

    with installation.opened() as repository:
        name = max(repository.list_snapshots("ledger"), key=lambda found: found.ulid)
        return dict(SnapshotReader(repository, repository.get_manifest(name)).body.facts)


def wrong_files(installation: Installation, cluster: PgCluster, place: Path) -> list[str]:
    """How a restore of the newest snapshot differs from an independent base backup of now."""
    directories.make_directory(place)
    independent = base_backup(cluster, place / "independent")
    installation.restore(place / "restored")
    return difference(tree(place / "restored"), independent)


def older_than_a_backup(cluster: PgCluster) -> None:
    """Wait until a database that was just made is no longer younger than the next backup's beginning."""
    made = cluster.value("select extract(epoch from max((pg_stat_file('base/' || oid || '/PG_VERSION')).change))"
                         " from pg_database")  # fmt: skip
    wait_until(lambda: cluster.value("select extract(epoch from clock_timestamp())") > made + 3, "it is old enough")


def test_only_what_changed_is_sent(make_cluster: MakeCluster, install: Install, workspace: Path) -> None:
    cluster = make_cluster(15, conf=QUIET)
    cluster.execute(BIG, "vacuum freeze big")
    cluster.create_role("bk", execute=BACKUP_FUNCTIONS)
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql", tcp_user="bk")
    installation.back_up()
    full = facts(installation)["sql"]["received_bytes"]
    # Pages far apart, one in a hundred.
    cluster.execute("update big set g = -g where ctid in (select format('(%s,1)', n)::tid from generate_series(0,"
                    " (select relpages from pg_class where relname = 'big') - 1, 100) n)")  # fmt: skip
    report = installation.back_up(incremental=True)
    assert report.method == BY_LSN
    assert report.reasons == []
    received = facts(installation)["sql"]["received_bytes"]
    assert received < full / 20, (received, full)
    assert report.bytes_given < received
    assert wrong_files(installation, cluster, workspace / "after") == []


def test_a_database_in_a_tablespace_is_known_by_its_place(make_cluster: MakeCluster, install: Install) -> None:
    cluster = make_cluster(16, conf=QUIET)
    cluster.create_tablespace("other")
    cluster.execute("create database inside tablespace other")
    cluster.execute(BIG, "vacuum freeze big", dbname="inside")
    wait_until(
        lambda: (
            cluster.value(
                "select extract(epoch from clock_timestamp() - (pg_stat_file('pg_tblspc/' || oid || '/PG_16_202307071/'"
                " || (select oid from pg_database where datname = 'inside') || '/PG_VERSION')).change)"
                " from pg_tablespace where spcname = 'other'"
            )
            > 3
        ),
        "it is old enough",
    )
    installation = install(cluster, transport="sql")
    full = installation.back_up()
    report = installation.back_up(incremental=True)
    assert report.bytes_received is not None
    assert full.bytes_received is not None
    assert report.bytes_received < full.bytes_received / 50
    cluster.execute("alter database inside set tablespace pg_default", "alter database inside set tablespace other")
    moved = installation.back_up(incremental=True)
    assert moved.bytes_received is not None
    assert moved.bytes_received > full.bytes_received / 3, "its files were made anew, so they are read"


def test_pages_without_a_position_are_sent_once(make_cluster: MakeCluster, install: Install, workspace: Path) -> None:
    """Filled under `wal_level = minimal`, and GiST indexes: LSNs 0 and 1, which are no positions."""
    cluster = make_cluster(15, start=False, conf=QUIET)
    cluster.arguments = ("-c", "wal_level=minimal", "-c", "max_wal_senders=0")
    cluster.start().execute(f"{BIG}; create index on big (t); create index on big (g)")
    cluster.stop()
    cluster.arguments = ()
    cluster.start().execute(
        "create table places as select point(g, g) p from generate_series(1, 30000) g",
        "create index on places using gist (p)",
        "vacuum freeze",
    )
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql")
    installation.back_up()
    full = facts(installation)["sql"]["received_bytes"]
    for place in ("first", "second"):
        assert installation.back_up(incremental=True).method == BY_LSN
        assert facts(installation)["sql"]["received_bytes"] < full / 100
        cluster.execute("update big set g = -g where g between 5 and 25")
        installation.back_up(incremental=True)
        assert facts(installation)["sql"]["received_bytes"] < full / 20
        assert wrong_files(installation, cluster, workspace / place) == []


@pytest.mark.parametrize("believed", [False, True])
def test_another_database_of_the_same_oid_is_read(
    believed: bool, make_cluster: MakeCluster, install: Install, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have the names and the LSNs that the old one's had; only when they were made tells."""
    if believed:  # this is what it guards against: without it, the old pages would be taken for the new
        monkeypatch.setattr(Changes, "_is_same", lambda self, path: True)
    cluster = make_cluster(15, conf=QUIET)
    cluster.execute("create database template")
    cluster.execute(BIG, "vacuum freeze big", "checkpoint", dbname="template")
    replace = "create database named template template strategy file_copy oid 50000"
    cluster.execute(replace)
    cluster.execute(SOME, "vacuum freeze big", "checkpoint", dbname="template")
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql")
    installation.back_up()
    cluster.execute("drop database named", replace)
    report = installation.back_up(incremental=True)
    assert report.method == BY_LSN
    wrong = wrong_files(installation, cluster, workspace / "after")
    assert bool(wrong) is believed, wrong


def test_an_older_copy_of_the_cluster_in_its_place_is_read(
    make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15, conf=QUIET)
    cluster.execute(BIG, "vacuum freeze big")
    cluster.stop()
    copy = cluster.data_directory.parent / "copy"
    shutil.copytree(cluster.data_directory, copy)
    cluster.start()
    cluster.execute(SOME)
    installation = install(cluster, transport="sql")
    stop = lsns.parse(installation.back_up().stop_lsn)
    cluster.stop()
    shutil.rmtree(cluster.data_directory)
    copy.rename(cluster.data_directory)
    give_tree(cluster.data_directory, unprivileged_user())
    cluster.start()
    while lsns.parse(cluster.flush_lsn()) <= stop:
        cluster.execute("create table filling as select g from generate_series(1, 50000) g", "drop table filling")
    report = installation.back_up(incremental=True)
    assert report.method == BY_DIGEST
    assert any("restarted" in reason for reason in report.reasons)
    assert wrong_files(installation, cluster, workspace / "after") == []
    cluster.execute(SOME)
    assert installation.back_up(incremental=True).method == BY_LSN
    assert wrong_files(installation, cluster, workspace / "later") == []


@pytest.mark.parametrize(("hints", "method"), [("off", BY_DIGEST), ("on", BY_LSN)])
def test_changes_that_leave_no_lsn_are_found_without_checksums(
    hints: str, method: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(16, checksums=False, conf={**QUIET, "wal_log_hints": hints})
    cluster.execute(BIG, "create table other as select g from generate_series(1, 30000) g")
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql")
    installation.back_up()
    full = facts(installation)["sql"]["received_bytes"]
    cluster.execute("checkpoint", "select count(*) from big", "vacuum other", SOME)  # hint bits, all-visible
    for place in ("first", "second"):
        report = installation.back_up(incremental=True)
        assert report.method == method
        assert report.kind == "postgres incremental"
        assert wrong_files(installation, cluster, workspace / place) == []
    assert facts(installation)["sql"]["received_bytes"] < full / 50, "nothing changed in between"


def test_a_parent_of_another_transport_is_built_on_by_comparing(
    make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15, conf=QUIET)
    cluster.execute(BIG)
    installation = install(cluster, transport="local")
    full = installation.back_up()
    (source,) = installation.settings.sources
    installation.settings = installation.settings.with_source(dataclasses.replace(source, transport="sql"))
    cluster.execute(SOME)
    report = installation.back_up(incremental=True)
    assert report.kind == "postgres incremental"
    assert any("transport local" in reason for reason in report.reasons)
    assert report.bytes_stored < full.bytes_stored
    assert wrong_files(installation, cluster, workspace / "after") == []
    assert installation.back_up(incremental=True).method == BY_LSN


def test_increments_under_load_are_proven(make_cluster: MakeCluster, install: Install) -> None:
    cluster = make_cluster(18, conf={"autovacuum_naptime": "1s", "checkpoint_timeout": "30s"})
    ledger.furnish(cluster)
    cluster.pgbench_init(5)
    cluster.create_role("bk", execute=BACKUP_FUNCTIONS)
    cluster.execute("grant select on account, posting to bk")
    installation = install(cluster, transport="sql", tcp_user="bk", predicates=ledger.PREDICATES)
    installation.back_up()
    with cluster.pgbench(clients=2):
        for round_ in range(3):
            cluster.execute(
                f"create table t{round_} as select g, md5(g::text) from generate_series(1, 20000) g",
                "delete from pgbench_history where tid % 2 = 0",
                "vacuum (truncate) pgbench_history",
                "reindex table pgbench_tellers",
                "checkpoint",
            )
            report = installation.back_up(incremental=True)
            assert (report.method, report.flagged) == (BY_LSN, False)
            assert report.bytes_given < report.bytes_read
    installation.ship()
    assert installation.verify("L4", SECOND).ok


@pytest.mark.parametrize("believed", [False, True])
def test_a_relation_under_the_number_of_a_dropped_one_is_read(
    believed: bool, make_cluster: MakeCluster, install: Install, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages are logged when they are made, so they are new; but a GiST index has pages with the LSN 1."""
    if believed:
        monkeypatch.setattr(sql_changes, "_BOOTSTRAP_LSN", 1)
    # Numbers come again after four thousand million others, which takes too long here; so the counter is set back,
    # which only a stopped server allows, and the restart is left out of account.
    monkeypatch.setattr(SqlBackup, "same_lifetime", True)
    cluster = make_cluster(15, conf=QUIET)
    cluster.create_tablespace("other")

    def make(factor: int) -> dict[str, str]:
        cluster.execute(
            f"create table made as select point(g * {factor}, g) p from generate_series(1, 30000) g",
            "create index made_p on made using gist (p)",
            "create table moved as select * from made",
            "alter table moved set tablespace other",
            "checkpoint",
        )
        names = ("made", "made_p", "moved")
        return {name: cluster.value("select pg_relation_filepath(%s)", name) for name in names}

    first = make(1)
    number = cluster.value("select 'made'::regclass::oid")
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql")
    installation.back_up()
    cluster.execute("drop table made, moved", "vacuum", "checkpoint")  # a dead row keeps a number taken
    cluster.stop()
    cluster.tool("pg_resetwal", "-o", str(number), cluster.data_directory)
    cluster.start()
    assert make(7) == first, "the files have the old names"
    report = installation.back_up(incremental=True)
    assert report.method == BY_LSN
    place = directories.make_directory(workspace / "after")
    independent = base_backup(cluster, place / "independent")
    spaces = {
        str(oid): str(place / "space") for (oid,) in cluster.rows("select oid from pg_tablespace where oid > 9999")
    }
    installation.restore(place / "restored", tablespace_map=spaces)
    wrong = difference(tree(place / "restored"), independent)
    assert wrong == ([f"differs {first['made_p'].encode()!r}"] if believed else [])


def test_increments_of_a_standby_without_a_slot(make_cluster: MakeCluster, install: Install, workspace: Path) -> None:
    primary = make_cluster(16, conf=QUIET)
    primary.create_role("bk", execute=BACKUP_FUNCTIONS)
    primary.execute(BIG, "create index on big (g)", "vacuum freeze big")

    def caught_up() -> None:
        primary.execute("checkpoint")
        flush = primary.flush_lsn()
        wait_until(lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", flush), "it was replayed")

    with PgCluster.standby_of(primary, primary.data_directory.parent / "standby") as standby:
        standby.passwords = primary.passwords
        standby.start()
        caught_up()
        older_than_a_backup(standby)
        installation = install(standby, transport="sql", tcp_user="bk")
        full = installation.back_up()
        for number in range(2):
            primary.execute(SOME, f"create table t{number} as select g from generate_series(1, 9000) g", "vacuum big")
            caught_up()
            report = installation.back_up(incremental=True)
            assert report.method == BY_LSN
            assert (report.bytes_received or 0) < (full.bytes_received or 0)
            wrong = wrong_files(installation, standby, workspace / f"at{number}")
            assert wrong == ["missing b'standby.signal'"], "a restore is no standby"
        standby.promote()
        assert installation.back_up(incremental=True).kind == "postgres full", "another timeline"


#: What may happen to a database between two backups; ``{n}`` is a number that was not used before.
_DEEDS = (
    "update q set p = point(p[0] + 1, p[1]) where random() < 0.02",
    "delete from q where random() < 0.05",
    "insert into q select point(g, g), md5(g::text) from generate_series(1, 3000) g",
    "reindex index q_p",
    "vacuum full q",
    "vacuum q",
    "select count(*) from q",
    "vacuum (truncate) pgbench_history",
    "create table x{n} as select g, repeat('x', 200) from generate_series(1, 20000) g",
    "create database d{n} strategy file_copy",
    "create database d{n} strategy wal_log",
    "checkpoint",
)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_a_long_chain_under_any_load_ends_at_the_bytes_of_the_server(
    seed: int, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    """Every page that was wrongly taken over would stay wrong: nothing reads it again."""
    rng = random.Random(seed)
    major, checksums = (15, 16, 18)[seed % 3], seed < 3
    conf = {"autovacuum_naptime": "1s", "checkpoint_timeout": "30s", "shared_buffers": "4MB", "wal_log_hints": "on"}
    cluster = make_cluster(major, checksums=checksums, conf=conf)
    cluster.pgbench_init(4)
    cluster.execute(
        "create table q as select point(g, g) p, md5(g::text) t from generate_series(1, 30000) g",
        "create index q_p on q using gist (p)",
        "create index on q (t)",
    )
    older_than_a_backup(cluster)
    installation = install(cluster, transport="sql")
    installation.back_up()
    for round_ in range(4):
        with cluster.pgbench(clients=3):
            for step in range(4):
                cluster.execute(rng.choice(_DEEDS).format(n=10 * round_ + step))
                if step % 2:
                    assert installation.back_up(incremental=True).method == BY_LSN
        cluster.execute("alter system set autovacuum = off", "alter system set bgwriter_lru_maxpages = 0")
        cluster.reload()
        workers = "select count(*) from pg_stat_activity where backend_type like 'autovacuum%'"
        wait_until(lambda: not cluster.value(workers), "autovacuum has ended")  # noqa: B023
        cluster.execute("checkpoint")
        assert installation.back_up(incremental=True).method == BY_LSN
        assert wrong_files(installation, cluster, workspace / f"after{round_}") == []
        cluster.execute("alter system reset autovacuum", "alter system reset bgwriter_lru_maxpages")
        cluster.reload()


@pytest.mark.parametrize("left", [None, 0, 5 << 20, (5 << 20) + 100])
def test_a_file_that_shrinks_or_vanishes_while_it_is_compared(
    left: int | None, quiet: PgCluster, install: Install, workspace: Path
) -> None:
    note = quiet.data_directory / "note"
    note.write_bytes(bytes(range(256)) * (9 << 12))  # 9 MiB
    installation = install(quiet, transport="sql", workers=1)
    installation.back_up()
    done = []

    def shrink(_: object) -> None:
        if not done:
            done.append(1)
            note.unlink() if left is None else os.truncate(note, left)

    quiet.execute("create table if not exists t as select 1")
    report = installation.back_up(incremental=True, on_progress=shrink)
    assert report.kind == "postgres incremental"
    installation.restore(workspace / "restored")
    restored = workspace / "restored" / "note"
    found = restored.read_bytes() if restored.exists() else None
    assert found == (None if left is None else (bytes(range(256)) * (9 << 12))[:left])
    note.unlink(missing_ok=True)
