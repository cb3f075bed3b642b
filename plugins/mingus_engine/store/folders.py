"""Folders of a directory store: walked without following symbolic links, durable once made, errors translated.

Every step is an ``openat`` with ``O_NOFOLLOW`` below the root, so that a link planted in the repository cannot lead a
put, a read or a delete out of it. The root itself may be a link: it is the operator's choice.

Folders are never removed. An empty one costs one ``readdir`` per listing, while removing it would race with a put that
has just made it durable (rename(2), ``Documentation/filesystems/ext4``: only an fsynced parent keeps a new folder).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mingus_engine.errors import (
    Damaged,
    MingusError,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# EFBIG is a limit of the process or file system, for a person the same as a full disk.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
# What network and FUSE file systems answer while their server is away. EIO is not here: after a failed fsync the
# kernel forgets the dirty pages, so that a second fsync of the same file succeeds and proves nothing.
_AWAY = {
    errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EAGAIN, errno.EBUSY,
}  # fmt: skip


def translated(error: OSError, deed: str, location: str, name: str) -> MingusError:
    """The error of the engine's tree for *error*, met while trying to *deed* (``put``) object *name*."""
    text = f"cannot {deed} {name or 'objects'} in {location}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in _FULL:
        return StoreFull(text)
    if error.errno in _DENIED:
        return StoreDenied(text)
    if error.errno in _AWAY:
        return StoreUnreachable(text)
    if error.errno == errno.ENOENT and deed == "get":
        return ObjectMissing(f"object {name} is not in {location}")
    if error.errno == errno.ELOOP:
        return Damaged(f"{name} in {location} is or lies behind a symbolic link, which is never followed")
    return StoreError(text)


class Folders:
    """The folders of one root.

    :param create: make the root when it is missing. Off for every job but ``init``, so that a disk that is not
        mounted reads as an error and never as an empty repository.
    """

    def __init__(self, root: Path, *, create: bool, mode: int) -> None:
        self.root = root
        self._create = create
        self._mode = mode
        self._durable: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, path: str, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder *path* (``""`` = root), each part made and made durable when *make*.

        :raises OSError: it is not there, a part is a link, or it cannot be made.
        :raises StoreError: the root is not there.
        """
        descriptor = self._open_root()
        try:
            walked = ""
            for part in path.split("/") if path else ():
                walked = f"{walked}/{part}" if walked else part
                child = self._step(descriptor, part, walked, make=make)
                os.close(descriptor)
                descriptor = child
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_root(self) -> int:
        try:
            return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not self._create:
                raise StoreError(
                    f"the directory {self.root} does not exist",
                    hint="is its disk mounted? a new repository is made by `mingus init`",
                ) from None
        self._make_root(self.root)
        return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _make_root(self, path: Path) -> None:
        if not path.parent.exists():
            self._make_root(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=self._mode)
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _step(self, parent: int, part: str, walked: str, *, make: bool) -> int:
        try:
            child = _open_child(part, parent)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode=self._mode, dir_fd=parent)
            with self._lock:
                self._durable.discard(walked)
            child = _open_child(part, parent)
        if make and walked not in self._durable:
            # Also when it was there before: another process may have made it and not come to its fsync yet.
            try:
                os.fsync(parent)
            except OSError:
                os.close(child)
                raise
            with self._lock:
                self._durable.add(walked)
        return child


def _open_child(part: str, parent: int) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=parent)
    except NotADirectoryError:
        # O_DIRECTORY hides ELOOP: tell a link from a plain file, which is an object without children.
        if _is_link(part, parent):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


def _is_link(part: str, parent: int) -> bool:
    try:
        os.readlink(part, dir_fd=parent)
    except OSError:
        return False
    return True
