"""Every metric of the product: its name after the exporter, type, labels and meaning. The one place that says so.

What sends them (``mingus_airflow.metrics``), the exporter's mapping, the rules and the dashboards are tested against
this table. Labels are few and bounded: ids of the settings, and small fixed sets; never paths, ULIDs or clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

#: What ``operation`` may be; ``snapshot``: a Redis as a whole.
OPERATIONS = (
    "full", "incremental", "snapshot", "aof", "wal", "ship", "verify", "drill", "restore", "extract",
    "expire", "rekey",
)  # fmt: skip

_SOURCE = ("source", "kind")
_TRY = (*_SOURCE, "operation")
_COPY = (*_SOURCE, "repository")


@dataclass(frozen=True)
class Metric:
    """One metric.

    :param labels: always there. :param optional: there where they apply. :param help: one line, with the unit.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gauge:
    """One value to be sent. *labels* are those that ``METRICS[name]`` names."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether the table has it, with these labels, and the value can be drawn."""
        known = METRICS.get(self.name)
        return (
            known is not None
            and known.type == "gauge"
            and set(known.labels) <= self.labels.keys() <= {*known.labels, *known.optional}
            and math.isfinite(self.value)
        )


def _all() -> Iterator[Metric]:
    for verb, what, where in (
        ("backup", "backing up (full, incremental, log)", "backed up to"),
        ("ship", "shipping to the further repositories", "shipped to"),
        ("recovery", "restoring, extracting, drills and restore tests", "read from"),
    ):
        for outcome, said in (("success", "that succeeded"), ("failure", "that failed")):
            yield Metric(
                f"{verb}_{outcome}_total", "counter", _TRY, f"Tries of {what} {said}; repository: {where}.",
                ("repository",),
            )  # fmt: skip
        yield Metric(
            f"{verb}_duration_seconds", "histogram", _TRY, f"How long a try of {what} took that succeeded, seconds.",
            ("repository",),
        )  # fmt: skip
    # Sent by whoever ran the job.
    yield Metric(
        "page_checksum_failures_total", "counter", _TRY, "Bad pages found by the checksums of the source's pages.",
        ("repository",),
    )  # fmt: skip
    yield Metric("alert_sent_total", "counter", ("channel",), "Alerts that a channel took.")
    yield Metric("alert_failure_total", "counter", ("channel",), "Alerts that a channel did not take.")
    for name, said in (("size", "read by"), ("stored", "stored by")):
        yield Metric(
            f"backup_{name}_bytes", "gauge", _TRY, f"Bytes {said} the newest backup that succeeded.", ("repository",)
        )
    yield from _of_copies()
    yield from _of_sources()
    yield from _of_the_rest()


def _of_copies() -> Iterator[Metric]:
    """What a repository holds of a source."""
    for name, said in (
        ("recovery_point_age_seconds", "Age of the newest moment that can be restored, seconds."),
        ("recovery_window_start_seconds", "First moment of the newest window, Unix time."),
        ("recovery_window_gaps", "Gaps between the windows: stretches of time in which nothing can be restored."),
        ("snapshots", "Snapshots that are there."),
        ("snapshots_flagged", "Snapshots that were flagged while they were made (bad page, shrunken set)."),
        ("proof_age_seconds", "Since the newest restore test (L3, L4) that found a snapshot good, seconds."),
        ("proof_level", "Highest level at which a snapshot was found good: 0 to 4; -1 = never."),
        ("proof_last_ok", "Whether the newest verification found the snapshot good (1) or not (0)."),
        ("storage_usage_bytes", "Bytes stored."),
        ("dedup_ratio", "Bytes that all snapshots restore to, divided by the bytes stored for them."),
        ("replication_lag_bytes", "Bytes that the first repository holds and this one does not yet."),
        ("replication_lag_objects", "Objects that the first repository holds and this one does not yet."),
    ):
        yield Metric(name, "gauge", _COPY, said)
    yield Metric(
        "backup_last_success_timestamp_seconds", "gauge", (*_COPY, "operation"),
        "When the newest backup of this kind was written, Unix time.",
    )  # fmt: skip
    yield Metric("storage_free_bytes", "gauge", ("repository",), "Free space of a local repository, bytes.")
    yield Metric("storage_size_bytes", "gauge", ("repository",), "Size of a local repository's file system, bytes.")
    yield Metric(
        "storage_free_threshold_percent", "gauge", ("repository",),
        "Setting: less free space than this raises the alarm, percent.",
    )  # fmt: skip
    yield Metric("key_epoch_age_seconds", "gauge", ("repository",), "Since the current epoch key was made, seconds.")
    yield Metric(
        "repository_ok", "gauge", ("repository",), "Whether it is reachable and a key opens it (1) or not (0)."
    )
    yield Metric(
        "key_escrow_ok", "gauge", ("repository",), "Whether the escrow slot opens (1) or not (0), where known."
    )


def _of_sources() -> Iterator[Metric]:
    for name, said in (
        ("source_ok", "Whether it answers and lets us in (1) or not (0)."),
        ("recovery_point_target_seconds", "Setting: the newest moment that can be restored may be so old, seconds."),
        ("wal_archive_lag_bytes", "Write-ahead log that the server has and no repository holds, bytes."),
        ("slot_retained_bytes", "Write-ahead log that the archiver's slot keeps on the server, bytes."),
        ("slot_lost", "Whether the archiver's slot lost its log (1): there is a gap."),
        ("redis_aof_rewrite_left_disabled", "Whether a dead backup left rewriting of the append-only file off (1)."),
        ("clock_offset_seconds", "The server's clock minus this machine's, seconds."),
    ):
        yield Metric(name, "gauge", _SOURCE, said)
    yield Metric(
        "backup_due_timestamp_seconds", "gauge", _TRY, "When the schedule last wanted such a backup, Unix time."
    )


def _of_the_rest() -> Iterator[Metric]:
    yield Metric(
        "health_check_ok", "gauge", ("check",), "Whether a check passed (1) or not (0).", ("source", "repository")
    )
    yield Metric(
        "schedule_last_success_timestamp_seconds", "gauge", ("schedule",),
        "End of the newest run of a DAG that succeeded, Unix time.",
    )  # fmt: skip
    yield Metric("host_cpu_percent", "gauge", ("host",), "Processor time in use, percent of all cores.")
    yield Metric("host_memory_percent", "gauge", ("host",), "Memory in use, percent.")
    yield Metric(
        "host_disk_percent", "gauge", ("host", "directory"), "Of the disk of a working directory, percent used."
    )
    for name in ("cpu", "memory", "disk"):
        yield Metric(
            f"host_{name}_threshold_percent", "gauge", ("host",), "Setting: more in use raises the alarm, percent."
        )
    yield Metric(
        "host_network_bytes_per_second", "gauge", ("host", "direction"), "Over all interfaces but the loopback."
    )
    yield Metric("probe_last_success_timestamp_seconds", "gauge", (), "End of the newest whole probe, Unix time.")
    yield Metric("probe_duration_seconds", "gauge", (), "How long the newest whole probe took, seconds.")


METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _all()}
