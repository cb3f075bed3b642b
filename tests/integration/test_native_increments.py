"""Increments that PostgreSQL 17 and later work out themselves: right bytes, and another way when they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mingus_engine.sources.postgres import replication
from mingus_engine.sources.postgres.link import LibpqLink
from tests.integration import ledger
from tests.integration.comparing import base_backup, difference, tree
from tests.integration.conftest import QUIET, Install
from tests.integration.test_rescue import rescue
from tests.support import directories
from tests.support.installation import FIRST, SECOND, SOURCE, running
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

MakeCluster = Callable[..., PgCluster]
NATIVE = "the server's list of changed blocks"
COMPARED = "compared blocks"
SUMMARIES = {**QUIET, "summarize_wal": "on"}


@pytest.fixture
def quiet(make_cluster: MakeCluster) -> PgCluster:
    cluster = make_cluster(18, conf=SUMMARIES)
    ledger.furnish(cluster)
    cluster.execute("vacuum freeze", "checkpoint")
    return cluster


def test_a_synthetic_full_is_what_pg_combinebackup_makes_but_for_the_visibility_maps_that_that_gets_wrong(
    quiet: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(quiet, transport="replication")
    plain = directories.make_directory(workspace / "plain", owner=unprivileged_user())
    options = ("-X", "none", "-c", "fast", "--no-sync", "-d", quiet.dsn())
    installation.back_up()
    quiet.tool("pg_basebackup", "-D", plain / "full", *options)
    quiet.execute("select transfer(g % 100 + 1, g % 90 + 5, g) from generate_series(1, 300) g")
    quiet.execute("create table more as select g from generate_series(1, 20000) g", "truncate posting")

    report = installation.back_up(incremental=True)
    assert (report.method, report.reasons) == (NATIVE, [])
    assert report.bytes_given < report.bytes_read / 4
    quiet.tool("pg_basebackup", "-D", plain / "increment", "-i", plain / "full" / "backup_manifest", *options)
    quiet.tool("pg_combinebackup", plain / "full", plain / "increment", "-o", plain / "combined", "--no-sync")
    independent = base_backup(quiet, workspace / "independent")

    installation.restore(workspace / "restored")
    found = tree(workspace / "restored")
    assert difference(found, independent) == []
    differing = difference(found, tree(plain / "combined"))
    assert all(line.endswith("_vm'") for line in differing), differing
    assert differing, "pg_combinebackup is right now: docs/adr/0005 can be looked at again"
    assert installation.verify("L4", FIRST).ok
    installation.ship()
    read = rescue(installation, "verify", SOURCE, MINGUS_ESCROW_KEY=installation.escrow[SECOND])
    assert "good: " in read.stdout, "the rescue script reads increments too"


def _without_summaries(cluster: PgCluster) -> None:
    cluster.execute("alter system set summarize_wal = off", "select pg_reload_conf()")


def _summaries_lost(cluster: PgCluster) -> None:
    cluster.execute("alter system set summarize_wal = off", "select pg_reload_conf()")
    cluster.execute("select transfer(1, 2, 3)", "select pg_switch_wal()", "select transfer(1, 2, 3)", "checkpoint")
    for path in (cluster.data_directory / "pg_wal" / "summaries").iterdir():
        path.unlink()
    cluster.execute("alter system set summarize_wal = on", "select pg_reload_conf()")


def _restarted(cluster: PgCluster) -> None:
    cluster.stop()
    cluster.start()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [(_without_summaries, "summarize_wal is off"), (_summaries_lost, "summaries"), (_restarted, "was restarted")],
)
def test_blocks_are_compared_when_the_server_cannot_say_what_changed(
    trouble: Callable[[PgCluster], None], said: str, quiet: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(quiet, transport="replication")
    installation.back_up()
    trouble(quiet)
    quiet.execute("select transfer(3, 4, 5)")
    report = installation.back_up(incremental=True)
    assert (report.kind, report.method) == ("postgres incremental", COMPARED)
    assert [reason for reason in report.reasons if said in reason], report.reasons
    assert installation.back_up(incremental=True).depth == 2
    independent = base_backup(quiet, workspace / "independent")
    installation.restore(workspace / "restored")
    assert difference(tree(workspace / "restored"), independent) == []


def test_increments_come_through_libpq_too(
    quiet: PgCluster, install: Install, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do over TLS, which this build of the server does not have."""
    monkeypatch.setattr(replication, "take_over", LibpqLink)
    installation = install(quiet, transport="replication")
    installation.back_up()
    quiet.execute("select transfer(3, 4, 5)")
    assert installation.back_up(incremental=True).method == NATIVE
    installation.restore(workspace / "restored")
    with running(workspace, workspace / "restored", quiet) as server:
        assert ledger.turnover(server) == ledger.turnover(quiet)
