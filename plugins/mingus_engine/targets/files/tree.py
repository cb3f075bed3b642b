"""A restore of a tree of files into an empty directory, with everything that it had.

Small files are written by directory: its descriptor is kept, so that each costs what its own calls cost.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from mingus_engine.codec import attributes
from mingus_engine.codec.attributes import Attributes
from mingus_engine.errors import Damaged
from mingus_engine.targets.base import EntryKind, FileEntry
from mingus_engine.targets.directory import CREATE, DirectoryTarget
from mingus_engine.targets.paths import open_parent, refusal, shown, translated

_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.E2BIG}
_NO_NAMES = {b"", b".", b".."}
# How many paths each sort of loss names.
_NAMED = 20


class TreeEntry(FileEntry, Protocol):
    """An entry with attributes (``codec.attributes``)."""

    @property
    def extra(self) -> bytes: ...


#: Uid and gid that an entry shall have here, ``None`` = the process's.
OwnerOf = Callable[[FileEntry], tuple[int, int] | None]


class TreeTarget(DirectoryTarget):
    """See ``targets.base``.

    :param owner_of: who shall own each entry. :ivar lost: what could not be restored, by sort (``owner``, ``xattr``,
        ``device``): how many; ``named``: the first of them.
    """

    def __init__(self, root: Path, *, owner_of: OwnerOf, durable: bool = True) -> None:
        super().__init__(root, durable=durable)
        self._owner_of_entry = owner_of
        self._own = os.geteuid(), os.getegid()
        self._local = threading.local()
        self._open: list[int] = []
        self._lost_lock = threading.Lock()
        self.lost: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}

    def write_small(self, entry: TreeEntry, pieces: Iterable[tuple[int, memoryview | None, int]]) -> None:
        """Make a file of *pieces* (offset, bytes or ``None`` for a hole, length), all of it.

        :raises Damaged: the path is hostile. :raises TargetError: something is there, or the file system refused.
        """
        try:
            self._write_small(entry, pieces)
        except OSError as error:
            raise refusal(error, entry.path) from None

    def _write_small(self, entry: TreeEntry, pieces: Iterable[tuple[int, memoryview | None, int]]) -> None:
        parent = self._parent(entry.path)
        descriptor = os.open(entry.path.rpartition(b"/")[2], CREATE, 0o600, dir_fd=parent)
        try:
            end = 0
            for offset, data, _ in pieces:
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    data, offset = data[written:], offset + written
                    end = offset
            if end < entry.size:
                os.ftruncate(descriptor, entry.size)
            if (owner := self._owner_of(entry)) is not None:
                os.fchown(descriptor, *owner)
            self._decorate(descriptor, entry)
            os.fchmod(descriptor, entry.mode & 0o7777)  # after the owner: a change of owner clears setuid
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def make_symlink(self, entry: FileEntry) -> None:
        """See :class:`DirectoryTarget`; with extended attributes."""
        super().make_symlink(entry)
        xattrs = _attributes(entry).xattrs
        if not xattrs:
            return
        base, parts = self._resolve(entry.path)
        with translated(entry.path), open_parent(base, parts, create=False) as parent:
            where = b"/proc/self/fd/%d/%s" % (parent, parts[-1])
            self._set_xattrs(where, xattrs, entry)
            os.utime(where, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def make_special(self, entry: FileEntry) -> None:
        """Make a FIFO or a device; a device that may not be made is noted as lost.

        :raises Damaged: the path is hostile, or it is neither. :raises TargetError: the file system refused.
        """
        types = {
            EntryKind.FIFO: stat.S_IFIFO,
            EntryKind.CHARACTER_DEVICE: stat.S_IFCHR,
            EntryKind.BLOCK_DEVICE: stat.S_IFBLK,
        }
        found = _attributes(entry)
        if entry.kind not in types or (entry.kind != EntryKind.FIFO and found.device is None):
            raise Damaged(f"entry {shown(entry.path)!r} is of kind {entry.kind}, which cannot be restored")
        base, parts = self._resolve(entry.path)
        device = os.makedev(*found.device) if found.device else 0
        with translated(entry.path), open_parent(base, parts, create=True) as parent:
            try:
                os.mknod(parts[-1], types[EntryKind(entry.kind)] | 0o600, device, dir_fd=parent)
            except PermissionError:
                self._lose("device", entry)
                return
            where = b"/proc/self/fd/%d/%s" % (parent, parts[-1])
            if (owner := self._owner_of(entry)) is not None:
                os.chown(parts[-1], *owner, dir_fd=parent, follow_symlinks=False)
            self._set_xattrs(where, found.xattrs, entry)
            os.chmod(parts[-1], entry.mode & 0o7777, dir_fd=parent)
            os.utime(parts[-1], ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def make_link(self, entry: FileEntry, first: bytes) -> bool:
        """Make *entry* another name of *first*; whether *first* is a file that is there.

        :raises Damaged: a path is hostile. :raises TargetError: the file system refused.
        """
        base, parts = self._resolve(entry.path)
        other, others = self._resolve(first)
        with translated(entry.path):
            try:
                with (
                    open_parent(other, others, create=False) as from_parent,
                    open_parent(base, parts, create=True) as parent,
                ):
                    found = os.stat(others[-1], dir_fd=from_parent, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
                        return False
                    os.link(others[-1], parts[-1], src_dir_fd=from_parent, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True

    def close(self) -> None:
        """See :class:`DirectoryTarget`."""
        with self._lost_lock:
            descriptors, self._open = self._open, []
        for descriptor in descriptors:
            os.close(descriptor)
        self._local = threading.local()
        super().close()

    def _parent(self, path: bytes) -> int:
        """A descriptor of the directory of *path*, kept for the next file of this thread."""
        above, _, name = path.rpartition(b"/")
        # The directory's own name was looked at when it was entered.
        if above and getattr(self._local, "path", None) == above and name not in _NO_NAMES and b"\0" not in name:
            return int(self._local.descriptor)
        base, parts = self._resolve(path)  # refuses a hostile name
        with open_parent(base, parts, create=True) as parent:
            descriptor = getattr(self._local, "descriptor", -1)
            if descriptor < 0:
                descriptor = os.dup(parent)
                with self._lost_lock:
                    self._open.append(descriptor)
            else:
                os.dup2(parent, descriptor, inheritable=False)
        self._local.path, self._local.descriptor = above, descriptor
        return int(descriptor)

    def _owner_of(self, entry: FileEntry) -> tuple[int, int] | None:
        owner = self._owner_of_entry(entry)
        return None if owner == self._own else owner

    def _decorate(self, descriptor: int, entry: FileEntry) -> None:
        self._set_xattrs(descriptor, self._xattrs_of(entry), entry)

    @staticmethod
    def _xattrs_of(entry: FileEntry) -> tuple[tuple[bytes, bytes], ...]:
        return _attributes(entry).xattrs if attributes.has_more(getattr(entry, "extra", b"")) else ()

    def _set_xattrs(self, file: int | bytes, xattrs: Iterable[tuple[bytes, bytes]], entry: FileEntry) -> None:
        for name, value in xattrs:
            try:
                os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self._lose("xattr", entry, f"{shown(name)}: {error.strerror}")

    def _lose(self, sort: str, entry: FileEntry, why: str = "") -> None:
        with self._lost_lock:
            self.lost[sort] += 1
            names = self.named.setdefault(sort, [])
            if len(names) < _NAMED:
                names.append(f"{shown(entry.path)} {why}".rstrip())


def _attributes(entry: FileEntry) -> Attributes:
    return attributes.decode(getattr(entry, "extra", b""), shown(entry.path))
