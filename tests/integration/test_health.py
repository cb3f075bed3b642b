"""Health checks and the probe on real servers and repositories, in order and broken."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.health import findings
from mingus_engine.jobs.health.findings import Finding
from mingus_engine.jobs.health.full import health
from mingus_engine.jobs.health.probe import HealthReport, probe
from mingus_engine.settings import Settings, parse
from tests.support.installation import FIRST, SECOND, SOURCE, Installation
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster


@pytest.fixture(scope="module")
def backed_up(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[Installation]:
    """One cluster whose log is archived to two repositories."""
    with (
        PgCluster.create(pg_versions[16], module_directory / "cluster") as cluster,
        Installation.make(module_directory / "i", cluster.start()) as made,
    ):
        made.back_up()
        made.ship()
        made.archive_wal()
        yield made


def gauges(report: HealthReport, name: str, **labels: str) -> list[float]:
    return [g.value for g in report.gauges if g.name == name and labels.items() <= g.labels.items()]


def failed(report: HealthReport) -> dict[str, Finding]:
    return {f"{f.check}@{f.source or f.repository}": f for f in report.findings if f.failed}


def altered(settings: Settings, **values: Any) -> Settings:
    return dataclasses.replace(settings, **values)


def with_limits(settings: Settings, **values: Any) -> Settings:
    return altered(settings, health=dataclasses.replace(settings.health, **values))


def silent_server() -> socket.socket:
    """Takes connections into its backlog and never says anything."""
    return socket.create_server(("127.0.0.1", 0))


def test_a_probe_measures_what_can_be_restored_and_every_gauge_is_of_the_table(backed_up: Installation) -> None:
    report = probe(backed_up.settings, context=JobContext())
    assert [g for g in report.gauges if not g.fits] == []
    for repository in (FIRST, SECOND):
        where = {"source": SOURCE, "repository": repository}
        assert gauges(report, "snapshots", **where) == [1]
        assert 0 <= gauges(report, "recovery_point_age_seconds", **where)[0] < 600
        assert gauges(report, "storage_usage_bytes", **where)[0] > 1_000_000
        assert gauges(report, "dedup_ratio", **where)[0] > 1
        last = "backup_last_success_timestamp_seconds"
        assert len(gauges(report, last, operation="full", **where)) == 1
        # A full one stands in for the increment that was due.
        assert gauges(report, last, operation="incremental", **where) == gauges(report, last, operation="full", **where)
        assert gauges(report, "proof_level", **where) == [-1]
    assert gauges(report, "source_ok", source=SOURCE) == [1]
    assert gauges(report, "slot_lost") == [0]
    assert gauges(report, "slot_retained_bytes")[0] >= 0
    assert 0 <= gauges(report, "wal_archive_lag_bytes")[0] < 64 << 20
    assert gauges(report, "replication_lag_objects", repository=SECOND) == [0]
    assert abs(gauges(report, "clock_offset_seconds")[0]) < 5
    assert gauges(report, "repository_ok") == [1, 1]


def test_what_did_not_change_is_not_opened_again(backed_up: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    from mingus_engine.jobs.health import stored

    first = probe(backed_up.settings, context=JobContext())

    def opened(*_: Any) -> None:
        raise AssertionError("a manifest was opened")

    monkeypatch.setattr(stored, "_facts", opened)
    again = probe(backed_up.settings, context=JobContext())
    assert gauges(again, "snapshots") == gauges(first, "snapshots") == [1, 1]


def test_a_cache_that_is_garbage_is_made_anew(backed_up: Installation) -> None:
    probe(backed_up.settings, context=JobContext())
    files = list((backed_up.settings.state_path / "cache" / "health").rglob("*.json"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(b'{"digest": "x", "facts": [1')
    assert gauges(probe(backed_up.settings, context=JobContext()), "snapshots") == [1, 1]


def test_a_clock_that_was_set_back_makes_no_negative_age(backed_up: Installation) -> None:
    from datetime import UTC, datetime

    report = probe(backed_up.settings, context=JobContext(), now=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    assert gauges(report, "recovery_point_age_seconds") == [0, 0]


def test_a_snapshot_that_was_not_shipped_is_replication_lag(backed_up: Installation) -> None:
    backed_up.back_up()
    report = probe(backed_up.settings, context=JobContext())
    assert gauges(report, "replication_lag_objects", repository=SECOND)[0] >= 2
    assert gauges(report, "replication_lag_bytes", repository=SECOND)[0] > 1000
    backed_up.ship()
    assert gauges(probe(backed_up.settings, context=JobContext()), "replication_lag_objects") == [0]


def test_a_full_check_asks_everything_and_finds_its_marker_in_each_repository(backed_up: Installation) -> None:
    report = health(backed_up.settings, context=JobContext())
    assert {name for name, f in failed(report).items() if f.severity == findings.CRITICAL} - {
        "host-disk-scratch@"
    } == set()
    canaries = [f for f in report.findings if f.check == "wal-canary"]
    assert [(f.repository, f.ok) for f in canaries] == [(FIRST, True), (SECOND, True)]
    escrow = next(f for f in report.findings if f.check == "escrow")
    assert not escrow.known
    assert "mingus keys check" in escrow.detail
    assert [g for g in report.gauges if not g.fits] == []
    assert len(str(report.as_dict())) < 20_000


def test_a_full_check_makes_no_slot_that_nobody_would_read(pg_versions: dict[int, PgVersion], workspace: Path) -> None:
    with (
        PgCluster.create(pg_versions[16], workspace / "cluster") as cluster,
        Installation.make(workspace / "i", cluster.start()) as made,
    ):
        report = health(made.settings, context=JobContext())
        assert failed(report)[f"archiving-slot@{SOURCE}"].severity == findings.WARN
        assert not [f for f in report.findings if f.check == "wal-canary"]
        assert cluster.rows("SELECT slot_name FROM pg_replication_slots") == []


def test_a_source_that_is_down_and_one_that_hangs_do_not_stop_the_others(backed_up: Installation) -> None:
    (real,) = backed_up.settings.sources
    with silent_server() as server:
        connection = {"host": "127.0.0.1", "port": server.getsockname()[1], "connect_timeout_s": 60}
        source = {"id": "hanging", "kind": "redis", "redis": {"connection": connection}}
        hanging = parse(json.dumps({"sources": [source], "repositories": [{"name": "a", "path": "/a"}]})).sources[0]
        down = dataclasses.replace(real, id="down", connection=dataclasses.replace(real.connection, port=1))
        settings = with_limits(altered(backed_up.settings, sources=(real, down, hanging)), source_timeout_s=2)
        report = probe(settings, context=JobContext())
    assert gauges(report, "source_ok", source=SOURCE) == [1]
    assert gauges(report, "source_ok", source="down") == [0]
    assert gauges(report, "source_ok", source="hanging") == [0]
    assert "no answer within 2 s" in failed(report)["connection@hanging"].detail
    assert not report.ok


def test_repositories_that_vanished_or_whose_key_is_wrong_are_critical_and_the_others_are_read(
    backed_up: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = backed_up.settings.repositories
    gone = dataclasses.replace(second, path=str(tmp_path / "not-mounted"))
    report = probe(altered(backed_up.settings, repositories=(first, gone)), context=JobContext())
    assert gauges(report, "repository_ok", repository=FIRST) == [1]
    assert gauges(report, "repository_ok", repository=SECOND) == [0]
    assert gauges(report, "snapshots", repository=FIRST)[0] >= 1
    assert gauges(report, "snapshots", repository=SECOND) == []
    monkeypatch.setenv("WRONG_KEY", "0" * 64)
    wrong = dataclasses.replace(second, keys=dataclasses.replace(second.keys, environment="WRONG_KEY"))
    report = probe(altered(backed_up.settings, repositories=(first, wrong)), context=JobContext())
    assert failed(report)[f"repository@{SECOND}"].severity == findings.CRITICAL


def test_a_disk_that_is_fuller_than_the_threshold_is_told_of(backed_up: Installation) -> None:
    report = probe(with_limits(backed_up.settings, storage_free_percent=99), context=JobContext())
    assert "alarm below 99 %" in failed(report)[f"space@{FIRST}"].detail


def test_a_lost_slot_is_a_gauge_and_critical(backed_up: Installation) -> None:
    cluster = backed_up.cluster
    cluster.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
    try:
        for _ in range(4):
            cluster.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))", "SELECT pg_switch_wal()")
        cluster.execute("CHECKPOINT")
        report = probe(backed_up.settings, context=JobContext())
        assert gauges(report, "slot_lost") == [1]
        assert failed(report)[f"archiving-slot@{SOURCE}"].severity == findings.CRITICAL
    finally:
        cluster.execute("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def test_a_source_that_is_not_in_the_settings_any_more_ends_and_is_no_failure(backed_up: Installation) -> None:
    report = probe(altered(backed_up.settings, sources=()), context=JobContext())
    assert gauges(report, "snapshots") == []
    assert gauges(report, "repository_ok") == [1, 1]


def test_two_probes_at_once_tell_the_same(backed_up: Installation) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: probe(backed_up.settings, context=JobContext()), range(2))
    for name in ("snapshots", "storage_usage_bytes", "recovery_window_start_seconds", "repository_ok"):
        assert gauges(one, name) == gauges(other, name) != []
    assert list((backed_up.settings.state_path / "cache" / "health").rglob("*.tmp")) == []
