"""Incremental backups: what is stored, that every one restores as a full to the same bytes, and when there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import ledger
from tests.integration.comparing import base_backup, difference, tree
from tests.integration.conftest import QUIET, Install
from tests.support import directories
from tests.support.installation import FIRST, SECOND, Installation, running
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster

pytestmark = pytest.mark.xdist_group("incremental")
MakeCluster = Callable[..., PgCluster]
TRANSPORTS = [
    (15, "local"),
    (15, "replication"),
    (16, "local"),
    (16, "replication"),
    (18, "local"),
    (18, "replication"),
]
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
    "another database": ("create database more", "vacuum freeze"),
    "no other database": ("drop database more", "reindex table posting"),
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
