"""Running one command of the replication protocol whose answer is a long COPY.

Two ways to the same events. :class:`RawLink` reads the socket itself: libpq copies each message of 32 KiB into memory
of its own and hands it over as an object, which costs a third of the reader's time. It is for links that are neither
TLS nor GSS, which only libpq can decrypt; :class:`LibpqLink` is for those.
Source: PostgreSQL documentation "Message Formats"; PERF.md, "What follows" 3.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from mingus_engine.bounds import MIB
from mingus_engine.errors import Cancelled

Row = list[bytes | None]
Notify = Callable[[str], None]

_POLL_S = 0.5
# Large enough that a receive takes in what the kernel has; small enough for a second-level cache.
RECEIVE_BYTES = 512 * 1024
# No message of a backup is larger than a few dozen KiB; a header that says more is not from PostgreSQL.
MESSAGE_MAX_BYTES = 16 * MIB
_HEADER = struct.Struct(">cI")


@dataclass(frozen=True)
class Rows:
    """A result set, in text format."""

    rows: list[Row]


class ServerFailure(Exception):
    """The server refused or gave up. ``sqlstate`` is ``None`` when the connection broke."""

    def __init__(self, sqlstate: str | None, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class Link(Protocol):
    """A connection that runs one command at a time."""

    def run(self, command: str) -> Iterator[Rows | memoryview]:
        """The result sets and COPY messages of *command*, in order; a message is valid until the next is asked for.

        :raises ServerFailure: also after the last event. :raises Cancelled: the event was set.
        """

    def close(self) -> None:
        """End the connection, whatever the server is doing; idempotent."""


def take_over(connection: PGconn, cancel: threading.Event, notify: Notify) -> Link:
    """The fastest way for this connection, which now belongs to the link. *notify* gets the server's warnings."""
    # libpq negotiates GSS only where the parameter allows it; connection.py turns it off unless the environment asks.
    gss = any(option.keyword == b"gssencmode" and option.val != b"disable" for option in connection.info)
    if connection.ssl_in_use or gss:
        return LibpqLink(connection, cancel, notify)
    return RawLink(connection, cancel, notify)


class RawLink:
    """Speaks the protocol on libpq's socket. libpq is idle at the start, so nothing of it lies in libpq's buffer."""

    def __init__(self, connection: PGconn, cancel: threading.Event, notify: Notify) -> None:
        self._connection = connection
        self._cancel = cancel
        self._notify = notify
        self._socket = socket.socket(fileno=os.dup(connection.socket))
        self._socket.settimeout(_POLL_S)
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._begin = self._end = 0

    def run(self, command: str) -> Iterator[Rows | memoryview]:
        """See :class:`Link`."""
        text = command.encode() + b"\0"
        try:
            self._socket.sendall(_HEADER.pack(b"Q", len(text) + 4) + text)
        except OSError as error:
            raise ServerFailure(None, str(error)) from None
        rows: list[Row] = []
        failure: ServerFailure | None = None
        while True:
            kind, body = self._message()
            if kind == b"d":
                yield body
            elif kind == b"D":
                rows.append(_row(body))
            elif kind == b"C":
                # Result sets of BASE_BACKUP end with "SELECT", the command itself with its own name.
                if rows:
                    yield Rows(rows)
                    rows = []
            elif kind == b"E":
                fields = _fields(body)
                failure = ServerFailure(fields.get("C"), fields.get("M", "unknown error"))
                if fields.get("V", fields.get("S")) == "FATAL":
                    raise failure
            elif kind == b"N":
                self._notify(_fields(body).get("M", ""))
            elif kind == b"Z":
                if failure:
                    raise failure
                return

    def close(self) -> None:
        """See :class:`Link`."""
        self._socket.close()
        self._connection.finish()

    def _message(self) -> tuple[bytes, memoryview]:
        if self._end - self._begin < _HEADER.size:
            self._receive(_HEADER.size)
        kind, length = _HEADER.unpack_from(self._buffer, self._begin)
        if not 4 <= length <= MESSAGE_MAX_BYTES:
            raise ServerFailure(None, f"message of {length} bytes: not the PostgreSQL protocol")
        if self._end - self._begin <= length:
            self._receive(length + 1)
        begin = self._begin
        self._begin = begin + length + 1
        return kind, self._buffer[begin + _HEADER.size : self._begin]

    def _receive(self, needed: int) -> None:
        """Have *needed* bytes in the buffer, contiguous."""
        rest = self._end - self._begin
        if self._begin + needed > len(self._buffer):
            target = self._buffer if needed <= len(self._buffer) else memoryview(bytearray(needed))
            target[:rest] = bytes(self._buffer[self._begin : self._end])
            self._buffer, self._begin, self._end = target, 0, rest
        elif not rest:
            self._begin = self._end = 0
        while self._end - self._begin < needed:
            if self._cancel.is_set():
                raise Cancelled("the backup was cancelled")
            try:
                count = self._socket.recv_into(self._buffer[self._end :])
            except TimeoutError:
                continue
            except OSError as error:
                raise ServerFailure(None, str(error)) from None
            if not count:
                raise ServerFailure(None, "the server closed the connection")
            self._end += count


class LibpqLink:
    """The same through libpq's functions."""

    def __init__(self, connection: PGconn, cancel: threading.Event, notify: Notify) -> None:
        self._connection = connection
        self._cancel = cancel

        def notice(result: PGresult) -> None:
            notify((result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace"))

        connection.notice_handler = notice

    def run(self, command: str) -> Iterator[Rows | memoryview]:
        """See :class:`Link`."""
        link = self._connection
        failure: ServerFailure | None = None
        try:
            link.send_query(command.encode())
            while (result := self._result()) is not None:
                if result.status == pq.ExecStatus.TUPLES_OK:
                    columns = range(result.nfields)
                    yield Rows([[result.get_value(row, column) for column in columns] for row in range(result.ntuples)])
                elif result.status == pq.ExecStatus.COPY_OUT:
                    yield from self._messages()
                elif result.status != pq.ExecStatus.COMMAND_OK:
                    state = result.error_field(pq.DiagnosticField.SQLSTATE)
                    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
                    failure = ServerFailure(
                        state.decode() if state else None,
                        message.decode("utf-8", "replace") or result.get_error_message(),
                    )
        except psycopg.Error as error:
            raise ServerFailure(None, str(error)) from None
        if failure:
            raise failure

    def close(self) -> None:
        """See :class:`Link`."""
        self._connection.finish()

    def _messages(self) -> Iterator[memoryview]:
        while (found := self._connection.get_copy_data(1))[0] >= 0:
            if found[0]:
                yield found[1][: found[0]]
            else:
                self._wait()

    def _result(self) -> PGresult | None:
        while self._connection.is_busy():
            self._wait()
        return self._connection.get_result()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLIN)
        while not poll.poll(_POLL_S * 1000):
            if self._cancel.is_set():
                raise Cancelled("the backup was cancelled")
        self._connection.consume_input()


def _row(body: memoryview) -> Row:
    (columns,) = struct.unpack_from(">H", body)
    row: Row = []
    position = 2
    for _ in range(columns):
        (length,) = struct.unpack_from(">i", body, position)
        position += 4
        row.append(None if length < 0 else bytes(body[position : position + length]))
        position += max(length, 0)
    return row


def _fields(body: memoryview) -> dict[str, str]:
    parts = bytes(body).split(b"\0")
    return {part[:1].decode("latin-1"): part[1:].decode("utf-8", "replace") for part in parts if part}
