"""Small JSON files that several processes write: a reader sees the old or the new one, never half of one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mingus_engine import ulids

# Who holds it longer is stuck; telling twice is better than not at all.
_LOCK_TIMEOUT_S = 5.0


def write(path: Path, document: Any) -> None:
    """Put *document* at *path* in one step. :raises OSError: the folder cannot be written (or is gone)."""
    temporary = path.with_name(f".{path.name}.{ulids.new()}")
    try:
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read(path: Path) -> Any:
    """The document at *path*; ``None``: it is not there, cannot be read, or is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file *path*; gives ``False`` when it could not be had in time, and goes on without."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
