"""Files without a name (``O_TMPFILE``, open(2)): nothing is left of them when their process dies.

A file becomes visible by one ``linkat``, whole or not at all. NFS and some FUSE file systems have none;
:class:`NotPossible` tells the caller to take a named temporary file instead.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from mingus_engine.store.folders import translated

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
# ENOENT: the file had a name and lost it, or was opened with O_EXCL, or /proc is not mounted.
_NO_LINK = {errno.EXDEV, errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK, errno.ENOSYS}


class NotPossible(Exception):
    """The file system has no unnamed files, or cannot give this one a name there."""


def create(folder: int, mode: int) -> int:
    """Descriptor (read, write) of a new unnamed file on the file system of the folder (a descriptor).

    :raises NotPossible: the file system has none.
    :raises OSError: it cannot be made (full, read-only, denied).
    """
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            raise NotPossible from error
        raise


def link(descriptor: int, leaf: str, folder: int) -> bool:
    """Give the unnamed file the name *leaf* in *folder*; ``False`` when the name is taken.

    :raises NotPossible: this file cannot be linked there (another file system, no links).
    :raises OSError: it could, but failed (full, read-only).
    """
    try:
        # With a dst_dir_fd this is linkat(AT_SYMLINK_FOLLOW), the way open(2) names for O_TMPFILE.
        os.link(f"/proc/self/fd/{descriptor}", leaf, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINK:
            raise NotPossible from error
        raise
    return True


def open_spool(directory: Path) -> BinaryIO:
    """An unnamed file in *directory* that a store on the same file system takes over without copying.

    It vanishes when it is closed. After a successful ``put`` it may *be* the object: it must not be written again.

    :raises StoreError: (or a subclass) it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            path = directory / f".spool-{secrets.token_hex(8)}"
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            path.unlink()
    except OSError as error:
        raise translated(error, "make", str(directory), "a spool file") from error
    return os.fdopen(descriptor, "w+b", buffering=0)
