"""Hostile paths: taken apart, and walked so that no link on the way is followed.

A path of a manifest is relative raw bytes. Each part is opened relative to its parent's descriptor with ``O_NOFOLLOW``,
so that a link planted in the target (before or while it is restored) ends in an error, never outside.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mingus_engine.errors import Damaged, TargetError, TargetTooSmall

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def shown(path: bytes | Path | str) -> str:
    """A path for people: printable, in one line, whatever its bytes are."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def split(path: bytes) -> tuple[bytes, ...]:
    """The parts of a manifest's path.

    :raises Damaged: empty, absolute, with ``.``, ``..``, an empty part or a NUL.
    """
    parts = tuple(path.split(b"/"))
    if b"\0" in path or any(part in {b"", b".", b".."} for part in parts):
        raise Damaged(f"path {shown(path)!r} leads out of the target or is malformed")
    return parts


@contextmanager
def open_parent(
    root: int, parts: tuple[bytes, ...], *, create: bool, owner: tuple[int, int] | None = None
) -> Iterator[int]:
    """A descriptor of the directory that holds the last of *parts*, below the directory *root*.

    :param create: make directories that are missing, 0700 and *owner*'s.
    :raises OSError: ``ELOOP`` or ``ENOTDIR`` when a part is a link or no directory.
    """
    current = os.dup(root)
    try:
        for part in parts[:-1]:
            child = _enter(current, part, create=create, owner=owner)
            os.close(current)
            current = child
        yield current
    finally:
        os.close(current)


def _enter(parent: int, part: bytes, *, create: bool, owner: tuple[int, int] | None) -> int:
    try:
        return os.open(part, DIRECTORY_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    made = True
    try:
        os.mkdir(part, 0o700, dir_fd=parent)
    except FileExistsError:  # another worker was faster
        made = False
    child = os.open(part, DIRECTORY_FLAGS, dir_fd=parent)
    if made and owner is not None:
        os.fchown(child, *owner)
    return child


@contextmanager
def translated(path: bytes | Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors that name *path*.

    :raises TargetTooSmall: full, or the quota is used up. :raises TargetError: everything else.
    """
    try:
        yield
    except OSError as error:
        raise refusal(error, path) from None


def refusal(error: OSError, path: bytes | Path) -> TargetError:
    """What :func:`translated` makes of *error*; for what is done so often that a context would be felt."""
    what = f"target {shown(path)}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TargetTooSmall(what, hint="the restore is incomplete; free space and restore again")
    if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EEXIST}:
        return TargetError(
            f"{what}: something that this restore did not make is in the way",
            hint="nobody else may write into a target while it is restored; use an empty directory",
        )
    return TargetError(what)
