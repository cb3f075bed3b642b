"""Write-ahead log for a backup by a role that may not replicate: read from the files of ``pg_wal`` as it is written.

Without the right to replicate nothing keeps the server from recycling segments that the backup needs. So WAL is
followed closely, from the first moment on, and every stretch is proven: each page must carry its own address, and the
file must still have its name after it was read; a segment is renamed before it is overwritten. If one was recycled, the
backup fails and says what to grant; that happens only where more is written between two looks than the server keeps.
Source: PostgreSQL, ``access/xlog_internal.h`` (page header), ``xlog.c`` (``RemoveOldXlogFiles``).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Self

from mingus_engine import lsn as lsns
from mingus_engine.bounds import MIB
from mingus_engine.errors import BackupBroken, Cancelled
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.base import TimelineHistory, WalPiece
from mingus_engine.sources.postgres.connection import place
from mingus_engine.sources.postgres.facts import ServerFacts
from mingus_engine.sources.postgres.sql_links import ROW_BYTES, DataLink, literal
from mingus_engine.sources.postgres.wal import TimelineSwitch

# At 150 MB/s of WAL this is 30 MB; a server with the smallest settings in use keeps 80 (min_wal_size).
LOOK_S = 0.2
_CLOSE_S = 2.0
_READ_BYTES = 2 * MIB
_HISTORY_MAX_BYTES = MIB
_PAGE_BYTES = 8192
_PAGE_HEADER = struct.Struct("<HHIQ")
_ZEROS = bytes(_PAGE_BYTES)
_EPOCH_2000_S = 946_684_800
_HINT = "grant REPLICATION to the role: a slot then keeps what the backup needs; or raise wal_keep_size"
# The clock first: everything that was flushed when it was read lies before the position.
_POSITION = (
    f"SELECT ((extract(epoch FROM clock_timestamp()) - {_EPOCH_2000_S}) * 1000000)::bigint,"
    " (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0')::bigint"
)
_TIMELINE = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())"
    " ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int END"
)


class FileWal:
    """A ``backup.BackupWal`` over one data connection. ``stream`` runs in one thread, ``stop_at`` in any.

    :ivar timeline, flush: the server's timeline, and up to where its WAL was flushed, at the beginning.
    """

    slot = ""
    switch: TimelineSwitch | None = None

    def __init__(self, conn: PostgresConnection, server: ServerFacts, cancel: threading.Event, instance: str) -> None:
        self._conn, self._server, self._cancel = conn, server, cancel
        self._segment_bytes = server.wal_segment_bytes
        self._stop_at: int | None = None
        self._closed = False
        self._wake = threading.Event()
        # Held while the connection is used: libpq's connections are not for two threads.
        self._lock = threading.Lock()
        self.position = 0
        self._link = DataLink(conn, cancel, instance)
        try:
            (self.timeline,) = self._numbers(_TIMELINE)
            _, self.flush = self._numbers(_POSITION)
        except BaseException:
            self._link.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def history(self, timeline: int) -> TimelineHistory:
        """See ``WalReceiver``."""
        name = f"{timeline:08X}.history"
        buffer = memoryview(bytearray(_HISTORY_MAX_BYTES))
        count = self._link.read(b"pg_wal/" + name.encode(), 0, buffer)
        if not count:
            raise BackupBroken(f"{place(self._conn)}: pg_wal holds no {name}")
        return TimelineHistory(timeline, name, bytes(buffer[:count]))

    def stop_at(self, lsn: int) -> None:
        """Let ``stream`` end once everything before *lsn* was yielded."""
        self._stop_at = lsn
        self._wake.set()

    def confirm(self, lsn: int) -> None:
        """Nothing is held on the server."""

    def stream(self, start: int, timeline: int) -> Iterator[WalPiece]:
        """Pieces from *start* (a segment boundary) on, until the position given to :meth:`stop_at`.

        :raises BackupBroken: a segment was recycled before it was read, the connection broke.
        :raises Cancelled: the event was set.
        """
        self.position = start
        while self._stop_at is None or self.position < self._stop_at:
            self._wake.clear()
            self._checkpoint()
            clock, flush = self._numbers(_POSITION)
            if self.position >= flush:
                self._wake.wait(LOOK_S)
                continue
            while self.position < flush:
                self._checkpoint()
                for data in self._read(timeline, min(flush, self.position + _READ_BYTES)):
                    start, self.position = self.position, self.position + len(data)
                    yield WalPiece(timeline, start, data, clock, flush)

    def close(self) -> None:
        """End the connection; idempotent. A ``stream`` in another thread raises."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if not self._lock.acquire(timeout=_CLOSE_S):
            self._link.cut()
            self._lock.acquire()
        try:
            self._link.close()
        finally:
            self._lock.release()

    def _read(self, timeline: int, end: int) -> list[memoryview]:
        """WAL from the position to *end* or to the end of the segment, proven."""
        segment = lsns.segment_start(self.position, self._segment_bytes)
        end = min(end, segment + self._segment_bytes)
        name = b"pg_wal/" + lsns.segment_name(timeline, self.position, self._segment_bytes).encode()
        begin = self.position - self.position % _PAGE_BYTES
        query = (
            f"SELECT pg_read_binary_file({literal(name)}, g, least({ROW_BYTES}, {end - segment} - g), true),"
            f" (pg_stat_file({literal(name)}, true)).size"
            f" FROM generate_series({begin - segment}::bigint, {end - segment - 1}::bigint, {ROW_BYTES}) g"
        )
        found: list[memoryview] = []
        at = begin
        for data, still_there in self._rows(query, f"reading {name.decode()}"):
            if data is None or still_there is None:
                raise self._lost(name, "was removed before it was read")
            piece = memoryview(data)
            self._prove(piece, at, timeline, name)
            at += len(piece)
            found.append(piece)
        if at != end:
            raise self._lost(name, f"ends at {lsns.text(at)}")
        found[0] = found[0][self.position - begin :]
        return found

    def _prove(self, piece: memoryview, at: int, timeline: int, name: bytes) -> None:
        for offset in range(0, len(piece) - _PAGE_HEADER.size + 1, _PAGE_BYTES):
            _, _, of_timeline, address = _PAGE_HEADER.unpack_from(piece, offset)
            if address == at + offset and 0 < of_timeline <= timeline:
                continue
            # Behind a switch of segments the rest of one is written as zeros, without page headers.
            page = piece[offset : offset + _PAGE_BYTES]
            if page != _ZEROS[: len(page)]:
                raise self._lost(name, f"holds other pages at {lsns.text(at + offset)}: it was recycled")

    def _lost(self, name: bytes, what: str) -> BackupBroken:
        return BackupBroken(f"{place(self._conn)}: {name.decode()} {what}", hint=_HINT)

    def _numbers(self, query: str) -> list[int]:
        (row,) = self._rows(query, "asking for the write-ahead log's position")
        return [int.from_bytes(value or b"", "big", signed=True) for value in row]

    def _rows(self, query: str, doing: str) -> list[list[bytes | None]]:
        with self._lock:
            self._checkpoint()
            return [[None if value is None else bytes(value) for value in row] for row in self._link.copy(query, doing)]

    def _checkpoint(self) -> None:
        if self._closed or self._cancel.is_set():
            raise Cancelled("reading write-ahead log was cancelled")
