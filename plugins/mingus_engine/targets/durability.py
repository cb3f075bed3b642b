"""Making a finished restore survive a power cut: one ``syncfs`` per file system, else an fsync of every file."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterable

from mingus_engine.targets.paths import DIRECTORY_FLAGS

_LIBC = ctypes.CDLL(None, use_errno=True)


def sync_trees(directories: Iterable[int]) -> None:
    """Return when everything below the open *directories* is on stable storage.

    :raises OSError: a write failed, also an earlier one in the background.
    """
    whole = _syncfs_reports_errors()
    done: set[int] = set()
    for directory in directories:
        device = os.fstat(directory).st_dev
        if not whole:
            _fsync_tree(directory)
        elif device not in done:
            done.add(device)
            if _LIBC.syncfs(directory) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))


def _syncfs_reports_errors() -> bool:
    """Before Linux 5.8, syncfs returned success whatever happened to the data (its manual page)."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return (
        platform.system() == "Linux"
        and hasattr(_LIBC, "syncfs")
        and version is not None
        and (int(version[1]), int(version[2])) >= (5, 8)
    )


def _fsync_tree(directory: int) -> None:
    for _, folders, files, here in os.fwalk(".", dir_fd=directory):
        for name in files:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        del folders
        os.fsync(here)
    descriptor = os.open(".", DIRECTORY_FLAGS, dir_fd=directory)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
