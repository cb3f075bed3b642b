"""A restore into directories that hold other things, too, and may be in use.

Everything is made under a name of its own beside its place and renamed into it when it is complete: whoever looks sees
what was there or what was restored, and other names of a file that was there keep their content. What was being made
when the restore was killed is removed by the next one. Nothing but that is ever removed on failure.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mingus_engine import bounds
from mingus_engine.errors import Damaged, TargetError
from mingus_engine.targets.base import FileEntry, FileWriter, PresentFile
from mingus_engine.targets.directory import MEND
from mingus_engine.targets.files.grounds import Ground, lock, stand_on
from mingus_engine.targets.files.tree import OwnerOf, TreeEntry, TreeTarget
from mingus_engine.targets.paths import DIRECTORY_FLAGS, open_parent, shown, split, translated
from mingus_engine.targets.places import INCOMPLETE
from mingus_engine.targets.writer import DiskWriter

_BESIDE = b".mingus-restore-"
_LEFT_OVER = re.compile(rb"\.mingus-restore-[0-9a-f]{16}")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NOREPLACE = 1
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# A new file above this is on stable storage before it has its name; smaller ones are whole or empty after a power cut.
_SYNC_BYTES = bounds.MIB


class LiveTarget(TreeTarget):
    """See the module.

    :param root: where the labels of the roots are, or, with *originals*, what messages name.
    :param originals: label → the place it was backed up from. :param mark: mark *root* as incomplete meanwhile; files
        may be mended in place then (``open_in_place``).
    :ivar was_marked: the mark was there before.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner_of: OwnerOf,
        originals: Mapping[bytes, bytes] | None = None,
        durable: bool = True,
        mark: bool = False,
    ) -> None:
        super().__init__(root, owner_of=owner_of, durable=durable)
        self._originals = originals
        self._marks = mark and originals is None
        self._grounds: dict[bytes, Ground] = {}
        self._aliases: dict[bytes, tuple[int, tuple[bytes, ...]]] = {}
        self._real: dict[bytes, bytes] = {}
        self._looked: tuple[bytes, int] = (b"", -1)
        self.was_marked = False

    # -- the place ----------------------------------------------------------------------------------------------------

    def stand(self, *, create: bool) -> None:
        """Find, or make, the directories; with *create* they are locked.

        :raises TargetError: another restore is at work, or one of them cannot be.
        """
        self.close()
        wanted = self._originals or {b"": os.fsencode(self.root)}
        for label, path in wanted.items():
            ground = stand_on(path, create=create)
            if ground is None:
                continue
            self._grounds[label] = ground
            if self._originals is None and ground.prefix != (b".",):
                self._stand_in(label, ground, create=create)
                continue
            if create and ground.prefix == (b".",):
                lock(ground.descriptor, path)
        if self._originals is None and b"" in self._grounds:
            with suppress(FileNotFoundError):
                os.stat(INCOMPLETE, dir_fd=self._top(), follow_symlinks=False)
                self.was_marked = True
        if create:
            for ground in self._grounds.values():
                _clean(ground.descriptor)

    def mark(self) -> None:
        """Mark the directory, where that was asked for. :raises TargetError: the file system refused."""
        if self._marks and not self.was_marked:
            self._mark()

    def finish(self) -> None:
        """See :class:`DirectoryTarget`."""
        self.settle()
        if self._marks:
            self.unmark()

    def abandon(self) -> None:
        """What is there stays; what was in the making is gone already."""
        self._directories.clear()
        self.close()

    def close(self) -> None:
        """See :class:`DirectoryTarget`."""
        super().close()
        self._forget()
        grounds, self._grounds = self._grounds, {}
        for ground in grounds.values():
            os.close(ground.descriptor)

    def space(self) -> Iterator[tuple[bytes, Path]]:
        """Labels (or none), and where they are."""
        for label, path in (self._originals or {b"": os.fsencode(self.root)}).items():
            yield label, Path(os.fsdecode(path))

    # -- looking ------------------------------------------------------------------------------------------------------

    def look(self, path: bytes) -> tuple[os.stat_result, bytes] | None:
        """What is at *path*, and where it leads if it is a link; by one thread, best in path order.

        :raises Damaged: the path is hostile. :raises TargetError: it cannot be looked at.
        """
        parent, name = self._from(path)
        if parent < 0:
            return None
        with translated(path):
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                return status, os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""
            except FileNotFoundError:
                return None

    def where(self, path: bytes) -> bytes:
        """A way to what was just looked at; not to be followed if it is a link."""
        parent, name = self._from(path)
        return b"/proc/self/fd/%d/%s" % (parent, name)

    def is_empty(self, path: bytes) -> bool:
        """Whether the directory *path* is."""
        with translated(path), self._folder(path) as folder, os.scandir(folder) as entries:
            return next(entries, None) is None

    def below(self, path: bytes) -> Iterator[bytes]:
        """Paths of all that is in the directory *path*, in no order."""
        with translated(path), self._folder(path) as folder:
            for where, folders, files, _ in os.fwalk(b".", dir_fd=folder):
                for name in (*folders, *files):
                    yield os.path.normpath(os.path.join(path, where, name))  # noqa: PTH118 - bytes

    @contextmanager
    def reading(self, path: bytes) -> Iterator[tuple[os.stat_result, Callable[[int, int], bytes]] | None]:
        """A plain file that is there: its status, and what gives bytes at an offset; ``None`` = it cannot be read."""
        descriptor = -1
        with suppress(OSError, TargetError):
            base, parts = self._resolve(path)
            with open_parent(base, parts, create=False) as parent:
                descriptor = os.open(parts[-1], _READ, dir_fd=parent)
        if descriptor < 0:
            yield None
            return
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                yield status, lambda offset, length: os.pread(descriptor, length, offset)
            else:
                yield None
        finally:
            os.close(descriptor)

    # -- making -------------------------------------------------------------------------------------------------------

    def clean(self, path: bytes) -> None:
        """Remove what a restore that was killed was making in the directory *path*."""
        with translated(path), self._folder(path) as folder:
            _clean(folder)

    def put(self, entry: TreeEntry, make: Callable[[Any], object], *, replace: bool) -> bool:
        """Have *make* make *entry* (it is given it under another name), then give it its name.

        :param replace: what is there goes: a file or an empty directory. :returns: whether it was done: without
            *replace* it is not where there is something.
        :raises Damaged: the path is hostile. :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(entry.path)
        name = _BESIDE + secrets.token_hex(8).encode()
        above = entry.path.rpartition(b"/")[0]
        beside = above + b"/" + name if above else name
        self._aliases[beside], self._real[beside] = (base, (*parts[:-1], name)), entry.path
        try:
            make(dataclasses.replace(entry, path=beside))  # type: ignore[type-var]
            with translated(entry.path), open_parent(base, parts, create=False) as parent:
                try:
                    if entry.size and (replace or entry.size > _SYNC_BYTES):
                        self._sync(name, parent)
                    return _name(name, parts[-1], parent, replace=replace)
                except FileNotFoundError:
                    return True  # nothing was made (a device that may not be): it is counted as lost
        except TargetError as error:
            error.message = error.message.replace(shown(beside), shown(entry.path))
            raise
        finally:
            self._unmake(beside)

    def open_in_place(self, entry: FileEntry) -> PresentFile | None:
        """A plain file that has no other name, to be mended where it is; ``None``: it is none, or no mark covers it.

        :raises TargetError: the file system refused.
        """
        if not self._marks:
            return None
        base, parts = self._resolve(entry.path)
        with translated(entry.path), open_parent(base, parts, create=False) as parent:
            descriptor = os.open(parts[-1], MEND | os.O_NONBLOCK, dir_fd=parent)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(descriptor)
            return None
        return DiskWriter(
            descriptor, entry, owner=self._owner_of(entry), mode=entry.mode & 0o7777, decorate=self._decorate
        )

    def amend(self, entry: FileEntry) -> bool:
        """Give a plain file whose content is right the attributes of *entry*; whether that was possible: it has no
        other name, and can be opened.

        :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(entry.path)
        with translated(entry.path), open_parent(base, parts, create=False) as parent:
            try:
                descriptor = os.open(parts[-1], _READ, dir_fd=parent)
            except PermissionError:
                return False
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    return False
                if (owner := self._owner_of_entry(entry)) not in (None, (status.st_uid, status.st_gid)) and owner:
                    os.fchown(descriptor, *owner)
                self._decorate(descriptor, entry)
                os.fchmod(descriptor, entry.mode & 0o7777)
                os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
            except PermissionError:
                return False
            finally:
                os.close(descriptor)
        return True

    def require_link(self, entry: FileEntry, first: bytes) -> None:
        """As ``make_link``. :raises TargetError: *first* is not there any more."""
        if not self.make_link(entry, first):
            raise TargetError(f"target {shown(first)}: somebody changed it while it was restored")

    def remove(self, path: bytes, *, folder: bool) -> bool:
        """Remove a file, or a directory if it is empty; whether it is gone.

        :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(path)
        with translated(path), suppress(FileNotFoundError), open_parent(base, parts, create=False) as parent:
            try:
                os.rmdir(parts[-1], dir_fd=parent) if folder else os.unlink(parts[-1], dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EBUSY, errno.EISDIR, errno.ENOTDIR):
                    return False
                raise
        return True

    # -- of the classes above -----------------------------------------------------------------------------------------

    def _resolve(self, path: bytes) -> tuple[int, tuple[bytes, ...]]:
        if (alias := self._aliases.get(path)) is not None:
            return alias
        parts = split(path)
        if parts == (INCOMPLETE,):
            raise Damaged(f"path {shown(path)!r} is reserved")
        label, inside = (b"", parts) if self._originals is None else (parts[0], parts[1:])
        if self._originals is not None and label not in self._originals:
            raise Damaged(f"path {shown(path)!r} is below no root")
        ground = self._grounds.get(label)
        if ground is None:
            raise TargetError(f"target {shown(path)}: its root is not there")
        return ground.descriptor, inside if self._originals is None else (*ground.prefix, *inside)

    def _parent(self, path: bytes) -> int:
        if b"/" in path:
            return super()._parent(path)
        # Roots that are files: each has another directory.
        self._local.path = None
        try:
            return super()._parent(path)
        finally:
            self._local.path = None

    def _decorate(self, descriptor: int, entry: FileEntry) -> None:
        """Also removes what the entry does not have: a directory's default access control list gave it to the file."""
        wanted = {name for name, _ in self._xattrs_of(entry)}
        with suppress(OSError):
            for name in os.listxattr(descriptor):
                if os.fsencode(name) not in wanted:
                    with suppress(OSError):
                        os.removexattr(descriptor, name)
        super()._decorate(descriptor, entry)

    def _lose(self, sort: str, entry: FileEntry, why: str = "") -> None:
        real = self._real.get(entry.path)
        super()._lose(sort, dataclasses.replace(entry, path=real) if real is not None else entry, why)  # type: ignore[type-var]

    def _top(self) -> int:
        return self._grounds[b""].descriptor

    def _tops(self) -> Iterable[int]:
        return (ground.descriptor for ground in self._grounds.values())

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _stand_in(self, label: bytes, ground: Ground, *, create: bool) -> None:
        """The directory of the restore is not there, or is no directory."""
        try:
            status = os.stat(ground.prefix[0], dir_fd=ground.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status is not None or not create:
            os.close(ground.descriptor)
            del self._grounds[label]
            if status is not None:
                raise TargetError(f"target {shown(ground.path)} is not a directory")
            return
        with translated(ground.path):
            os.mkdir(ground.prefix[0], 0o700, dir_fd=ground.descriptor)
            descriptor = os.open(ground.prefix[0], DIRECTORY_FLAGS, dir_fd=ground.descriptor)
        os.close(ground.descriptor)
        self._grounds[label] = Ground(descriptor, (b".",), ground.path)
        lock(descriptor, ground.path)

    def _from(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory of *path* (-1 = there is none), kept for the next, and the last part."""
        if self._originals is None:
            split(path)
            if b"" not in self._grounds:
                return -1, b""
        elif path.partition(b"/")[0] in self._originals and path.partition(b"/")[0] not in self._grounds:
            return -1, b""
        base, parts = self._resolve(path)
        above, slash, _ = path.rpartition(b"/")
        if not slash or self._looked[0] != above or self._looked[1] < 0:
            self._forget()
            with translated(path), suppress(FileNotFoundError, NotADirectoryError):
                try:
                    with open_parent(base, parts, create=False) as parent:
                        self._looked = above if slash else b"\0", os.dup(parent)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
        return self._looked[1], parts[-1]

    def _forget(self) -> None:
        """The directory that was looked into last."""
        (_, descriptor), self._looked = getattr(self, "_looked", (b"", -1)), (b"", -1)
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def _folder(self, path: bytes) -> Iterator[int]:
        base, parts = self._resolve(path)
        with open_parent(base, (*parts, b"."), create=False) as folder:
            yield folder

    def _unmake(self, beside: bytes) -> None:
        """What has the name *beside* was given its name, or is given up."""
        base, parts = self._aliases.pop(beside)
        self._real.pop(beside, None)
        with suppress(OSError), open_parent(base, parts, create=False) as parent:
            os.unlink(parts[-1], dir_fd=parent)

    @staticmethod
    def _sync(name: bytes, parent: int) -> None:
        """What replaces something is on stable storage before; where it may not be opened, at the end."""
        with suppress(PermissionError):
            descriptor = os.open(name, _READ, dir_fd=parent)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def copying(writer: FileWriter, offset: int, data: bytes | memoryview) -> None:
    """Write *data* that a file has already, leaving out what is zeros: it may have been a hole."""
    if bytes(data).count(0) != len(data):
        writer.write(offset, data)


def _name(name: bytes, wanted: bytes, parent: int, *, replace: bool) -> bool:
    """Rename in *parent*; without *replace* only where there is nothing."""
    if replace:
        try:
            os.rename(name, wanted, src_dir_fd=parent, dst_dir_fd=parent)
        except IsADirectoryError:
            os.rmdir(wanted, dir_fd=parent)
            os.rename(name, wanted, src_dir_fd=parent, dst_dir_fd=parent)
        return True
    if _LIBC.renameat2(parent, name, parent, wanted, _NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    try:  # a file system without this
        os.link(name, wanted, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _clean(folder: int) -> None:
    left = [name for entry in os.scandir(folder) if _LEFT_OVER.fullmatch(name := os.fsencode(entry.name))]
    for name in left:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
