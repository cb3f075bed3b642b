"""Emptying a directory that may hold anything: links, a million entries, trees deeper than the limit of open files."""

from __future__ import annotations

import errno
import os
import secrets

from mingus_engine.targets.paths import DIRECTORY_FLAGS


def wipe(top: int) -> None:
    """Remove everything below the open directory *top*; links are removed, not followed. Repeatable.

    A folder in a folder is moved to the top before it is emptied: neither recursion nor the number of open descriptors
    grows with the depth. What is mounted below is not touched.

    :raises OSError: something cannot be removed (a mount point, an immutable file).
    """
    while folders := _unlink_files(top):
        for name in folders:
            _remove_folder(top, name)


def _unlink_files(folder: int) -> list[str]:
    """Remove what is no folder; the names of the folders are returned."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders


def _remove_folder(top: int, name: str) -> None:
    folder = _open(top, name)
    try:
        if os.fstat(folder).st_dev != os.fstat(top).st_dev:
            raise OSError(errno.EBUSY, "a file system is mounted below", name)
        os.fchmod(folder, 0o700)  # one that was restored read-only must let go of its entries
        for child in _unlink_files(folder):
            os.close(_open(folder, child))
            os.rename(child, f".wipe-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _open(parent: int, name: str) -> int:
    """Open a folder and make it movable: to give it another parent, its own owner must be able to write it."""
    try:
        folder = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        folder = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    os.fchmod(folder, 0o700)
    return folder
