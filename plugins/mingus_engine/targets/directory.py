"""A restore into an empty directory: any tree of files, directories and links."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.errors import Damaged, TargetNotEmpty
from mingus_engine.targets import durability, places
from mingus_engine.targets.base import FileEntry, PresentFile
from mingus_engine.targets.paths import DIRECTORY_FLAGS, open_parent, shown, split, translated
from mingus_engine.targets.places import INCOMPLETE, Place
from mingus_engine.targets.wipe import wipe
from mingus_engine.targets.writer import DiskWriter

_NOTE = b"""MINGUS Backup & Recovery is writing into this directory, or was interrupted while it did.
What is here is not complete and must not be used. This file disappears when the restore is complete.
"""
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MEND = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
REPLACE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryTarget:
    """See ``targets.base``. Paths are resolved below *root* without following any link.

    :param owner: uid and gid of everything that is restored (needs root); ``None``: the process's user, or, with
        *keep_owner*, the owner of each entry.
    :param remap: path prefix (a link in the tree, such as a tablespace's) → the directory that holds what is below it.
        It must be empty, too; the link itself, when it comes, leads there.
    :param modes: gives the permission bits of an entry; default: the entry's own.
    :param keep_directory_times: set the times (and, when read-only, the modes) of directories at the end; costs some
        hundred bytes of memory per directory.
    :param durable: ``finish`` returns when everything is on stable storage.
    :param delta: the directories may hold something. What is not restored is removed at the end, and ``abandon`` leaves
        everything as it is, marked as incomplete, for another one to go on.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner: tuple[int, int] | None = None,
        keep_owner: bool = False,
        remap: Mapping[bytes, Path] = MappingProxyType({}),
        modes: Callable[[FileEntry], int] = lambda entry: entry.mode & 0o7777,
        keep_directory_times: bool = True,
        durable: bool = True,
        delta: bool = False,
    ) -> None:
        self.root = root.absolute()
        self._delta = delta
        # Hashes of the paths that were restored: 16 bytes each instead of the path.
        self._restored: set[bytes] = set()
        self.removed = 0
        self._owner = owner
        self._keep_owner = keep_owner
        self._remap = {split(prefix): path.absolute() for prefix, path in remap.items()}
        self._modes = modes
        self._keep_directory_times = keep_directory_times
        self._durable = durable
        self._places: dict[Path, Place] = {}
        self._directories: list[FileEntry] = []
        self._lock = threading.Lock()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Root first, then the remapped directories."""
        return (self.root, *self._remap.values())

    def inspect(self, needed_bytes: Mapping[Path, int] | int = 0, needed_files: int = 0) -> None:
        """Refuse what ``prepare`` would refuse; nothing is written.

        :raises TargetError: see ``prepare``.
        """
        places.require_apart(self.directories)
        for path in self.directories:
            places.inspect(path, self._owner, empty=not self._delta)
        needed = {self.root: needed_bytes} if isinstance(needed_bytes, int) else dict(needed_bytes)
        if self._delta:
            # The least that must come: what is there is mended in place, and what is too much goes at the end.
            for path in needed:
                with translated(path):
                    size, files = places.held(path)
                needed[path] = max(0, needed[path] - size)
                needed_files = max(0, needed_files - files)
        places.require_space(needed, needed_files)

    def prepare(self, needed_bytes: Mapping[Path, int] | int = 0, needed_files: int = 0) -> None:
        """Take the directories: empty, 0700, marked as incomplete.

        :param needed_bytes: per directory of :attr:`directories`, or of the root alone.
        :raises TargetNotEmpty: one of them holds something.
        :raises TargetTooSmall: space or inodes are missing.
        :raises TargetError: one is a link, a file, someone else's, not writable, or lies in another one.
        """
        self.inspect(needed_bytes, needed_files)
        try:
            for path in self.directories:
                self._places[path] = Place(path, self._owner)
            self._mark()
            # Whoever came between the look and the mark is seen now; who comes later sees the mark.
            for place in self._places.values():
                if not self._delta and not place.is_empty:
                    raise TargetNotEmpty(f"target {shown(place.path)} is not empty: something else writes into it")
        except BaseException:
            for place in self._places.values():
                place.close() if self._delta else place.give_back()
            self._places.clear()
            raise

    def make_directory(self, entry: FileEntry) -> None:
        """Make a directory; one that is there already (as a parent of an earlier entry) gets the entry's metadata.

        :raises Damaged: the path is hostile. :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(entry.path)
        self._note(entry.path, again=True)
        with translated(entry.path), open_parent(base, (*parts, b"."), create=True, owner=self._owner) as directory:
            if (owner := self._owner_of(entry)) is not None:
                os.fchown(directory, *owner)
            mode = self._modes(entry)
            # A read-only directory takes its mode at the end: its entries must come first.
            os.fchmod(directory, mode | 0o700)
            if self._keep_directory_times or mode & 0o700 != 0o700:
                with self._lock:
                    self._directories.append(entry)

    def make_symlink(self, entry: FileEntry) -> None:
        """Make a symbolic link with the entry's target, whatever it is; a remapped prefix leads to its directory.

        :raises Damaged: the path is hostile. :raises TargetError: the file system refused.
        """
        parts = split(entry.path)
        leads_to = entry.target
        if parts in self._remap:
            base, leads_to = self._top(), os.fsencode(self._remap[parts])
        else:
            base, parts = self._resolve(entry.path)
        if not leads_to or b"\0" in leads_to:
            raise Damaged(f"link {shown(entry.path)!r} has no possible target")
        self._note(entry.path)
        with translated(entry.path), open_parent(base, parts, create=True, owner=self._owner) as parent:
            self._clear(parent, parts[-1])
            os.symlink(leads_to, parts[-1], dir_fd=parent)
            if (owner := self._owner_of(entry)) is not None:
                os.chown(parts[-1], *owner, dir_fd=parent, follow_symlinks=False)
            os.utime(parts[-1], ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def open_file(self, entry: FileEntry, on_close: Callable[[FileEntry, int], None] | None = None) -> DiskWriter:
        """Make a file of which nothing is there yet; see ``targets.base``.

        :param on_close: told the entry and the CRC32C of its content when the file is complete.
        :raises Damaged: the path is hostile. :raises TargetError: something is there, or the file system refused.
        """
        base, parts = self._resolve(entry.path)
        self._note(entry.path)
        with translated(entry.path), open_parent(base, parts, create=True, owner=self._owner) as parent:
            self._clear(parent, parts[-1])
            descriptor = os.open(parts[-1], CREATE, 0o600, dir_fd=parent)
        return DiskWriter(
            descriptor, entry, owner=self._owner_of(entry), mode=self._modes(entry), on_close=on_close,
            decorate=self._decorate,
        )  # fmt: skip

    def open_present(
        self, entry: FileEntry, on_close: Callable[[FileEntry, int], None] | None = None
    ) -> PresentFile | None:
        """With *delta*: the file that is there under the entry's path, to be mended; ``None``: there is none.

        :raises Damaged: the path is hostile, or came before. :raises TargetError: the file system refused.
        """
        if not self._delta:
            return None
        base, parts = self._resolve(entry.path)
        with translated(entry.path), open_parent(base, parts, create=True, owner=self._owner) as parent:
            try:
                status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None
            # A file of another name too is somebody else's: it is replaced, not written into.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return None
            descriptor = os.open(parts[-1], MEND, dir_fd=parent)
        self._note(entry.path)
        return DiskWriter(
            descriptor, entry, owner=self._owner_of(entry), mode=self._modes(entry), on_close=on_close,
            decorate=self._decorate,
        )  # fmt: skip

    def clear(self, path: bytes) -> None:
        """With *delta*: remove what is there under *path*, whatever it is.

        :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(path)
        with translated(path), suppress(FileNotFoundError), open_parent(base, parts, create=False) as parent:
            self._clear(parent, parts[-1])

    def create(self, path: bytes) -> BinaryIO:
        """A new file of the target's own, 0600, to be written by and by; the caller closes it.

        :raises TargetError: something is there, or the file system refused.
        """
        return self._open_own(path, CREATE)

    def replace(self, path: bytes, data: bytes) -> None:
        """Give a file that was restored another content, or make it.

        :raises TargetError: the file system refused.
        """
        with translated(path), self._open_own(path, REPLACE) as file:
            file.write(data)

    def rename(self, path: bytes, name: bytes) -> None:
        """Give a file of the restore another *name* in its directory, in place of what is there of that name.

        :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(path)
        self._note(b"/".join((*parts[:-1], name)), again=True)
        with translated(path), open_parent(base, parts, create=False) as parent:
            os.rename(parts[-1], name, src_dir_fd=parent, dst_dir_fd=parent)

    def read_file(self, path: bytes, max_bytes: int) -> bytes:
        """The first *max_bytes* of a file that was restored.

        :raises TargetError: it is not there.
        """
        base, parts = self._resolve(path)
        with translated(path), open_parent(base, parts, create=False) as parent:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            with os.fdopen(descriptor, "rb") as file:
                return file.read(max_bytes)

    def parts(self, path: bytes) -> Iterator[bytes]:
        """The content of a file that was restored, by the MiB.

        :raises TargetError: it is not there.
        """
        base, parts = self._resolve(path)
        with translated(path), open_parent(base, parts, create=False) as parent:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        with translated(path), os.fdopen(descriptor, "rb", buffering=0) as file:
            while part := file.read(bounds.MIB):
                yield part

    def sweep(self) -> None:
        """With *delta*: remove what was not restored; counted in ``removed``.

        :raises TargetError: something cannot be removed.
        """
        if not self._delta:
            return
        for prefix, path in ((b"", self.root), *((b"/".join(p) + b"/", d) for p, d in self._remap.items())):
            with translated(path):
                self._sweep(os.dup(self._places[path].descriptor), prefix)

    def settle(self) -> None:
        """Everything was written: directories get their times, and all is made durable. The mark stays."""
        for entry in reversed(self._directories):
            base, parts = self._resolve(entry.path)
            with translated(entry.path), open_parent(base, (*parts, b"."), create=False) as directory:
                self._decorate(directory, entry)
                os.utime(directory, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fchmod(directory, self._modes(entry))
        self._directories.clear()
        if self._durable:
            with translated(self.root):
                durability.sync_trees(self._tops())

    def unmark(self) -> None:
        """The restore is complete: remove the mark, durably."""
        descriptor = self._top()
        with translated(self.root):
            os.unlink(INCOMPLETE, dir_fd=descriptor)
            if self._durable:
                os.fsync(descriptor)

    def finish(self) -> None:
        """Complete the restore; see ``targets.base``.

        :raises TargetError: the file system refused; the mark stays.
        """
        self.settle()
        self.unmark()

    def abandon(self) -> None:
        """Remove what is in the directories that ``prepare`` took, and the directories it made.

        They were empty then, so everything in them is of this restore or of what ran on it. Nothing is touched when
        ``prepare`` refused.

        :raises TargetError: something cannot be removed.
        """
        self._directories.clear()
        if self._delta:
            self.close()
            return
        for path in reversed(self.directories):
            place = self._places.get(path)
            if place is not None:
                place.empty()
                place.give_back()
                del self._places[path]

    def close(self) -> None:
        """Let go of the directories without changing them; ``abandon`` is still possible. Idempotent."""
        for place in self._places.values():
            place.close()

    def _decorate(self, descriptor: int, entry: FileEntry) -> None:
        """Give a finished file or directory, its owner set, what entries of this target have besides; before mode and
        times.
        """

    def _top(self) -> int:
        """A descriptor of the root."""
        return self._places[self.root].descriptor

    def _tops(self) -> Iterable[int]:
        """Descriptors of all directories below which is written."""
        return (place.descriptor for place in self._places.values())

    def _mark(self) -> None:
        root = self._top()
        flags = REPLACE if self._delta else CREATE
        with translated(self.root), os.fdopen(os.open(INCOMPLETE, flags, 0o600, dir_fd=root), "wb") as file:
            file.write(_NOTE)
            if self._owner is not None:
                os.fchown(file.fileno(), *self._owner)

    def _open_own(self, path: bytes, flags: int) -> BinaryIO:
        base, parts = self._resolve(path)
        self._note(path, again=True)
        with translated(path), open_parent(base, parts, create=True, owner=self._owner) as parent:
            if flags & os.O_EXCL:
                self._clear(parent, parts[-1])
            file = os.fdopen(os.open(parts[-1], flags, 0o600, dir_fd=parent), "wb")
            if self._owner is not None:
                os.fchown(file.fileno(), *self._owner)
        return file

    def _note(self, path: bytes, *, again: bool = False) -> None:
        """Remember that *path* and what it lies in belong to the restore. :raises Damaged: it came before."""
        if not self._delta:
            return
        parts = path.split(b"/")
        with self._lock:
            if _digest(path) in self._restored and not again:
                raise Damaged(f"path {shown(path)!r} comes twice")
            self._restored.update(_digest(b"/".join(parts[: n + 1])) for n in range(len(parts)))

    def _clear(self, parent: int, name: bytes) -> None:
        """With *delta*: make room for something new."""
        if not self._delta:
            return
        with suppress(FileNotFoundError):
            try:
                os.unlink(name, dir_fd=parent)
            except IsADirectoryError:
                folder = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
                try:
                    wipe(folder)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=parent)

    def _sweep(self, folder: int, prefix: bytes) -> None:
        """Below the open directory *folder*, which it closes; a data directory is some four levels deep."""
        try:
            for name in map(os.fsencode, os.listdir(folder)):
                path = prefix + name
                known = _digest(path) in self._restored
                if path == INCOMPLETE or split(path) in self._remap:
                    continue
                if not known:
                    self._clear(folder, name)
                    self.removed += 1
                elif stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    self._sweep(os.open(name, DIRECTORY_FLAGS, dir_fd=folder), path + b"/")
        finally:
            os.close(folder)

    def _resolve(self, path: bytes) -> tuple[int, tuple[bytes, ...]]:
        parts = split(path)
        if parts == (INCOMPLETE,):
            raise Damaged(f"path {shown(path)!r} is reserved")
        for prefix, directory in self._remap.items():
            if parts[: len(prefix)] == prefix:
                if len(parts) == len(prefix):
                    raise Damaged(f"path {shown(path)!r} is a tablespace's link, not a file or directory")
                return self._places[directory].descriptor, parts[len(prefix) :]
        return self._places[self.root].descriptor, parts

    def _owner_of(self, entry: FileEntry) -> tuple[int, int] | None:
        if self._owner is None and self._keep_owner:
            return entry.uid, entry.gid
        return self._owner


def _digest(path: bytes) -> bytes:
    return blake3(path).digest(length=16)
