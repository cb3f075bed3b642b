"""The data connections of transport ``sql``: files of the server, read by its own functions over several sessions.

``COPY (…) TO STDOUT (FORMAT binary)`` of rows of 128 KiB is as fast as ``BASE_BACKUP`` (POSTGRES.md §7); one value of
megabytes is half as fast. Each query is for a few MiB: none holds a snapshot for long, which would keep the server from
removing dead rows.

Text is sent unconverted (``SQL_ASCII``), so the name of a file is the bytes of its name. Sources: PostgreSQL
documentation "COPY", "Generic File Access Functions".
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg

from mingus_engine.errors import BackupBroken, Cancelled, SourceUnsupported
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.postgres.connection import Session, connect_sql, mapped, place, server_error
from mingus_engine.sources.postgres.link import Rows, ServerFailure, take_over

ROW_BYTES = 128 * 1024
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEAD_BYTES = len(_SIGNATURE) + 8
_POLL_S = 0.5
# SQLSTATE: the name of a file is not text in the server's encoding.
_NOT_TEXT = "22021"
_CANCEL_S = 5.0
# Parallel workers and compilation would cost more than they give to queries that call functions one after another.
_SESSION = (
    "SET client_encoding = 'SQL_ASCII'; SET standard_conforming_strings = on; SET jit = off;"
    " SET max_parallel_workers_per_gather = 0"
)
_SERVER = "SELECT system_identifier::text || ' ' || pg_postmaster_start_time()::text FROM pg_control_system()"

#: One row: its columns; ``None`` is NULL. Valid until the next row.
Row = list[memoryview | None]


def server_instance(session: Session, conn: PostgresConnection) -> str:
    """Tells one running server from all others, and from itself before its last restart."""
    with mapped(conn, "asking which server this is"):
        (instance,) = session.execute(_SERVER).fetchone() or ("",)
    return str(instance)


def literal(name: bytes) -> str:
    """*name* as an SQL expression of type text, for :meth:`DataLink.copy`.

    The server refuses a name that is not text in its encoding.
    """
    try:
        return "'" + name.decode().replace("'", "''") + "'"
    except UnicodeDecodeError:
        return f"convert_from('\\x{name.hex()}'::bytea, 'SQL_ASCII')"


class DataLink:
    """One session that runs COPY queries, for one thread at a time."""

    def __init__(self, conn: PostgresConnection, cancel: threading.Event, instance: str) -> None:
        self._conn = conn
        self._session = connect_sql(conn)
        self.busy = False
        self.received_bytes = 0
        try:
            if server_instance(self._session, conn) != instance:
                raise SourceUnsupported(
                    f"{place(conn)}: two connections reached two servers",
                    hint="connect to the server itself, not to a pooler or balancer",
                )
            with mapped(conn, "setting up a data connection"):
                self._session.execute(_SESSION.encode())
        except BaseException:
            self._session.close()
            raise
        self._link = take_over(self._session.pgconn, cancel, lambda _: None)

    def copy(self, query: str, doing: str) -> Iterator[Row]:
        """The rows of *query*, in binary format; to be read to their end.

        :raises SourceError: the server refused, or the connection broke. :raises Cancelled: the event was set.
        """
        self.busy = True
        head = True
        try:
            for event in self._link.run(f"COPY ({query}) TO STDOUT (FORMAT binary)"):
                if isinstance(event, Rows):
                    continue
                self.received_bytes += len(event)
                if head:
                    if event[: len(_SIGNATURE)] != _SIGNATURE:
                        raise BackupBroken(f"{place(self._conn)}: {doing}: not the format of COPY")
                    event, head = event[_HEAD_BYTES:], False
                while event and (row := _row(event)) is not None:
                    yield row[0]
                    event = event[row[1] :]
        except ServerFailure as failure:
            error = server_error(self._conn, failure.sqlstate, failure.message, doing)
            if failure.sqlstate == _NOT_TEXT:
                hint = "PostgreSQL itself makes no such file: remove it, or use another transport"
                raise SourceUnsupported(error.message, hint=hint) from None
            raise error from None
        self.busy = False

    def read(self, path: bytes, offset: int, target: memoryview) -> int | None:
        """Fill *target* from *offset* of a file; bytes that were there, ``None``: there is no such file."""
        end, file = offset + len(target), literal(path)
        query = (
            f"SELECT g, pg_read_binary_file({file}, g, least({ROW_BYTES}, {end} - g), true)"
            f" FROM generate_series({offset}::bigint, {end - 1}::bigint, {ROW_BYTES}) g"
        )
        done, vanished = offset, False
        for number, data in self.copy(query, f"reading {path.decode('utf-8', 'replace')}"):
            if data is None:
                vanished = True
            elif number is not None and int.from_bytes(number, "big") == done:  # else behind a short read
                target[done - offset : done - offset + len(data)] = data
                done += len(data)
        return None if vanished else done - offset

    def read_ranges(self, path: bytes, ranges: Sequence[tuple[int, int]], target: memoryview, base: int) -> int | None:
        """Read *ranges* (offset, length; ascending) of a file to their places in *target*, whose first byte is *base*.

        :return: offset behind the last byte that was read without a gap in what was asked for; ``None``: no such file.
        """
        pieces = [(at, min(ROW_BYTES, o + n - at)) for o, n in ranges for at in range(o, o + n, ROW_BYTES)]
        values = ", ".join(f"({at}::bigint, {length}::bigint)" for at, length in pieces)
        query = f"SELECT pg_read_binary_file({literal(path)}, o, n, true) FROM (VALUES {values}) v(o, n)"
        end, vanished, short = base, False, False
        rows = self.copy(query, f"reading {path.decode('utf-8', 'replace')}")
        for (at, length), (data,) in zip(pieces, rows, strict=True):
            if data is None:
                vanished = True
            elif not short:
                target[at - base : at - base + len(data)] = data
                end, short = at + len(data), len(data) < length
        return None if vanished else end

    def cut(self) -> None:
        """Take the line from under whoever waits for an answer; in any thread."""
        with socket.socket(fileno=os.dup(self._session.fileno())) as line, suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the session, and first what it does on the server; idempotent."""
        if self._session.closed:
            return
        if self.busy:
            with suppress(psycopg.Error):
                self._session.cancel_safe(timeout=_CANCEL_S)
        self._link.close()
        self._session.close()


