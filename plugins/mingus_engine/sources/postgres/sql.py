"""Transport ``sql``: files are read by the server's own functions over ordinary sessions, between ``pg_backup_start``
and ``pg_backup_stop``.

No agent, no access to the server's files, no superuser; EXECUTE on five functions. Large files are read by the workers,
a few MiB a query; small ones by the thread that lists them, many a query. A role that may replicate reserves WAL by a
slot like the other transports; for one that may not, see ``sql_wal``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from mingus_engine.bounds import MIB, SLAB_BYTES
from mingus_engine.sources.base import FileKind, Item, SourceFile
from mingus_engine.sources.postgres import control_file
from mingus_engine.sources.postgres.backup import BackupWal
from mingus_engine.sources.postgres.connection import mapped
from mingus_engine.sources.postgres.low_level import LowLevelBackup, MadeFile
from mingus_engine.sources.postgres.slabs import Slab, SlabItem, SlabPool
from mingus_engine.sources.postgres.sql_links import DataLinks, literal, server_instance
from mingus_engine.sources.postgres.sql_tree import SqlTree
from mingus_engine.sources.postgres.sql_wal import FileWal

# A file of at most this size is fetched together with others: one query, one round trip.
_SMALL_BYTES = 128 * 1024
_BATCH_BYTES = MIB
_BATCH_FILES = 256
# Slabs of small files besides those that workers hold; of each, only the first MiB is used.
_SPARE_SLABS = 2
_CONTROL_MAX_BYTES = 64 * 1024
# A right that is missing is found before anything was started.
_PROBE = (
    "SELECT pg_read_binary_file('PG_VERSION', 0, 8, true), (pg_stat_file('PG_VERSION', true)).size,"
    " (SELECT count(*) FROM pg_ls_dir('global', true, false))"
)
_MAY_REPLICATE = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user"


class RangeItem:
    """A stretch of a large file, read over a data connection into the worker's own buffer."""

    __slots__ = ("_backup", "file", "last", "length", "offset")

    def __init__(self, backup: SqlBackup, file: SourceFile, offset: int, length: int, last: bool) -> None:
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


class FetchedItem(SlabItem):
    """A small file that was fetched with others; *there* is false when it had vanished."""

    __slots__ = ("_backup", "_there")

    def __init__(self, backup: SqlBackup, file: SourceFile, data: memoryview, slab: Slab | None, there: bool) -> None:
        super().__init__(file, 0, data, slab, last=True)
        self._backup = backup
        self._there = there

    def read(self, scratch: memoryview) -> memoryview | None:
        """See ``sources.base.Item``."""
        if not self._there:
            return None
        data = super().read(scratch)
        if data is not None:
            self._backup.verify(self.file.path, 0, data)
        return data


class SqlBackup(LowLevelBackup):
    """See the module."""

    transport = "sql"

    def items(self) -> Iterator[Item]:
        """Items of all files but ``global/pg_control``, which ``finish`` gives."""
        small: list[SourceFile] = []
        pending = 0
        for file in self._tree.walk():
            self._glance()
            if file.kind != FileKind.FILE or not file.size:
                yield RangeItem(self, file, 0, 0, True)
                continue
            if file.size > _SMALL_BYTES:
                yield from self._ranges(file)
                continue
            if len(small) == _BATCH_FILES or pending + file.size > _BATCH_BYTES:
                yield from self._fetched(small)
                small, pending = [], 0
            small.append(file)
            pending += file.size
        if small:
            yield from self._fetched(small)

    def read(self, item: RangeItem, scratch: memoryview) -> memoryview | None:
        """Read and verify *item*; for :meth:`RangeItem.read`."""
        if not item.length:
            return scratch[:0]
        self._throttle.take(item.length)
        with self._links.borrowed() as link:
            count = link.read(item.file.path, item.offset, scratch[: item.length])
        if count is None:
            return None
        self.verify(item.file.path, item.offset, scratch[:count])
        return scratch[:count]

    def verify(self, path: bytes, offset: int, data: memoryview) -> None:
        """Verify page checksums where that is asked for."""
        if self._pages is None:
            return

        def again(page: memoryview, offset: int) -> int:
            with self._links.borrowed() as link:
                return link.read(path, offset, page) or 0

        self._pages.verify(path, offset, data, again)

    # -- starting -----------------------------------------------------------------------------------------------------

    def _open_wal(self) -> BackupWal:
        self._instance = server_instance(self.session, self.conn)
        with mapped(self.conn, "asking for the role's rights"):
            (may,) = self.session.execute(_MAY_REPLICATE).fetchone() or (False,)
        if may:
            return super()._open_wal()
        wal = FileWal(self.conn, self.server, self.cancel, self._instance)
        self.timeline, self._position = wal.timeline, wal.flush
        return wal

    def _prepare(self) -> None:
        self._links = DataLinks(self.conn, self.settings.sql_connections, self.cancel, self._instance)
        self._closing.callback(self._links.close)
        with self._links.borrowed() as link:
            list(link.copy(_PROBE, "calling the functions that read files"))
        self._tree = SqlTree(self._links, self.server)
        self._slabs = SlabPool(self.settings.workers + _SPARE_SLABS, self.cancel)

    # -- while reading ------------------------------------------------------------------------------------------------

    def _ranges(self, file: SourceFile) -> Iterator[Item]:
        for offset in range(0, file.size, SLAB_BYTES):
            self._glance()
            length = min(SLAB_BYTES, file.size - offset)
            yield RangeItem(self, file, offset, length, offset + length == file.size)

    def _fetched(self, files: list[SourceFile]) -> Iterator[Item]:
        """The items of small files, by one query; one that became shorter has the size that it has now."""
        self._throttle.take(sum(file.size for file in files))
        slab = self._slabs.take()
        try:
            values = ", ".join(f"({i}, {literal(file.path)}, {file.size}::bigint)" for i, file in enumerate(files))
            query = f"SELECT i, pg_read_binary_file(p, 0, n, true) FROM (VALUES {values}) v(i, p, n)"
            found: list[FetchedItem] = []
            with self._links.borrowed() as link:
                for number, data in link.copy(query, f"reading {len(files)} small files"):
                    file = files[int.from_bytes(number or b"", "big")]
                    there = data is not None
                    content = b"" if data is None else data
                    begin, slab.used = slab.used, slab.used + len(content)
                    slab.data[begin : slab.used] = content
                    if there and len(content) < file.size:
                        file = dataclasses.replace(file, size=len(content))
                    found.append(FetchedItem(self, file, slab.data[begin : slab.used], slab, there))
        finally:
            slab.drop()
        yield from found

    def _control_entry(self) -> MadeFile:
        buffer = memoryview(bytearray(_CONTROL_MAX_BYTES))

        def content() -> bytes:
            with self._links.borrowed() as link:
                return bytes(buffer[: link.read(control_file.PATH, 0, buffer) or 0])

        found = control_file.read_whole(content, control_file.PATH.decode())
        return self._tree.control(len(found.content), int(time.time())), found.content
