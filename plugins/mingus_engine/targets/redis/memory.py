"""How much memory a throw-away server may take: a Redis that was restored is all in memory."""

from __future__ import annotations

from pathlib import Path

from mingus_engine.errors import TargetTooSmall

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# What the same data takes in a freshly loaded server besides: fragmentation, buffers, the program.
_MARGIN = 1.1
_MARGIN_BYTES = 32 << 20


def needed_bytes(used_bytes: int) -> int:
    """What a server needs that had *used_bytes* (``used_memory``) in use."""
    return int(used_bytes * _MARGIN) + _MARGIN_BYTES


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """What can be had without pushing others out: of the machine and of the container; ``None`` = nobody says."""
    found = []
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            found.append(int(value.split()[0]) * 1024)
    # Version 2, then 1: the limit, what is used, and what of it is page cache that gives way.
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _number(cgroup / limit), _number(cgroup / used)
        if most is not None and now is not None:
            stat = (cgroup / limit).with_name("memory.stat")
            reclaimable = next((int(v) for k, _, v in (s.partition(" ") for s in _lines(stat)) if k == cache), 0)
            found.append(max(0, most - now + reclaimable))
            break
    return min(found) if found else None


def require(used_bytes: int, available: int | None) -> None:
    """:raises TargetTooSmall: a server with *used_bytes* of data would not fit; both numbers are named."""
    needed = needed_bytes(used_bytes)
    if available is not None and needed > available:
        raise TargetTooSmall(
            f"the restored Redis needs {needed} bytes of memory, {available} are available here",
            hint="run the restore test on a machine with more memory, or at level L3, which starts no server",
        )


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)[:1])
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
