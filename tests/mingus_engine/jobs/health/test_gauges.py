"""The table of metrics."""

from __future__ import annotations

import re

import pytest

from mingus_engine.jobs.health.gauges import METRICS, Gauge

# Labels whose values come from the settings or from a small fixed set; any other might grow without bound.
BOUNDED = {
    "source",
    "kind",
    "repository",
    "operation",
    "channel",
    "check",
    "schedule",
    "host",
    "directory",
    "direction",
}


def test_every_metric_has_a_name_labels_and_a_help_that_prometheus_takes() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert {*metric.labels, *metric.optional} <= BOUNDED
        assert metric.help.endswith(".")
        assert name.endswith("_total") == (metric.type == "counter")


@pytest.mark.parametrize(
    ("gauge", "fits"),
    [
        (Gauge("snapshots", 3, {"source": "a", "kind": "redis", "repository": "b"}), True),
        (Gauge("snapshots", 3, {"source": "a", "kind": "redis"}), False),
        (Gauge("health_check_ok", 1, {"check": "store", "repository": "b"}), True),
        (Gauge("health_check_ok", 1, {"check": "store", "path": "/srv"}), False),
        (Gauge("snapshot", 3, {}), False),
        (Gauge("backup_success_total", 3, {"source": "a", "kind": "redis", "operation": "full"}), False),
        (Gauge("probe_duration_seconds", float("nan"), {}), False),
    ],
)
def test_what_the_table_does_not_know_does_not_fit(gauge: Gauge, fits: bool) -> None:
    assert gauge.fits == fits
