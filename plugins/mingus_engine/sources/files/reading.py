"""Reading a file so that it is known whether it changed meanwhile, with the attributes that a stat does not give."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from mingus_engine import bounds
from mingus_engine.codec import attributes
from mingus_engine.codec.attributes import Attributes
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import Findings
from mingus_engine.sources.files.walk import Found

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
#: So often a file is read while it changes.
TRIES = 3
# A file that was changed so shortly before it was looked at may be changed again without its times showing it: some
# file systems count in seconds, FAT in two.
RACY_NS = 2_000_000_000
_NO_XATTRS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.ENOSYS, errno.EPERM, errno.EACCES}

KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFCHR: FileKind.CHARACTER_DEVICE,
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
}


class Unreadable(Exception):
    """A file cannot be read; ``sort`` is one of :class:`Findings`."""

    def __init__(self, sort: str, why: str = "") -> None:
        super().__init__(why)
        self.sort, self.why = sort, why


class Content(NamedTuple):
    """A whole file. ``stable``: it did not change while it was read."""

    data: bytes
    status: os.stat_result
    xattrs: tuple[tuple[bytes, bytes], ...]
    stable: bool


def read_whole(found: Found, max_bytes: int, *, follow: bool, cut: bool) -> Content | None:
    """A file of at most *max_bytes*, read again up to three times while it changes; ``None`` = it is larger now.

    :param follow: through a link. :param cut: of a larger one take the beginning, as of one that changed.
    :raises Unreadable: gone, denied, or no longer a plain file.
    """
    descriptor = open_file(found, follow=follow)
    try:
        for left in reversed(range(TRIES)):
            before = os.fstat(descriptor)
            size = min(before.st_size, max_bytes)
            if size < before.st_size and not cut:
                return None
            data = os.pread(descriptor, size + 1, 0)
            while len(data) < size and (more := os.pread(descriptor, size - len(data), len(data))):
                data += more
            after = os.fstat(descriptor)
            stable = len(data) == after.st_size and same(before, after)
            if stable or not left:
                return Content(data[:size], after, xattrs_of(descriptor), stable)
    except OSError as error:
        raise Unreadable("unreadable", error.strerror or "") from None
    finally:
        os.close(descriptor)
    return None


def open_file(found: Found, *, follow: bool) -> int:
    """A descriptor of a plain file. :raises Unreadable: gone, denied, or no longer a plain file."""
    try:
        descriptor = os.open(found.real, _READ & ~os.O_NOFOLLOW if follow else _READ)
    except OSError as error:
        raise _unreadable(error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable("vanished", "it is no plain file any more")
    return descriptor


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether the file was not changed between two looks."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size, after.st_mtime_ns, after.st_ctime_ns,
    )  # fmt: skip


def mark_of(status: os.stat_result, now_ns: int | None = None) -> bytes:
    """The mark of a file that was looked at now (``codec.attributes``); nothing where its times cannot be trusted."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    if status.st_ctime_ns > now_ns - RACY_NS or not -(1 << 63) <= status.st_ctime_ns < 1 << 63:
        return b""
    return attributes.mark(status.st_ctime_ns, status.st_ino)


def xattrs_of(file: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes, access control lists among them, ascending by name; of a link its own.

    :raises OSError: they are there and cannot be read.
    """
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    found = []
    for name in sorted(names):
        try:
            found.append((os.fsencode(name), os.getxattr(file, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
    return tuple(sorted(found))


def data_ranges(descriptor: int, size: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what is not a hole, in whole blocks of 64 KiB (the end maybe cut by the file's).

    :param blocks: ``st_blocks``: a file that has all its blocks is not asked.
    """
    if blocks * 512 >= size:
        yield 0, size
        return
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # there is data up to the end, as far as anybody knows
                yield at, size
            return
        begin = max(at, begin // bounds.BLOCK_BYTES * bounds.BLOCK_BYTES)
        end = min(size, -(-end // bounds.BLOCK_BYTES) * bounds.BLOCK_BYTES)
        if begin >= size:
            return
        yield begin, end
        at = end


def special(found: Found, findings: Findings) -> tuple[bytes, Attributes]:
    """Of what is no plain file: where a link leads, and the attributes.

    :raises Unreadable: gone or denied.
    """
    mode = found.status.st_mode
    try:
        target = os.readlink(found.real) if stat.S_ISLNK(mode) else b""  # noqa: PTH115 - bytes
        xattrs = xattrs_of(found.real)
    except OSError as error:
        raise _unreadable(error) from None
    device = None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        device = os.major(found.status.st_rdev), os.minor(found.status.st_rdev)
    return target, Attributes(mark_of(found.status), b"", storable(found.path, xattrs, findings), device)


def storable(
    path: bytes, xattrs: tuple[tuple[bytes, bytes], ...], findings: Findings
) -> tuple[tuple[bytes, bytes], ...]:
    """*xattrs*, or none where they do not fit into an entry, which is noted."""
    if xattrs and not attributes.fitting(xattrs):
        findings.note("attributes", path, f"{sum(len(v) for _, v in xattrs)} bytes of extended attributes")
        return ()
    return xattrs


def _unreadable(error: OSError) -> Unreadable:
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ELOOP:
        return Unreadable("vanished")
    return Unreadable("unreadable", error.strerror or "")
