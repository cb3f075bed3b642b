"""What is sent to the exporter, and that nothing there can fail a job."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics import statsd_logger

from mingus_airflow import metrics
from mingus_engine.jobs.health.gauges import Gauge

pytestmark = pytest.mark.airflow

LABELS = {"source": "ledger", "kind": "postgres", "operation": "full"}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A UDP socket that Airflow's own StatsD client sends to."""
    from statsd import StatsClient

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        client = StatsClient("127.0.0.1", server.getsockname()[1], prefix="airflow")
        backend = statsd_logger.SafeStatsdLogger(client, influxdb_tags_enabled=True, statsd_influxdb_enabled=True)
        for name in ("incr", "gauge", "timing"):
            monkeypatch.setattr(metrics.stats, name, getattr(backend, name))
        yield server
        client._sock.close()  # its close() only forgets it


def test_a_backup_arrives_at_the_exporter_under_the_names_of_the_table(received: socket.socket) -> None:
    report = {
        "repository": "primary", "duration_s": 1.5, "bytes_read": 10, "bytes_stored": 4,
        "checks": [{"name": "page checksums", "ok": False, "data": {"bad": 3}}],
    }  # fmt: skip
    metrics.succeeded("backup", report, LABELS)
    tags = "source=ledger,kind=postgres,operation=full,repository=primary"
    assert {received.recv(999).decode() for _ in range(5)} == {
        f"airflow.mingus.backup_success_total,{tags}:1|c",
        f"airflow.mingus.backup_duration_seconds,{tags}:1500.000000|ms",
        f"airflow.mingus.backup_size_bytes,{tags}:10|g",
        f"airflow.mingus.backup_stored_bytes,{tags}:4|g",
        f"airflow.mingus.page_checksum_failures_total,{tags}:3|c",
    }


def test_a_label_cannot_break_out_of_its_tag(received: socket.socket) -> None:
    metrics.count("alert_sent_total", {"channel": "a,b=c:1|g\nother:9|c"})
    assert received.recv(999) == b"airflow.mingus.alert_sent_total,channel=a_b_c_1_g_other_9_c:1|c"


def test_a_verification_that_restored_nothing_is_no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(metrics, "_send", lambda name, labels, deed: sent.append(name))
    metrics.succeeded("recovery", {"level": "L2", "duration_s": 1.0}, LABELS)
    assert sent == []
    metrics.succeeded("recovery", {"level": "L4", "duration_s": 1.0}, LABELS)
    assert sent == ["recovery_success_total", "recovery_duration_seconds"]


def test_an_exporter_that_fails_is_said_once_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(metrics.stats, "incr", broken)
    monkeypatch.setattr(metrics, "_said", set())
    with caplog.at_level(logging.WARNING, logger=metrics.__name__):
        metrics.failed("backup", LABELS)
        metrics.failed("backup", LABELS)
        metrics.count("no_such_metric_total", {})
    assert [record.getMessage() for record in caplog.records] == [
        "the metric backup_failure_total was not sent: OSError: no route to host",
        "the metric no_such_metric_total was not sent: ValueError: unknown metric no_such_metric_total",
    ]


def test_many_gauges_are_sent_in_bursts_and_a_foreign_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    pauses: list[float] = []
    monkeypatch.setattr(metrics.stats, "gauge", lambda name, value, tags: names.append(name))
    ok = Gauge("repository_ok", 1, {"repository": "primary"})
    assert metrics.gauges([ok] * 250 + [Gauge("repository_ko", 1)], pause=pauses.append) == 250
    assert set(names) == {"mingus.repository_ok"}
    assert len(pauses) == 2
