"""Metrics through Airflow's own facade: they go where Airflow's go (StatsD with InfluxDB tags; see docs/AIRFLOW.md).

``<verb>.success`` and ``<verb>.failure`` count, ``<verb>.duration`` times in milliseconds, everything else is a gauge;
the tags are ``system`` (the source's id) and ``kind``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.observability import stats

# Field of a report → name of the gauge.
_GAUGES = {
    "bytes_read": "size_bytes",
    "bytes_stored": "stored_bytes",
    "bytes_put": "put_bytes",
    "wal_bytes": "wal_bytes",
    "lag_bytes": "lag_bytes",
    "ratio": "ratio",
    "rto_s": "rto_seconds",
    "rpo_s": "rpo_seconds",
}


def succeeded(verb: str, report: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Send what *report* says about a finished job."""
    labels = dict(tags)
    stats.incr(f"{verb}.success", tags=labels)
    stats.timing(f"{verb}.duration", 1000 * report.get("duration_s", 0.0), tags=labels)
    for field, name in _GAUGES.items():
        if isinstance(report.get(field), int | float):
            stats.gauge(f"{verb}.{name}", report[field], tags=labels)


def failed(verb: str, tags: Mapping[str, str]) -> None:
    """Count a failed try."""
    stats.incr(f"{verb}.failure", tags=dict(tags))
