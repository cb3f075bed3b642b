"""The worker itself: processor, memory, the disks of the working directories, network."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from mingus_engine.jobs.health.findings import CRITICAL, WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.settings import Settings

# Shorter, and one busy process is taken for a busy machine.
_INTERVAL_S = 1.0


def look(settings: Settings, *, interval_s: float = _INTERVAL_S) -> tuple[list[Finding], list[Gauge]]:
    """What is in use now, over *interval_s*."""
    host = {"host": socket.gethostname()}
    before, at = _traffic(), time.monotonic()
    cpu = psutil.cpu_percent(interval=interval_s)
    took = max(time.monotonic() - at, 1e-3)
    after = _traffic()
    memory = psutil.virtual_memory().percent
    limits = settings.health
    found = [
        _finding("host-cpu", "processor", cpu, int(limits.cpu_percent), WARN),
        _finding("host-memory", "memory", memory, int(limits.memory_percent), WARN),
    ]
    gauges = [Gauge("host_cpu_percent", cpu, host), Gauge("host_memory_percent", memory, host)]
    # The rules compare with these: the settings are the one place that says them.
    gauges += [
        Gauge(f"host_{name}_threshold_percent", float(getattr(limits, f"{name}_percent")), host)
        for name in ("cpu", "memory", "disk")
    ]
    for name, used in _disks(settings):
        found.append(_finding(f"host-disk-{name}", f"disk of {name}", used, int(limits.disk_percent), CRITICAL))
        gauges.append(Gauge("host_disk_percent", used, {**host, "directory": name}))
    for direction, old, new in zip(("received", "sent"), before, after, strict=True):
        # A counter that was reset, or an interface that went away, is no negative rate.
        gauges.append(
            Gauge("host_network_bytes_per_second", max(0.0, new - old) / took, {**host, "direction": direction})
        )
    return found, gauges


def _finding(check: str, what: str, used: float, limit: int, severity: str) -> Finding:
    return Finding(
        check, used <= limit, f"{what}: {used:.0f} % in use, alarm above {limit} %", severity=severity,
        hint="give the worker more, or run less at a time (pools)" if severity == WARN else "free space on that disk",
    )  # fmt: skip


def _disks(settings: Settings) -> Iterator[tuple[str, float]]:
    scratch = next((settings.scratch_path(source) for source in settings.sources), settings.state_path / "scratch")
    for name, path in (("state", settings.state_path), ("scratch", scratch), ("spool", settings.spool_path)):
        there = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
        yield name, float(psutil.disk_usage(str(there)).percent)


def _traffic() -> tuple[int, int]:
    """Bytes received and sent by all interfaces but the loopback."""
    counters = [c for name, c in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    return sum(c.bytes_recv for c in counters), sum(c.bytes_sent for c in counters)
