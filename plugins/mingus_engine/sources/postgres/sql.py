"""Transport ``sql``: files are read by the server's own functions over ordinary sessions, between ``pg_backup_start``
and ``pg_backup_stop``.

No agent, no access to the server's files, no superuser; EXECUTE on five functions. Large files are read by the workers,
a few MiB a query; small ones by the thread that lists them, many a query. A role that may replicate reserves WAL by a
slot like the other transports; for one that may not, see ``sql_wal``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.sources.base import FileKind, Item, SourceFile, Stretch, Stretches
from mingus_engine.sources.postgres import control_file, invariants
from mingus_engine.sources.postgres.backup import BackupWal
from mingus_engine.sources.postgres.connection import mapped
from mingus_engine.sources.postgres.low_level import LowLevelBackup, MadeFile
from mingus_engine.sources.postgres.sql_changes import FACTS, Changes, Comparison, Databases
from mingus_engine.sources.postgres.sql_digests import Digests, FileDigests
from mingus_engine.sources.postgres.sql_links import DataLinks, server_instance
from mingus_engine.sources.postgres.sql_small import SMALL_BYTES, SmallFiles
from mingus_engine.sources.postgres.sql_tree import SqlTree
from mingus_engine.sources.postgres.sql_wal import FileWal
from mingus_engine.sources.slabs import SlabItem, SlabPool

# Slabs of small files besides those that workers hold; of each, only the first MiB is used.
_SPARE_SLABS = 2
_CONTROL_MAX_BYTES = 64 * 1024
# A right that is missing is found before anything was started.
_PROBE = (
    "SELECT pg_read_binary_file('PG_VERSION', 0, 8, true), (pg_stat_file('PG_VERSION', true)).size,"
    " (SELECT count(*) FROM pg_ls_dir('global', true, false))"
)
_CLOCK = "SELECT floor(extract(epoch FROM clock_timestamp()))::bigint"
_MAY_REPLICATE = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user"


@dataclass(frozen=True)
class _Plan:
    """What to do with the ranges of one file: compare them with the parent, keep digests of them."""

    compare: Comparison | None = None
    digests: FileDigests | None = None


_READ = _Plan()


class RangeItem:
    """A stretch of a large file, read over a data connection into the worker's own buffer."""

    __slots__ = ("_backup", "file", "last", "length", "offset", "plan")

    def __init__(
        self, backup: SqlBackup, file: SourceFile, offset: int, length: int, *, last: bool, plan: _Plan = _READ
    ) -> None:
        self._backup = backup
        self.file = file
        self.offset = offset
        self.length = length
        self.last = last
        self.plan = plan

    def read(self, scratch: memoryview) -> memoryview | Stretches | None:
        """See ``sources.base.Item``."""
        return self._backup.read(self, scratch)

    def release(self) -> None:
        """Nothing to give back: the buffer is the worker's."""


class SqlBackup(LowLevelBackup):
    """See the module."""

    transport = "sql"

    def items(self) -> Iterator[Item]:
        """Items of all files but ``global/pg_control``, which ``finish`` gives."""
        small = SmallFiles(self._links, self._slabs, self._throttle, self.verify, self._changes.parent)
        for file in self._tree.walk():
            self._glance()
            if file.kind != FileKind.FILE or not file.size:
                yield RangeItem(self, file, 0, 0, last=True)
            elif file.size <= SMALL_BYTES:
                yield from small.add(file)
            else:
                yield from self._ranges(file)
                yield from (SlabItem(f, 0, memoryview(d), None, last=True) for f, d in self._digests.ready())
        yield from small.end()

    def read(self, item: RangeItem, scratch: memoryview) -> memoryview | Stretches | None:
        """Read and verify *item*, or what changed of it; for :meth:`RangeItem.read`."""
        if not item.length:
            return scratch[:0]
        if item.plan.compare is not None:
            return self._read_changes(item, item.plan.compare, scratch)
        self._throttle.take(item.length)
        with self._links.borrowed() as link:
            count = link.read(item.file.path, item.offset, scratch[: item.length])
        if count is None:
            return None
        self.verify(item.file.path, item.offset, scratch[:count])
        if item.plan.digests is not None:
            item.plan.digests.take(item.offset, [Stretch(item.offset, count, scratch[:count])])
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

    def _start(self) -> None:
        with mapped(self.conn, "asking for the server's clock"):
            (clock,) = self.session.execute(_CLOCK).fetchone() or (0,)
        super()._start()
        self._databases = Databases.now(self.session, self.conn, self.server, clock)
        self._changes = Changes(self.server, self._databases, self.parent, same_lifetime=self.same_lifetime)
        self._digests = Digests()
        if self.parent is not None:
            self.method = self._changes.method
            if self._changes.lsn_reason:
                self.notes.append(self._changes.lsn_reason)

    # -- while reading ------------------------------------------------------------------------------------------------

    def _read_changes(self, item: RangeItem, how: Comparison, scratch: memoryview) -> Stretches | None:
        """Let the server compare, then fetch what changed."""
        path, offset = item.file.path, item.offset
        with self._links.borrowed() as link:
            found = self._changes.changed(link, path, offset, item.length, how)
            if found is None:
                return None
            have, ranges = found
            end = offset + have
            if ranges:
                self._throttle.take(sum(length for _, length in ranges))
                read_to = link.read_ranges(path, ranges, scratch, offset)
                if read_to is None:
                    return None
                if read_to < sum(ranges[-1]):
                    end = read_to  # the file became shorter between the two queries
        stretches: list[Stretch] = []
        at = offset
        for begin, length in [*ranges, (offset + have, 0)]:
            if at < min(begin, end):
                stretches.append(Stretch(at, min(begin, end) - at, parent=True))
            length = max(0, min(length, end - begin))
            if length:
                data = scratch[begin - offset : begin - offset + length]
                self.verify(path, begin, data)
                stretches.append(Stretch(begin, length, data))
            at = begin + length
        if item.plan.digests is not None:
            item.plan.digests.take(offset, stretches, how.digests)
        return Stretches(stretches)

    def _ranges(self, file: SourceFile) -> Iterator[Item]:
        plan = _Plan(self._changes.comparison(file.path), self._changes.digests(file, self._digests))
        for offset in range(0, file.size, SLAB_BYTES):
            self._glance()
            length = min(SLAB_BYTES, file.size - offset)
            yield RangeItem(self, file, offset, length, last=offset + length == file.size, plan=plan)

    def _origin_files(self) -> list[MadeFile]:
        return list(self._digests.ready())

    def _facts(self, measured: list[invariants.Measured], *, before_stop: bool) -> dict[str, Any]:
        own = {"databases": self._databases.as_facts(), "received_bytes": self._links.received_bytes}
        return {**super()._facts(measured, before_stop=before_stop), FACTS: own}

    def _control_entry(self) -> MadeFile:
        buffer = memoryview(bytearray(_CONTROL_MAX_BYTES))

        def content() -> bytes:
            with self._links.borrowed() as link:
                return bytes(buffer[: link.read(control_file.PATH, 0, buffer) or 0])

        found = control_file.read_whole(content, control_file.PATH.decode())
        return self._tree.control(len(found.content), int(time.time())), found.content
