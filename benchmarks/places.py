"""Where a benchmark runs: in memory when there is room, else on disk, in a directory of its own that goes with it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import directories
from tests.support.processes import is_running

PREFIX = "mingus-bench-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there
_GB = 1_000_000_000
_SPACE_FIXED_BYTES = 1 * _GB
# Left to the programs and to the rest of the machine.
_MEMORY_RESERVE_BYTES = 2 * _GB


class NoRoom(Exception):
    """There is no space for the benchmark."""


@dataclass(frozen=True)
class Place:
    """A directory and what is under it. ``kind``: ``memory (tmpfs)`` or ``disk (ext4)``."""

    directory: Path
    kind: str


@contextmanager
def place(gb: float, space_per_gb: float, chosen: Path | None, *, keep: bool) -> Iterator[Place]:
    """A directory with room for *gb* GB of database, removed in the end.

    :param space_per_gb: bytes needed for each byte of database.
    :param chosen: a directory to use, made if need be; what an earlier run left there is used again.
    :param keep: leave it.
    :raises NoRoom: nowhere is enough space.
    """
    needed = int(gb * space_per_gb * _GB) + _SPACE_FIXED_BYTES
    if chosen is None:
        base = _base(needed)
        _remove_forgotten(base)
        directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    else:
        directory = chosen.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if not any(directory.glob("cluster-*")):
            _require(directory, needed)
    directory.chmod(0o755)
    try:
        yield Place(directory, _kind(directory))
    finally:
        if not keep:
            directories.remove(directory)


def _base(needed: int) -> Path:
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        memory = int(available[1]) * 1024 - _MEMORY_RESERVE_BYTES if available else 0
        if min(memory, shutil.disk_usage(_MEMORY).free) >= needed:
            return _MEMORY
    base = Path(tempfile.gettempdir())
    _require(base, needed)
    return base


def _require(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise NoRoom(
            f"the benchmark needs {needed / _GB:.0f} GB, {directory} has {free / _GB:.0f};"
            " set MINGUS_BENCH_GB or --directory"
        )


def _remove_forgotten(base: Path) -> None:
    """What a ``kill -9`` of an earlier benchmark left."""
    for left in base.glob(f"{PREFIX}*"):
        owner = re.match(rf"{PREFIX}(\d+)-", left.name)
        if owner and not is_running(int(owner[1])):
            directories.remove(left)


def _kind(directory: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount, file_system = line.split()[1:3]
        if directory.is_relative_to(mount) and len(mount) > len(best):
            best, kind = mount, file_system
    return f"memory ({kind})" if kind == "tmpfs" else f"disk ({kind})"
