"""What counts as healthy: thresholds, objectives, and how long a check may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HealthSettings:
    """Section ``health``.

    :param cpu_percent, memory_percent, disk_percent: of the worker; above, a check fails.
    :param storage_free_percent: of a local repository's file system; below, a check fails.
    :param rpo_s: the newest moment that can be restored may be so old, unless the source says otherwise.
    :param rto_s: a recovery may take so long.
    :param proof_max_age_days: so long ago the newest good verification of a source may be.
    :param certificate_min_days: so long certificates must still be valid.
    :param clock_offset_max_s: by so much clocks of servers and stores may differ from this machine's.
    :param source_timeout_s, repository_timeout_s: what has not answered by then counts as hanging; the rest goes on.
    :param workers: sources and repositories looked at at a time.
    """

    cpu_percent: int | str = "${ALERT_CPU_THRESHOLD:-80}"
    memory_percent: int | str = "${ALERT_MEMORY_THRESHOLD:-85}"
    disk_percent: int | str = "${ALERT_DISK_THRESHOLD:-90}"
    storage_free_percent: int | str = "${ALERT_STORAGE_THRESHOLD:-10}"
    rpo_s: int = 3600
    rto_s: int = 4 * 3600
    proof_max_age_days: int = 8
    certificate_min_days: int = 21
    clock_offset_max_s: int = 60
    source_timeout_s: int = 20
    repository_timeout_s: int = 60
    workers: int = 8


# Key → the least and the most that it may be.
LIMITS = {
    "cpu_percent": (1, 100),
    "memory_percent": (1, 100),
    "disk_percent": (1, 100),
    "storage_free_percent": (0, 99),
    "rpo_s": (1, 366 * 86400),
    "rto_s": (1, 366 * 86400),
    "proof_max_age_days": (1, 3660),
    "certificate_min_days": (0, 3660),
    "clock_offset_max_s": (1, 300),
    "source_timeout_s": (1, 3600),
    "repository_timeout_s": (1, 3600),
    "workers": (1, 64),
}
