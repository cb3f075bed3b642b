"""The directories that a restore into a live place stands on, found so that nobody else's link leads it elsewhere."""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from typing import NamedTuple

from mingus_engine.errors import TargetError
from mingus_engine.targets.paths import DIRECTORY_FLAGS, shown, translated

_LINKS_MAX = 40


class Ground(NamedTuple):
    """An open directory, and what comes before the rest of a path in it. ``path``: where it is, for people."""

    descriptor: int
    prefix: tuple[bytes, ...]
    path: bytes


def stand_on(path: bytes, *, create: bool) -> Ground | None:
    """The place *path*: itself if it is a directory, else the directory that holds it, or shall.

    :param create: make the directories that are missing above it; else ``None`` where they are.
    :raises TargetError: a link of another user is on the way, or it cannot be opened.
    """
    with translated(path):
        try:
            return Ground(open_way(path, create=False), (b".",), path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        above, _, name = path.rpartition(b"/")
        try:
            return Ground(open_way(above, create=create), (name,), path)
        except FileNotFoundError:
            return None


def open_way(path: bytes, *, create: bool) -> int:
    """A descriptor of the directory *path* (absolute). Links on the way are followed where they belong to root or to
    the process's user: another one could lead a restore by root anywhere.

    :param create: make what is missing, 0700. :raises OSError: :raises TargetError: such a link is on the way.
    """
    current = os.open(b"/", DIRECTORY_FLAGS)
    parts, links = deque(path.split(b"/")), 0
    try:
        while parts:
            part = parts.popleft()
            if part in (b"", b"."):
                continue
            try:
                child = os.open(part, DIRECTORY_FLAGS, dir_fd=current)
            except FileNotFoundError:
                if not create:
                    raise
                os.mkdir(part, 0o700, dir_fd=current)
                child = os.open(part, DIRECTORY_FLAGS, dir_fd=current)
            except OSError:
                leads_to = _link(part, current, path)
                links += 1
                if leads_to is None or links > _LINKS_MAX:
                    raise
                parts.extendleft(reversed(leads_to.split(b"/")))
                if not leads_to.startswith(b"/"):
                    continue
                child = os.open(b"/", DIRECTORY_FLAGS)
            os.close(current)
            current = child
        return os.dup(current)
    finally:
        os.close(current)


def lock(descriptor: int, path: bytes) -> None:
    """Let no other restore in as long as *descriptor* is open; where the file system has no locks, nothing does.

    :raises TargetError: another one is at work.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TargetError(
            f"target {shown(path)}: another restore is writing into it", hint="wait for its end"
        ) from None
    except OSError:
        return


def _link(part: bytes, parent: int, path: bytes) -> bytes | None:
    """Where the link *part* leads; ``None``: it is none."""
    status = os.stat(part, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid not in (0, os.geteuid()):
        raise TargetError(
            f"target {shown(path)}: {shown(part)} on its way is a link that belongs to user {status.st_uid}",
            hint="name the directory that is meant, without links",
        )
    return os.readlink(part, dir_fd=parent)
