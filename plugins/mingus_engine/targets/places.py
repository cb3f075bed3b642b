"""The directories a restore goes to: looked at before anything is written, taken, and given back as they were."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mingus_engine.errors import TargetError, TargetNotEmpty, TargetTooSmall
from mingus_engine.programs.accounts import Account
from mingus_engine.targets.paths import DIRECTORY_FLAGS, shown, translated
from mingus_engine.targets.wipe import wipe

# In the root of every restore from its first moment until its last: for people and for the next restore.
INCOMPLETE = b".mingus-restore-incomplete"


def inspect(path: Path, owner: tuple[int, int] | None, *, empty: bool = True) -> None:
    """Refuse a directory that a restore must not go to; writes nothing. One that does not exist is fine.

    :param empty: it must not hold anything.
    :raises TargetNotEmpty: it holds something. :raises TargetError: a link, a file, someone else's, not writable.
    """
    with translated(path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            _require_writable(_existing_parent(path), path)
            return
        if not stat.S_ISDIR(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a directory"
            raise TargetError(f"target {shown(path)} is {kind}", hint="name the directory itself")
        allowed = {os.geteuid()} | ({owner[0]} if owner else set())
        if status.st_uid not in allowed:
            expected = " or ".join(map(str, sorted(allowed)))
            raise TargetError(
                f"target {shown(path)} belongs to user {status.st_uid}, not to {expected}",
                hint="give the directory to the user who shall own the restored files",
            )
        _require_writable(path, path)
        with os.scandir(path) as entries:
            found = next(entries, None)
    if found is None or not empty:
        return
    if (path / os.fsdecode(INCOMPLETE)).exists():
        raise TargetNotEmpty(
            f"target {shown(path)} holds a restore that was interrupted, or one that is running",
            hint="if none is running, remove the directory's content; choose another directory otherwise",
        )
    raise TargetNotEmpty(f"target {shown(path)} is not empty: it holds {shown(found.name)!r}")


def require_space(needed: Mapping[Path, int], needed_files: int) -> None:
    """Compare free space with what is needed, directories of one file system together.

    :param needed_files: number of entries, counted on the file system of the first directory.
    :raises TargetTooSmall: the message has both numbers.
    """
    bytes_by_device: dict[int, int] = {}
    for number, (path, count) in enumerate(needed.items()):
        with translated(path):
            place = _existing_parent(path)
            device = place.stat().st_dev
            free = os.statvfs(place)
        bytes_by_device[device] = bytes_by_device.get(device, 0) + count
        free_bytes = free.f_bavail * free.f_frsize
        if bytes_by_device[device] > free_bytes:
            raise TargetTooSmall(
                f"target {shown(path)} has {free_bytes} bytes free, {bytes_by_device[device]} bytes are needed"
            )
        # File systems without a fixed number of files (btrfs) report none at all.
        if number == 0 and free.f_files and needed_files > free.f_favail:
            raise TargetTooSmall(f"target {shown(path)} has {free.f_favail} inodes free, {needed_files} are needed")


def held(path: Path) -> tuple[int, int]:
    """Bytes and files below *path*, which may not be there. Sizes, as of what is restored, not what a disk gives."""
    size = files = 0
    with suppress(FileNotFoundError):
        for _, _, names, folder in os.fwalk(path, follow_symlinks=False):
            for name in names:
                with suppress(FileNotFoundError):
                    size += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
                    files += 1
    return size, files


def require_apart(paths: Iterable[Path]) -> None:
    """Refuse directories of one restore that are the same or lie in each other.

    :raises TargetError: naming both.
    """
    real = sorted((Path(os.path.realpath(path)), path) for path in paths)
    for i, (upper, first) in enumerate(real):
        for lower, second in real[i + 1 :]:
            if lower.is_relative_to(upper):
                raise TargetError(f"target {shown(second)} lies in target {shown(first)}")


class Place:
    """A directory taken for a restore. ``descriptor`` is open until ``close``."""

    def __init__(self, path: Path, owner: tuple[int, int] | None) -> None:
        self.path = path
        self._made: list[Path] = []
        self._before: os.stat_result | None = None
        self.descriptor = -1
        try:
            with translated(path):
                self._make(path, owner)
                self.descriptor = os.open(path, DIRECTORY_FLAGS)
                self._lock()
                self._identity = os.fstat(self.descriptor)
                if not self._made:
                    self._before = self._identity
                if owner is not None:
                    os.fchown(self.descriptor, *owner)
                os.fchmod(self.descriptor, 0o700)
        except BaseException:
            self.give_back()
            raise

    @property
    def is_empty(self) -> bool:
        """Nothing is in it but the mark of this restore."""
        with os.scandir(self.descriptor) as entries:
            return all(entry.name == os.fsdecode(INCOMPLETE) for entry in entries)

    def empty(self) -> None:
        """Remove everything in it: it was empty when it was taken, and it is still the same directory.

        :raises TargetError: something cannot be removed, or another directory is there now.
        """
        with translated(self.path):
            if self.descriptor < 0:
                self.descriptor = os.open(self.path, DIRECTORY_FLAGS)
            now = os.fstat(self.descriptor)
            if (now.st_dev, now.st_ino) != (self._identity.st_dev, self._identity.st_ino):
                raise TargetError(f"target {shown(self.path)} was replaced by another directory; it is left alone")
            wipe(self.descriptor)

    def give_back(self) -> None:
        """Remove the directories that were made for it, as far as they are empty; owner and mode as they were."""
        if self.descriptor >= 0 and self._before is not None:
            with suppress(OSError):
                os.fchown(self.descriptor, self._before.st_uid, self._before.st_gid)
                os.fchmod(self.descriptor, stat.S_IMODE(self._before.st_mode))
        self.close()
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir()
        self._made.clear()

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _lock(self) -> None:
        """Let no other restore in as long as this one lives; where the file system has no locks, the mark must do.

        :raises TargetError: another one is at work.
        """
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetError(
                f"target {shown(self.path)}: another restore is writing into it", hint="wait for its end"
            ) from None
        except OSError:
            return

    def _make(self, path: Path, owner: tuple[int, int] | None) -> None:
        missing = [path]
        while not os.path.lexists(missing[-1]):
            missing.append(missing[-1].parent)
        for directory in reversed(missing[:-1]):
            directory.mkdir(mode=0o700)
            self._made.append(directory)
            if owner is not None:
                os.chown(directory, *owner, follow_symlinks=False)


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _require_writable(directory: Path, target: Path) -> None:
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    if read_only or not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        why = "on a read-only file system" if read_only else "not writable"
        raise TargetError(f"target {shown(target)}: directory {shown(directory)} is {why}")


def require_passable(directory: Path, account: Account) -> None:
    """:raises TargetError: *account* cannot get through *directory*."""
    status = directory.stat()
    if status.st_uid == account.uid:
        needed = stat.S_IXUSR
    elif status.st_gid == account.gid:
        needed = stat.S_IXGRP
    else:
        needed = stat.S_IXOTH
    if not status.st_mode & needed:
        raise TargetError(
            f"user {account.name!r} cannot pass directory {shown(directory)} (mode {stat.S_IMODE(status.st_mode):04o})",
            hint="choose a scratch directory that this user can reach, or open the way to it (chmod o+x)",
        )
