"""Transport ``local``: the data directory is read in parallel between ``pg_backup_start`` and ``pg_backup_stop``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.sources.base import FileKind, Item, SourceFile
from mingus_engine.sources.postgres import control_file, tree
from mingus_engine.sources.postgres.data_directory import find_data_directory
from mingus_engine.sources.postgres.low_level import LowLevelBackup, MadeFile


class LocalItem:
    """A stretch of one file; read with ``preadv`` into the worker's own buffer."""

    __slots__ = ("_backup", "file", "last", "length", "offset")

    def __init__(self, backup: LocalBackup, file: SourceFile, offset: int, length: int, last: bool) -> None:
        self._backup = backup
        self.file = file
        self.offset = offset
        self.length = length
        self.last = last

    def read(self, scratch: memoryview) -> memoryview | None:
        """See ``sources.base.Item``."""
        return self._backup.read(self, scratch)

    def release(self) -> None:
        """Nothing to give back: the buffer is the worker's."""


class LocalBackup(LowLevelBackup):
    """See the module."""

    transport = "local"

    def items(self) -> Iterator[Item]:
        """Items of all files but ``global/pg_control``, which ``finish`` gives."""
        for file in tree.walk(self._root, self.server.major, self.server.catalog):
            if file.kind != FileKind.FILE or not file.size:
                self._glance()
                yield LocalItem(self, file, 0, 0, True)
                continue
            for offset in range(0, file.size, SLAB_BYTES):
                self._glance()
                length = min(SLAB_BYTES, file.size - offset)
                yield LocalItem(self, file, offset, length, offset + length == file.size)

    def read(self, item: LocalItem, scratch: memoryview) -> memoryview | None:
        """Read and verify *item*; for :meth:`LocalItem.read`."""
        if not item.length:
            return scratch[:0]
        self._throttle.take(item.length)
        path = self._root_bytes + b"/" + item.file.path
        try:
            # Not through a link, not waiting at a FIFO: the file may have been replaced since it was listed.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = scratch[: _read_fully(handle, scratch[: item.length], item.offset)]
                if self._pages:
                    self._pages.verify(
                        item.file.path, item.offset, data, lambda page, offset: _read_fully(handle, page, offset)
                    )
                return data
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise tree.read_error(os.fsdecode(path), error) from None

    def _prepare(self) -> None:
        self._root = find_data_directory(self.settings, self.server, self.receiver.slot)
        self._root_bytes = os.fsencode(self._root)

    def _control_entry(self) -> MadeFile:
        content = control_file.read(self._root).content
        status = (self._root / control_file.PATH.decode()).stat()
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        return SourceFile(control_file.PATH, FileKind.FILE, mode, *owner, status.st_mtime_ns, len(content)), content


def _read_fully(handle: int, buffer: memoryview, offset: int) -> int:
    done = 0
    while done < len(buffer):
        count = os.preadv(handle, [buffer[done:]], offset + done)
        if not count:
            break
        done += count
    return done
