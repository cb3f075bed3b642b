"""Metrics through Airflow's own facade: they go where Airflow's go (StatsD with InfluxDB tags; see docs/AIRFLOW.md).

Sent are the names of ``mingus_engine.jobs.health.gauges`` behind ``mingus.``; the exporter's mapping drops the prefix.
Nothing here ever fails a job: what cannot be sent is said in the log, once a process and reason.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow.sdk.observability import stats

from mingus_engine.jobs.health.gauges import METRICS, Gauge

PREFIX = "mingus."
# Field of a backup's report → gauge.
_SIZES = {"bytes_read": "backup_size_bytes", "bytes_stored": "backup_stored_bytes"}
# A verification to these levels restores nothing, so it says nothing about recoveries.
_NOT_RESTORED = frozenset({"L0", "L1", "L2"})
# Neither StatsD nor InfluxDB's tags can quote: what has a meaning there must not come from a label.
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
# UDP has no back-pressure: so many at once fit the exporter's socket buffer (212,992 bytes by default on Linux).
_BURST = 100
_BURST_PAUSE_S = 0.01

_log = logging.getLogger(__name__)
_said: set[str] = set()


def succeeded(family: str, report: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Send what *report* says about a finished try.

    :param family: ``backup``, ``ship`` or ``recovery``. :param labels: ``source``, ``kind``, ``operation``; the
        repository is the report's.
    """
    if family == "recovery" and report.get("level") in _NOT_RESTORED:
        return
    where = {**labels, **({"repository": str(report["repository"])} if report.get("repository") else {})}
    count(f"{family}_success_total", where)
    duration(f"{family}_duration_seconds", report.get("duration_s", 0.0), where)
    if family == "backup":
        for field, name in _SIZES.items():
            if isinstance(report.get(field), int | float):
                gauge(name, report[field], where)
    if bad := _bad_pages(report):
        count("page_checksum_failures_total", where, bad)


def failed(family: str, labels: Mapping[str, str]) -> None:
    """Count a failed try."""
    count(f"{family}_failure_total", labels)


def count(name: str, labels: Mapping[str, str], by: int = 1) -> None:
    """Add *by* to a counter."""
    _send(name, labels, lambda stat, tags: stats.incr(stat, by, tags=tags))


def duration(name: str, seconds: float, labels: Mapping[str, str]) -> None:
    """Observe a duration; StatsD's timers are in milliseconds, the exporter makes seconds of them."""
    _send(name, labels, lambda stat, tags: stats.timing(stat, 1000 * seconds, tags=tags))


def gauge(name: str, value: float, labels: Mapping[str, str]) -> None:
    """Set a gauge."""
    _send(name, labels, lambda stat, tags: stats.gauge(stat, value, tags=tags))


def gauges(values: Iterable[Gauge], *, pause: Callable[[float], object] = time.sleep) -> int:
    """Set many gauges, in bursts that an exporter can take; how many were sent. What the table does not know is not
    sent.
    """
    sent = 0
    for value in values:
        if not value.fits:
            _complain(value.name, f"not a metric of the table: {value}")
            continue
        gauge(value.name, value.value, value.labels)
        sent += 1
        if sent % _BURST == 0:
            pause(_BURST_PAUSE_S)
    return sent


def _send(name: str, labels: Mapping[str, str], deed: Callable[[str, dict[str, str]], object]) -> None:
    tags = {key: _UNSAFE.sub("_", str(value)) for key, value in labels.items() if value != ""}
    try:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name}")
        deed(PREFIX + name, tags)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with a metric, the backup goes on
        _complain(name, f"{type(error).__name__}: {error}")


def _complain(name: str, why: str) -> None:
    if name not in _said:
        _said.add(name)
        _log.warning("the metric %s was not sent: %s", name, why)


def _bad_pages(report: Mapping[str, Any]) -> int:
    """How many bad pages the report's checks name; one, where the server does not say how many."""
    bad = 0
    for check in report.get("checks") or ():
        if check.get("name") == "page checksums" and not check.get("ok"):
            bad += int((check.get("data") or {}).get("bad") or 1)
    return bad
