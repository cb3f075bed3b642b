"""Restores into what is there: only what differs is written, an interrupted one goes on, nothing foreign is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mingus_engine.errors import MingusError, TargetError, TargetNotEmpty
from mingus_engine.targets.places import INCOMPLETE
from tests.integration import ledger
from tests.integration.comparing import difference, tree
from tests.integration.conftest import QUIET, Install
from tests.integration.journal import Journal, shown
from tests.support import directories
from tests.support.archiving import drain, keep_wal
from tests.support.installation import Installation, running
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

MakeCluster = Callable[..., PgCluster]


@pytest.fixture
def backed_up(make_cluster: MakeCluster, install: Install) -> tuple[Installation, PgCluster]:
    cluster = make_cluster(15, conf=QUIET, wal_segment_mib=1)
    ledger.furnish(cluster)
    cluster.create_tablespace("other")
    cluster.execute(
        "create table moved tablespace other as select g, repeat(md5(g::text), 20) x from generate_series(1, 4000) g",
        "create table kept as select g, repeat(md5(g::text), 20) x from generate_series(1, 9000) g",
    )
    keep_wal(cluster)
    installation = install(cluster)
    installation.back_up()
    return installation, cluster


def _spaces(cluster: PgCluster, place: Path) -> dict[str, str]:
    return {oid: str(place) for (oid,) in cluster.rows("select oid::text from pg_tablespace where oid >= 16384")}


def test_only_what_differs_is_written_and_the_result_is_the_same(
    backed_up: tuple[Installation, PgCluster], workspace: Path
) -> None:
    installation, cluster = backed_up
    spaces = _spaces(cluster, workspace / "space")
    installation.restore(workspace / "fresh", tablespace_map=_spaces(cluster, workspace / "fresh-space"))
    installation.restore(workspace / "data", tablespace_map=spaces)
    with running(workspace, workspace / "data", cluster) as server:
        server.execute(
            "update posting set amount = amount + 1 where id % 500 = 0",
            "update moved set g = -g where g % 400 = 0",
            "create table foreign_to_it as select 1",
            "drop table kept",
            "vacuum full account",
        )
        server.stop()
    (workspace / "data" / "stray").mkdir()
    (workspace / "data" / "stray" / "file").write_text("x")
    report = installation.restore(workspace / "data", tablespace_map=spaces, delta=True)
    assert report.removed > 3
    assert report.bytes_equal > report.bytes_written
    assert difference(tree(workspace / "data"), tree(workspace / "fresh")) == []
    assert difference(tree(workspace / "space"), tree(workspace / "fresh-space")) == []
    cluster.tool("pg_verifybackup", workspace / "data")
    with running(workspace, workspace / "data", cluster) as server:
        assert ledger.turnover(server) == ledger.turnover(cluster)
        assert server.value("select count(*) from kept") == 9000
        assert server.value("select count(*) from moved where g < 0") == 0


def test_an_interrupted_delta_cannot_be_started_and_goes_on(
    backed_up: tuple[Installation, PgCluster], workspace: Path
) -> None:
    installation, cluster = backed_up
    target, spaces = workspace / "data", _spaces(cluster, workspace / "space")
    installation.restore(target, tablespace_map=spaces)
    for path in target.glob("base/*/*"):
        if path.is_file() and path.stat().st_size > 100_000:
            path.write_bytes(bytes(path.stat().st_size))

    def trouble(progress: object) -> None:
        raise MingusError("the lights went out")

    with pytest.raises(MingusError, match="lights"):
        installation.restore(target, tablespace_map=spaces, delta=True, on_progress=trouble)
    assert (target / os.fsdecode(INCOMPLETE)).exists()
    assert not (target / "global" / "pg_control").exists()
    assert (target / "base").exists()
    with pytest.raises(TargetNotEmpty, match="interrupted"):
        installation.restore(target, tablespace_map=spaces)
    assert installation.restore(target, tablespace_map=spaces, delta=True).bytes_equal > 0
    assert not (target / os.fsdecode(INCOMPLETE)).exists()
    with running(workspace, target, cluster) as server:
        assert ledger.turnover(server) == ledger.turnover(cluster)


def test_two_restores_into_one_directory_do_not_mix(backed_up: tuple[Installation, PgCluster], workspace: Path) -> None:
    installation, cluster = backed_up
    target, spaces = workspace / "data", _spaces(cluster, workspace / "space")
    refusals: list[str] = []

    def join(progress: object) -> None:
        if not refusals:  # two threads may come here at once
            with pytest.raises(TargetError, match="another restore is writing") as refused:
                installation.restore(target, tablespace_map=spaces, delta=True)
            refusals.append(str(refused.value))

    installation.restore(target, tablespace_map=spaces, on_progress=join)
    assert refusals
    installation.restore(target, tablespace_map=spaces, delta=True)
    with running(workspace, target, cluster) as server:
        assert ledger.turnover(server) == ledger.turnover(cluster)


def test_a_delta_goes_to_a_moment_too(backed_up: tuple[Installation, PgCluster], workspace: Path) -> None:
    installation, cluster = backed_up
    journal = Journal()
    journal.prepare(cluster)
    journal.write(cluster, 10)
    drain(installation)
    target, spaces = workspace / "data", _spaces(cluster, workspace / "space")
    for n in (3, 9, 5):
        entry = journal.entries[n - 1]
        report = installation.restore(target, to=f"xid:{entry.xid}", tablespace_map=spaces, delta=True)
        assert n == 3 or report.bytes_equal > report.bytes_written
        with running(workspace, target, cluster) as server:
            wait_until(lambda server=server: not server.value("select pg_is_in_recovery()"), "promoted")
            assert shown(server) == n
            server.stop()


def test_what_is_not_this_cluster_or_in_use_is_left_alone(
    backed_up: tuple[Installation, PgCluster], make_cluster: MakeCluster, workspace: Path
) -> None:
    installation, cluster = backed_up
    spaces = _spaces(cluster, workspace / "space")

    def refused(target: Path, match: str, spaces: dict[str, str] = spaces) -> None:
        before = sorted(target.glob("*"))
        with pytest.raises(TargetError, match=match):
            installation.restore(target, tablespace_map=spaces, delta=True)
        assert sorted(target.glob("*")) == before

    documents = directories.make_directory(workspace / "documents")
    (documents / "letter").write_text("dear")
    refused(documents, "neither empty nor a data directory")
    refused(make_cluster(15, start=False).data_directory, "is of cluster")
    directories.give_tree(documents, None)
    refused(workspace / "data", "is no tablespace: it holds 'letter'", dict.fromkeys(spaces, str(documents)))
    refused(cluster.data_directory, "is in use by process", _spaces(cluster, workspace / "space"))
    # The place of the living cluster's tablespace, under another data directory.
    refused(workspace / "data", "holds a tablespace, but not of", {})
    assert cluster.value("select count(*) from moved") == 4000
