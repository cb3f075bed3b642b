"""Back up → ship → verify → restore → start, by both transports, of every version and of unusual clusters."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceUnsupported
from mingus_engine.jobs.postgres.restore import restore
from tests.integration import ledger
from tests.integration.comparing import base_backup, difference, tree
from tests.integration.conftest import QUIET, Install
from tests.support import directories
from tests.support.installation import FIRST, SECOND, Installation, running
from tests.support.pg_versions import PgVersion
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import unprivileged_user
from tests.support.s3 import S3Bucket

TRANSPORTS = ("local", "replication", "sql")
WITH_BOOKS: dict[str, Any] = {"predicates": ledger.PREDICATES, "measurements": ledger.MEASUREMENTS}
#: What each version's cluster has of its own.
TRAITS: dict[int, dict[str, Any]] = {
    15: {"wal_segment_mib": 1, "conf": {**QUIET, "max_wal_size": "8MB", "min_wal_size": "2MB"}},
    16: {"checksums": False, "conf": QUIET},
    18: {"wal_segment_mib": 64, "conf": {**QUIET, "max_wal_size": "256MB", "min_wal_size": "128MB"}},
}
MakeBooks = Callable[[int], PgCluster]
MakeCluster = Callable[..., PgCluster]


@pytest.fixture(scope="module")
def make_books(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[MakeBooks]:
    """A ledger on a cluster of a version with its traits, tablespaces and an unlogged table; made at first use."""
    made: dict[int, PgCluster] = {}

    def make(major: int) -> PgCluster:
        if major not in made:
            made[major] = cluster = PgCluster.create(
                pg_versions[major], module_directory / f"v{major}", **TRAITS[major]
            )
            cluster.start()
            ledger.furnish(cluster)
            for name in ("hot", "cold"):
                cluster.create_tablespace(name)
                cluster.execute(
                    f"create table in_{name} tablespace {name} as select g, repeat(md5(g::text), 8) t"
                    " from generate_series(1, 2000) g"
                )
            cluster.execute(
                "create unlogged table gone as select g from generate_series(1, 50000) g",
                "create index on gone (g)",
                "create table large_object as select lo_from_bytea(0, '\\x00ff') as id",
            )
            cluster.execute("vacuum freeze", "checkpoint")
        return made[major]

    yield make
    for cluster in made.values():
        cluster.stop("immediate")


@pytest.fixture(params=sorted(TRAITS), ids=lambda major: f"pg{major}")
def books(request: pytest.FixtureRequest, make_books: MakeBooks) -> PgCluster:
    return make_books(request.param)


def _spaces(cluster: PgCluster, below: Path) -> dict[str, str]:
    rows = cluster.rows("select oid::text, spcname from pg_tablespace where oid >= 16384")
    return {oid: str(below / name) for oid, name in rows}


def _check(report: Any, name: str) -> dict[str, Any]:
    (found,) = [check for check in report.checks if check["name"] == name]
    return found


def _check_l4(report: Any, major: int) -> None:
    """Everything held; amcheck ran, or was said not to be there."""
    assert report.ok
    assert report.level == "L4"
    assert report.rto_s > 0
    amcheck = _check(report, "amcheck")
    if major == 15:
        assert amcheck["ok"]
        assert report.not_available == []
    else:
        assert report.not_available == ["amcheck"]
        assert "not available" in amcheck["detail"]
    assert _check(report, "manifest")["data"]["by"] == "pg_verifybackup"
    assert _check(report, "invariant debits equal credits")["ok"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_full_backup_is_shipped_proven_and_restored_to_the_same_bytes(
    books: PgCluster, transport: str, install: Install, workspace: Path
) -> None:
    major = books.version.major
    installation = install(books, transport=transport, **WITH_BOOKS)
    backup = installation.back_up()
    independent = base_backup(books, workspace / "independent")
    assert not backup.flagged
    assert backup.bytes_read > 20 << 20
    assert backup.kind == "postgres full"
    assert backup.ratio > 2

    shipped = installation.ship()
    assert shipped.snapshots == [backup.snapshot]
    assert installation.ship().snapshots_present == 1

    proven = installation.verify("L4", SECOND)
    _check_l4(proven, major)
    # Nothing was written between the backup's measurement and the restored state.
    assert _check(proven, "invariant turnover")["data"]["rule"] == "exact"

    target = workspace / "restored"
    installation.restore(target, SECOND, tablespace_map=_spaces(books, workspace))
    assert difference(tree(target), independent) == []
    with running(workspace, target, books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)
        assert server.value("select count(*) from gone") == 0
        assert server.value("select count(*) from in_hot") == 2000
        assert server.value("select lo_get(id) from large_object") == b"\x00\xff"
        locations = {row[0] for row in server.rows("select pg_tablespace_location(oid) from pg_tablespace")}
        assert {str(workspace / "hot"), str(workspace / "cold")} <= locations


def test_what_was_shipped_restores_when_the_first_repository_is_gone(
    make_books: MakeBooks, install: Install, workspace: Path
) -> None:
    books = make_books(15)
    installation = install(books)
    installation.back_up()
    installation.ship()
    shutil.rmtree(installation.path(FIRST))
    report = installation.restore(workspace / "restored", SECOND, tablespace_map=_spaces(books, workspace))
    assert report.repository == SECOND
    with running(workspace, workspace / "restored", books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)


def test_a_snapshot_shipped_to_a_bucket_is_proven_from_there(
    make_books: MakeBooks, install: Install, rclone_s3: S3Bucket
) -> None:
    installation = install(make_books(15), repositories={"here": None, "cloud": rclone_s3}, **WITH_BOOKS)
    installation.back_up()
    installation.ship("here", "cloud")
    _check_l4(installation.verify("L4", "cloud"), 15)


def test_a_snapshot_travels_from_bucket_to_bucket_and_home(
    make_books: MakeBooks, install: Install, rclone_s3: S3Bucket, moto_s3: S3Bucket, workspace: Path
) -> None:
    books = make_books(16)
    where = {"rclone": rclone_s3, "moto": moto_s3, "home": None}
    installation = install(books, transport="replication", repositories=where)
    installation.back_up()
    installation.ship("rclone", "moto")
    installation.ship("moto", "home")
    for repository in where:
        assert installation.verify("L1", repository).ok
    installation.restore(workspace / "restored", "home", tablespace_map=_spaces(books, workspace))
    with running(workspace, workspace / "restored", books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_role_with_only_the_needed_rights_can_back_up(
    transport: str, make_books: MakeBooks, install: Install
) -> None:
    books = make_books(15)
    role = f"mingus_{transport}"
    functions = {"local": BACKUP_FUNCTIONS[:2], "replication": (), "sql": BACKUP_FUNCTIONS}[transport]
    options, groups = ("", []) if transport == "sql" else ("REPLICATION", ["pg_read_all_settings"])
    books.create_role(role, options=options, member_of=groups, execute=functions)
    books.execute(f"grant select on account, posting to {role}")
    installation = install(books, transport=transport, tcp_user=role, **WITH_BOOKS)
    report = installation.back_up()
    assert not report.flagged
    _check_l4(installation.verify("L4"), 15)
    assert not books.value("select rolsuper from pg_roles where rolname = %s", role)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_superuser_of_another_name_and_configuration_elsewhere_are_no_obstacle(
    transport: str, pg_versions: dict[int, PgVersion], install: Install, workspace: Path
) -> None:
    elsewhere = directories.make_directory(workspace / "etc", owner=unprivileged_user())
    with PgCluster.create(pg_versions[16], workspace / "c", conf=QUIET) as cluster:
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(cluster.data_directory / name, elsewhere / name)
        with (elsewhere / "postgresql.conf").open("a") as out:
            out.write(f"hba_file = '{elsewhere}/pg_hba.conf'\nident_file = '{elsewhere}/pg_ident.conf'\n")
            out.write("include_if_exists = 'extra.conf'\n")
        (elsewhere / "extra.conf").write_text("work_mem = '5MB'\n")
        directories.give_tree(elsewhere, unprivileged_user())
        cluster.arguments = ("-c", f"config_file={elsewhere}/postgresql.conf")
        cluster.start()
        ledger.furnish(cluster)
        cluster.execute("create role helper superuser login")
        with cluster.connect(user="helper") as connection:
            connection.execute("alter role postgres rename to boss")
            connection.execute("create role postgres login")  # a role of that name that may do nothing
        installation = install(cluster, transport=transport, connection={"user": "boss"}, **WITH_BOOKS)
        backup = installation.back_up()
        assert not backup.flagged
        _check_l4(installation.verify("L4"), 16)
        target = workspace / "restored"
        installation.restore(target)
        kept = Path(f"{target}.mingus-config{elsewhere}")
        assert sorted(path.name for path in kept.iterdir()) == [
            "extra.conf",
            "pg_hba.conf",
            "pg_ident.conf",
            "postgresql.conf",
        ]
        for path in kept.iterdir():
            assert path.read_bytes() == (elsewhere / path.name).read_bytes()
        arguments = ("-c", f"config_file={kept}/postgresql.conf")
        with running(workspace, target, cluster, arguments=arguments) as server:
            assert ledger.turnover(server, user="boss") == ledger.turnover(cluster, user="boss")


@pytest.mark.parametrize(("major", "transport"), [(15, "local"), (15, "sql"), (18, "local"), (18, "replication")])
def test_an_in_place_tablespace_and_a_database_without_connections_are_backed_up(
    major: int, transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = _with_in_place_tablespace(make_cluster, major)
    installation = install(cluster, transport=transport)
    installation.back_up()
    independent = base_backup(cluster, workspace / "independent")
    target = workspace / "restored"
    installation.restore(target)
    assert difference(tree(target), independent) == []
    with running(workspace, target, cluster) as server:
        assert server.value("select one from kept") == 1


def test_a_tablespace_that_the_server_would_leave_out_is_refused(make_cluster: MakeCluster, install: Install) -> None:
    cluster = _with_in_place_tablespace(make_cluster, 15)
    installation = install(cluster, transport="replication")
    with pytest.raises(SourceUnsupported, match="in-place tablespace inside"):
        installation.back_up()
    assert installation.snapshots() == []


def _with_in_place_tablespace(make_cluster: MakeCluster, major: int) -> PgCluster:
    cluster = make_cluster(major, conf={**QUIET, "allow_in_place_tablespaces": "on"})
    cluster.execute(
        "create tablespace inside location ''",
        "create table kept tablespace inside as select 1 as one",
        "create database closed",
        "alter database closed allow_connections false",
    )
    return cluster


def test_a_second_backup_restores_by_itself(make_books: MakeBooks, install: Install, workspace: Path) -> None:
    books = make_books(15)
    installation = install(books)
    older = installation.back_up()
    was = ledger.turnover(books)
    books.execute("select transfer(1, 2, 5)")
    newer = installation.back_up()
    assert installation.snapshots() == sorted([older.snapshot, newer.snapshot])
    for name, snapshot, expected in (("old", older, was), ("new", newer, ledger.turnover(books))):
        place = directories.make_directory(workspace / name)
        installation.restore(place / "data", snapshot=snapshot.snapshot, tablespace_map=_spaces(books, place))
        with running(place, place / "data", books) as server:
            assert ledger.turnover(server) == expected


def test_a_plan_says_where_everything_goes_and_writes_nothing(
    make_books: MakeBooks, install: Install, workspace: Path
) -> None:
    books = make_books(15)
    installation: Installation = install(books)
    installation.back_up()
    spaces = _spaces(books, workspace)
    report = restore(
        installation.settings, "ledger", directory=workspace / "target", tablespace_map=spaces, dry_run=True,
        context=installation.context(),
    )  # fmt: skip
    assert report.plan["tablespaces"] == spaces
    assert set(report.plan["needed"]) == {str(workspace / "target"), *spaces.values()}
    assert not (workspace / "target").exists()
    assert not any(Path(path).exists() for path in spaces.values())


def test_a_restored_cluster_can_be_backed_up_and_restored_again(
    make_books: MakeBooks, install: Install, workspace: Path
) -> None:
    books = make_books(18)
    installation = install(books, transport="replication")
    installation.back_up()
    once = directories.make_directory(workspace / "once")
    installation.restore(once / "data", tablespace_map=_spaces(books, once))
    with running(once, once / "data", books) as server:
        again = install(server, transport="replication")
        again.back_up()
        twice = directories.make_directory(workspace / "twice")
        again.restore(twice / "data", tablespace_map=_spaces(books, twice))
        with running(twice, twice / "data", books) as copy:
            assert ledger.turnover(copy) == ledger.turnover(books)
