"""Incremental backups: what is stored, that every one restores as a full to the same bytes, and when there is none."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mingus_engine.errors import StoreDenied, VerificationFailed
from mingus_engine.repository import records
from mingus_engine.settings import Settings
from mingus_engine.store.faulty import Fault
from tests.integration import ledger
from tests.integration.comparing import base_backup, difference, tree
from tests.integration.conftest import QUIET, Install
from tests.support import directories
from tests.support.installation import FIRST, SECOND, Installation, running
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster

MakeCluster = Callable[..., PgCluster]
TRANSPORTS = [
    (15, "local"),
    (15, "sql"),
    (16, "replication"),
    (18, "replication"),
    (18, "sql"),
    *(pytest.param(major, transport, marks=pytest.mark.soak) for major, transport in (
        (15, "replication"), (16, "local"), (16, "sql"), (18, "local"))),
]  # fmt: skip
#: One deed a backup: what has broken increments of other systems (TRAPS 11).
DEEDS: dict[str, tuple[str, ...]] = {
    "transfers": ("select transfer(g % 100 + 1, g % 90 + 5, g) from generate_series(1, 300) g",),
    "nothing": (),
    "truncated and filled again": (
        "truncate refilled",
        "insert into refilled select g, md5(g::text) from generate_series(1, 9000) g",
    ),
    "rewritten": ("vacuum full posting", "cluster account using account_pkey"),
    "dropped and made again": (
        "drop table passing",
        "create table passing as select g, md5(g::text) t from generate_series(1, 3000) g",
    ),
    "shrunk": ("delete from shrinking where g > 400", "vacuum (truncate) shrinking"),
    "grown again": ("insert into shrinking select g, repeat('r', 500) from generate_series(401, 7000) g",),
    "moved to another tablespace": ("alter table moving set tablespace other",),
    "moved back": ("alter table moving set tablespace pg_default", "update moving set t = 'back' where g % 100 = 0"),
    "another database": (
        "drop database if exists more",
        "create database more strategy file_copy",
        "vacuum freeze",
    ),
    "another one of that name": ("drop database more", "create database more", "reindex table posting"),
}


def furnish(cluster: PgCluster) -> PgCluster:
    ledger.furnish(cluster)
    cluster.create_tablespace("other")
    cluster.execute(
        "create table refilled (g int, t text)",
        "create table passing (g int, t text)",
        "create table shrinking as select g, repeat('s', 500) t from generate_series(1, 7000) g",
        "create index on shrinking (g)",
        "create table moving as select g, md5(g::text) t from generate_series(1, 6000) g",
        "create table still as select g, md5(g::text) t from generate_series(1, 60000) g",
        "create unlogged table gone as select g from generate_series(1, 5000) g",
        "vacuum freeze",
        "checkpoint",
    )
    return cluster


def conf(major: int) -> dict[str, str]:
    return {**QUIET, **({"summarize_wal": "on"} if major >= 17 else {})}


@pytest.fixture(scope="module")
def quiet(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[Callable[[int], PgCluster]]:
    """A quiet cluster of a version, made at first use."""
    made: dict[int, PgCluster] = {}

    def make(major: int) -> PgCluster:
        if major not in made:
            made[major] = PgCluster.create(pg_versions[major], module_directory / f"v{major}", conf=conf(major))
            furnish(made[major].start())
        return made[major]

    yield make
    for cluster in made.values():
        cluster.stop()


def spaces(cluster: PgCluster, place: Path) -> dict[str, str]:
    rows = cluster.rows("select oid::text, spcname from pg_tablespace where oid >= 16384")
    return {oid: str(place / name) for oid, name in rows}


def assert_same_bytes(installation: Installation, cluster: PgCluster, place: Path, repository: str = FIRST) -> None:
    """The newest snapshot restores to what an independent base backup copies now."""
    directories.make_directory(place)
    independent = base_backup(cluster, place / "independent")
    target = place / "restored"
    installation.restore(target, repository, tablespace_map=spaces(cluster, place))
    assert difference(tree(target), independent) == []


@pytest.mark.parametrize(("major", "transport"), TRANSPORTS)
def test_each_of_ten_increments_restores_to_the_bytes_of_an_independent_backup(
    major: int, transport: str, quiet: Callable[[int], PgCluster], install: Install, workspace: Path
) -> None:
    cluster = quiet(major)
    installation = install(cluster, transport=transport)
    full = installation.back_up()
    for depth, (deed, statements) in enumerate(DEEDS.items(), start=1):
        cluster.execute(*statements)
        report = installation.back_up(incremental=True)
        assert (report.kind, report.depth) == ("postgres incremental", depth), report.reasons
        assert report.bytes_stored < full.bytes_stored / 2, deed
        if depth in {1, 6, 7} or depth == len(DEEDS):
            assert_same_bytes(installation, cluster, workspace / f"at{depth}")
    assert installation.ship().snapshots_present == 0
    assert installation.verify("L4", SECOND).ok
    with running(workspace, workspace / f"at{len(DEEDS)}" / "restored", cluster) as server:
        assert ledger.turnover(server) == ledger.turnover(cluster)


def test_without_a_snapshot_a_full_is_taken_and_says_so(books: PgCluster, install: Install) -> None:
    installation = install(books)
    report = installation.back_up(incremental=True)
    assert (report.kind, report.parent, report.depth) == ("postgres full", None, 0)
    assert report.reasons == ["there is no snapshot to build on"]
    assert "fresh full: there is no snapshot to build on" in installation.messages


def test_a_full_builds_on_nothing(books: PgCluster, install: Install) -> None:
    installation = install(books)
    installation.back_up()
    report = installation.back_up()
    assert (report.kind, report.reasons, report.bytes_reused) == ("postgres full", [], 0)


def test_a_promotion_asks_for_a_fresh_full(make_cluster: MakeCluster, install: Install, workspace: Path) -> None:
    primary = make_cluster(15)
    with PgCluster.standby_of(primary, workspace / "standby") as standby:
        standby.start()
        installation = install(standby, transport="replication")
        installation.back_up()
        assert installation.back_up(incremental=True).depth == 1
        standby.value("select pg_promote()")
        report = installation.back_up(incremental=True)
        assert (report.kind, report.reasons) == ("postgres full", ["timeline 1 became 2"])
        assert installation.back_up(incremental=True).depth == 1


def test_a_server_that_was_put_back_in_time_gets_a_fresh_full(
    make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15)
    ledger.furnish(cluster, postings=100)
    installation = install(cluster)
    old = installation.back_up()
    cluster.execute("select transfer(1, 2, 3)", "select pg_switch_wal()", "select transfer(1, 2, 4)")
    newer = installation.back_up(incremental=True)
    installation.restore(workspace / "restored", snapshot=old.snapshot)
    with running(workspace, workspace / "restored", cluster) as server:
        connection = {"host": str(server.socket_directory), "port": server.port}
        again = install(
            server, connection=connection, repositories={FIRST: installation.path(FIRST)}, initialised=False
        )
        again.settings = replaced_keys(again, installation)
        report = again.back_up(incremental=True)
    assert report.kind == "postgres full"
    assert f"before the end of {newer.snapshot}: it was restored" in report.reasons[-1]


def replaced_keys(one: Installation, other: Installation) -> Settings:
    """The settings of *one* with the repositories of *other*."""
    return dataclasses.replace(one.settings, repositories=other.settings.repositories)


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_damage_in_a_parents_pack_is_found_in_the_child_and_not_built_on_again(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    full = installation.back_up()
    (pack,) = [p for p in installation.files(below=f"packs/ledger/{full.run}") if p.stat().st_size > 10**6]
    flip(pack, 500_000)
    child = installation.back_up(incremental=True)
    assert child.parent == full.snapshot
    with pytest.raises(VerificationFailed, match="L1 stored SHA-256"):
        installation.verify("L1")
    report = installation.back_up(incremental=True)
    assert report.kind == "postgres full"
    assert report.reasons == [
        f"not on {child.snapshot}: its newest proof (L1) failed",
        f"no pack of {full.snapshot} may be built on: verification of a snapshot that holds it failed",
    ]
    assert installation.verify("L2").ok
    installation.restore(workspace / "restored")
    with running(workspace, workspace / "restored", books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)


def test_a_parent_that_lacks_a_pack_is_not_one(books: PgCluster, install: Install) -> None:
    installation = install(books)
    full = installation.back_up()
    books.execute("select transfer(1, 2, 3)")
    child = installation.back_up(incremental=True)
    for path in installation.files(below=f"packs/ledger/{child.run}"):
        path.unlink()
    report = installation.back_up(incremental=True)
    assert (report.parent, report.depth) == (full.snapshot, 1)
    assert f"not on {child.snapshot}: packs/ledger/{child.run}/" in report.reasons[0]
    assert installation.verify("L2").ok


def test_a_parent_that_proves_damaged_on_the_way_is_left_aside(books: PgCluster, install: Install) -> None:
    installation = install(books)
    full = installation.back_up()
    books.execute("select transfer(1, 2, 3)")
    child = installation.back_up(incremental=True)
    (trees,) = [
        path
        for path in installation.files(below=f"packs/ledger/{child.run}")
        if path.stat().st_size == min(p.stat().st_size for p in installation.files(below=f"packs/ledger/{child.run}"))
    ]
    flip(trees, trees.stat().st_size // 2)
    report = installation.back_up(incremental=True)
    assert report.parent == full.snapshot
    assert report.reasons == [f"not on {child.snapshot}: it proved damaged"]
    assert installation.verify("L2").ok


def test_what_is_shipped_of_an_increment_is_what_is_missing_and_restores_alone(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    installation.back_up()
    first = installation.ship()
    books.execute("select transfer(g, g + 1, g) from generate_series(1, 50) g")
    child = installation.back_up(incremental=True)
    second = installation.ship()
    assert second.bytes_put < first.bytes_put / 4
    assert installation.verify("L1", SECOND).ok
    shutil.rmtree(installation.path(FIRST))
    installation.restore(workspace / "restored", SECOND, snapshot=child.snapshot)
    with running(workspace, workspace / "restored", books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)


def test_an_increment_builds_on_what_was_shipped_here(books: PgCluster, install: Install) -> None:
    """The first repository is down, the next one takes over: its packs were put there by other runs."""
    installation = install(books)
    full = installation.back_up()
    installation.ship()
    installation.path(FIRST).rename(installation.path(FIRST).with_name("away"))
    report = installation.back_up(incremental=True)
    assert (report.repository, report.parent) == (SECOND, full.snapshot)
    assert report.bytes_stored < full.bytes_stored / 4
    assert installation.verify("L2", SECOND).ok


def test_an_increment_that_was_killed_is_resumed(books: PgCluster, install: Install, workspace: Path) -> None:
    installation = install(books)
    installation.back_up()
    books.execute("create table big_change as select g, md5(g::text) t from generate_series(1, 100000) g")
    fault = Fault("put", "raise", name="snapshots/*", error=lambda: StoreDenied("the process dies here"))
    with installation.faults(fault), pytest.raises(StoreDenied):
        installation.back_up(incremental=True)
    report = installation.back_up(incremental=True)
    assert report.kind == "postgres incremental"
    assert report.bytes_stored < 1_000_000, "what the dead run stored is used"
    assert installation.verify("L4").ok
    books.execute("drop table big_change")


def test_two_increments_at_once_both_restore(books: PgCluster, install: Install, workspace: Path) -> None:
    installation = install(books)
    installation.back_up()
    books.execute("select transfer(1, 2, 3)")
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: installation.back_up(incremental=True), range(2)))
    for report in reports:
        assert report.kind == "postgres incremental"
        assert installation.verify("L2", FIRST, report.snapshot).ok
    assert installation.back_up(incremental=True).parent in {r.snapshot for r in reports}


def test_log_that_was_declared_lost_asks_for_a_fresh_full(books: PgCluster, install: Install) -> None:
    installation = install(books)
    full = installation.back_up()
    gap = {"event": "wal gap", "timeline": full.timeline, "from": full.stop_lsn, "to": "FF/0"}
    with installation.opened() as repository:
        repository.put_record(records.AUDIT, "ledger", {"event": "wal gap", "of": "another version"}, {})
        repository.put_record(records.AUDIT, "ledger", gap, {"why": "the slot was lost"})
    report = installation.back_up(incremental=True)
    assert report.kind == "postgres full"
    assert report.reasons == [f"WAL from {full.stop_lsn} to FF/0 was lost since {full.snapshot}"]


def test_a_pack_that_an_open_plan_names_is_not_built_on(books: PgCluster, install: Install) -> None:
    installation = install(books)
    full = installation.back_up()
    packs = [str(p.relative_to(installation.path())) for p in installation.files(below=f"packs/ledger/{full.run}")]
    with installation.opened() as repository:
        repository.put_record(records.PLAN, "ledger", {"names": packs, "manifests": []}, {})
    report = installation.back_up(incremental=True)
    assert report.kind == "postgres full"
    assert report.reasons == [f"no pack of {full.snapshot} may be built on: an open plan names it"]
    for name in packs:
        (installation.path() / name).unlink()
    assert installation.verify("L2").ok
