"""Chains of increments of a server that works: each holds what was committed, and no structure is damaged."""

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
# Every posting by an index alone, where the visibility map says that the heap need not be looked at; and by the heap.
_SUMS = "select count(*), sum(debit) from posting where debit > 0"
_BY_INDEX = f"set enable_seqscan = off; set enable_bitmapscan = off; {_SUMS}"
_BY_HEAP = f"set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off; {_SUMS}"


def _chain_under_load(
    cluster: PgCluster, install: Install, workspace: Path, *, transport: str, depth: int, seed: int
) -> None:
    """A full and *depth* increments while all goes on; the last one is proven."""
    installation = install(cluster, transport=transport, predicates=INVARIANTS)
    script = workspace / f"transfer-{seed}.sql"
    script.write_text(ledger.TRANSFER)
    chaos = mayhem.Mayhem(cluster, seed, databases=transport == "local")
    methods = []
    with cluster.pgbench(clients=2, arguments=["-f", str(script), "--random-seed", str(seed)]), chaos.raging():
        installation.back_up()
        for _ in range(depth):
            cluster.execute("vacuum account, posting")
            report = installation.back_up(incremental=True, on_progress=at_first("back up", chaos.one_more_round))
            assert report.kind == "postgres incremental", report.reasons
            assert not report.flagged, report.checks
            methods.append(report.method)
    if transport == "replication" and cluster.version.major >= 17:
        assert set(methods) == {"the server's list of changed blocks"}
    installation.ship()
    assert installation.verify("L4", SECOND).ok
    assert installation.verify("L2", FIRST).ok
    spaces = {str(oid): str(workspace / f"{name}-{seed}") for oid, name in cluster.rows(
        "select oid, spcname from pg_tablespace where oid >= 16384")}  # fmt: skip
    target = workspace / f"restored-{seed}"
    installation.restore(target, tablespace_map=spaces)
    with running(workspace, target, cluster) as server:
        assert server.psql(_BY_INDEX) == server.psql(_BY_HEAP)
        ledger.turnover(server)


def _busy(make_cluster: MakeCluster, major: int, *, large: bool = False, checksums: bool = True) -> PgCluster:
    conf = {"autovacuum_naptime": "1s", "max_wal_size": "64MB", "checkpoint_timeout": "30s", "wal_log_hints": "off"}
    conf |= {"summarize_wal": "on"} if major >= 17 else {}
    cluster = make_cluster(major, conf=conf, checksums=checksums)
    ledger.furnish(cluster, postings=2000)
    mayhem.prepare(cluster, large=large)
    return cluster


@pytest.mark.parametrize("busy", [(15, "local", True), (16, "replication", False), (18, "replication", True)])
def test_increments_of_a_busy_server_are_consistent(
    busy: tuple[int, str, bool], make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    major, transport, checksums = busy
    cluster = _busy(make_cluster, major, checksums=checksums)
    _chain_under_load(cluster, install, workspace, transport=transport, depth=2, seed=major)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "busy", [(m, t, c) for m in (15, 16, 18) for t in ("local", "replication") for c in (True, False)]
)
def test_long_chains_of_a_busy_server_with_a_relation_beyond_1_gib_are_consistent(
    busy: tuple[int, str, bool], make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    major, transport, checksums = busy
    cluster = _busy(make_cluster, major, large=True, checksums=checksums)
    for seed in (100, 101):
        _chain_under_load(cluster, install, workspace, transport=transport, depth=10, seed=seed)