class DataLinks:
    """Several sessions on one server, lent to whoever reads.

    :param instance: of the server that they must reach (:func:`server_instance`).
    """

    def __init__(self, conn: PostgresConnection, count: int, cancel: threading.Event, instance: str) -> None:
        self._conn, self._cancel = conn, cancel
        self._failed = False
        self._all: list[DataLink] = []
        self._free: queue.LifoQueue[DataLink] = queue.LifoQueue()
        self._closed = False
        try:
            for _ in range(count):
                self._all.append(DataLink(conn, cancel, instance))
        except BaseException:
            self.close()
            raise
        for link in self._all:
            self._free.put(link)

    @property
    def received_bytes(self) -> int:
        """What came over all of them as rows."""
        return sum(link.received_bytes for link in self._all)

    @contextmanager
    def borrowed(self) -> Iterator[DataLink]:
        """A session for this thread; waits until one is free.

        :raises Cancelled: while waiting. :raises BackupBroken: what was done with another one has failed.
        """
        while True:
            if self._closed or self._cancel.is_set():
                raise Cancelled("the backup was cancelled")
            if self._failed:
                raise BackupBroken(f"{place(self._conn)}: another data connection has failed")
            with suppress(queue.Empty):
                link = self._free.get(timeout=_POLL_S)
                break
        try:
            yield link
        except BaseException:
            self._failed = True  # who waits must not wait for this one
            raise
        self._free.put(link)

    def close(self) -> None:
        """End all sessions, also those in use: their readers fail."""
        self._closed = True
        for link in self._all:
            link.close()


def _row(data: memoryview) -> tuple[Row, int] | None:
    """The first row of *data* and its length; ``None`` at the trailer."""
    (columns,) = struct.unpack_from(">h", data)
    if columns < 0:
        return None
    row: Row = []
    at = 2
    for _ in range(columns):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        row.append(None if length < 0 else data[at : at + length])
        at += max(length, 0)
    return row, at
