"""Backups of a server that works: what was committed is there, what was not is not, and no structure is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import ledger, mayhem
from tests.integration.conftest import Install
from tests.integration.trouble import at_first
from tests.support.installation import FIRST, SECOND, running
from tests.support.postgres import PgCluster

pytestmark = pytest.mark.slow
MakeCluster = Callable[..., PgCluster]
INVARIANTS = [*ledger.PREDICATES, {"name": "grown is counted", "sql": mayhem.GROWN_IS_COUNTED}]


def _back_up_under_load(cluster: PgCluster, install: Install, workspace: Path, *, transport: str, seed: int) -> None:
    installation = install(
        cluster,
        transport=transport,
        predicates=INVARIANTS,
        measurements=[{"name": "turnover", "sql": "select count(*) from posting", "tolerance": 10**9}],
    )
    script = workspace / f"transfer-{seed}.sql"
    script.write_text(ledger.TRANSFER)
    chaos = mayhem.Mayhem(cluster, seed, databases=transport == "local")

    def hold_back() -> None:
        chaos.one_more_round()
        chaos.let_go()

    before = cluster.value("select count(*) from posting")
    with cluster.pgbench(clients=2, arguments=["-f", str(script), "--random-seed", str(seed)]), chaos.raging():
        # The backup has read a little and waits, so that the rest of its files is of a later moment.
        report = installation.back_up(on_progress=at_first("back up", hold_back))
        during = cluster.value("select count(*) from posting")
    assert during > before + 20, "there was no load"
    assert not report.flagged, report.checks
    installation.ship()
    proven = installation.verify("L4", SECOND)
    assert proven.ok
    (measured,) = [c for c in proven.checks if c["name"] == "invariant turnover"]
    assert measured["data"]["rule"] == "tolerance"
    assert before < int(measured["data"]["value"]) <= during
    assert installation.verify("L2", FIRST).ok


def _busy_cluster(make_cluster: MakeCluster, major: int, *, large: bool, **options: object) -> PgCluster:
    conf = {"autovacuum_naptime": "1s", "max_wal_size": "64MB", "checkpoint_timeout": "30s", "wal_log_hints": "off"}
    cluster = make_cluster(major, conf=conf, **options)
    ledger.furnish(cluster, postings=2000)
    mayhem.prepare(cluster, large=large)
    return cluster


@pytest.mark.parametrize("transport", ["local", "replication"])
def test_a_backup_of_a_busy_server_is_consistent(
    transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = _busy_cluster(make_cluster, 15, large=True)
    path = cluster.data_directory / cluster.value("select pg_relation_filepath('grown')")
    assert not path.with_name(f"{path.name}.1").exists()
    _back_up_under_load(cluster, install, workspace, transport=transport, seed=1)
    assert path.with_name(f"{path.name}.1").exists(), "the table did not grow over 1 GiB while it was backed up"


@pytest.mark.parametrize(("major", "transport"), [(16, "local"), (18, "replication")])
def test_a_backup_of_a_busy_server_without_page_checksums_is_consistent(
    major: int, transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = _busy_cluster(make_cluster, major, large=False, checksums=False)
    for seed in (2, 3, 4):
        _back_up_under_load(cluster, install, workspace, transport=transport, seed=seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("transport", ["local", "replication"])
@pytest.mark.parametrize("major", [15, 16, 18])
def test_many_backups_of_a_busy_server_are_consistent(
    major: int, transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = _busy_cluster(make_cluster, major, large=True)
    for seed in range(100, 110):
        _back_up_under_load(cluster, install, workspace, transport=transport, seed=seed)


def test_a_restored_busy_server_goes_on_working(make_cluster: MakeCluster, install: Install, workspace: Path) -> None:
    cluster = _busy_cluster(make_cluster, 15, large=False)
    installation = install(cluster)
    chaos = mayhem.Mayhem(cluster, 7)
    with chaos.raging():
        installation.back_up(on_progress=at_first("back up", chaos.one_more_round))
    (oid,) = [row[0] for row in cluster.rows("select oid::text from pg_tablespace where spcname = 'other'")]
    installation.restore(workspace / "restored", tablespace_map={oid: str(workspace / "other")})
    with running(workspace, workspace / "restored", cluster) as server:
        with mayhem.Mayhem(server, 8).raging() as again:
            again.one_more_round()
        assert server.value(mayhem.GROWN_IS_COUNTED)
        ledger.turnover(server)
