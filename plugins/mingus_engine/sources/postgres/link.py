"""Running one command of the replication protocol whose answer is a long COPY.

Two ways to the same events. :class:`RawLink` reads the socket itself: libpq copies each message of 32 KiB into memory
of its own and hands it over as an object, which costs a third of the reader's time. It is for links that are neither
TLS nor GSS, which only libpq can decrypt; :class:`LibpqLink` is for those.

Nearly all that a backup sends are messages of one form and size, so :meth:`RawLink.fill` bets on them: one system call
scatters the contents of several where they belong and their headers aside. A bet that is lost costs a copy.
Source: PostgreSQL documentation "Message Formats"; PERF.md, "What follows" 3.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
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
# ``SINK_BUFFER_LENGTH`` of basebackup.c: the contents of a file come in pieces of this size, the last one apart.
PIECE_BYTES = 32 * 1024
_PIECE_HEADER = _HEADER.pack(b"d", 4 + 1 + PIECE_BYTES) + b"d"
_PIECE_STEP = len(_PIECE_HEADER) + PIECE_BYTES
# 256 KiB a call: more does not lie in a unix socket's buffer, and the second-level cache is shared with workers.
_PIECES = 8


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

    def upload(self, command: str, pieces: Iterable[bytes]) -> None:
        """Run *command* and send it *pieces* as its COPY.

        :raises ServerFailure: it was refused; the link is fit for another command unless the connection broke.
        :raises Cancelled: the event was set.
        """

    def fill(self, target: memoryview) -> int:
        """Receive the beginning of *target*, contents of a file that come next; called instead of asking for an event.

        :return: bytes, maybe 0: what comes next must be had as an event. :raises: as :meth:`run`.
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
        # Not settimeout: that asks the kernel before each receive whether there is something to receive.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_POLL_S * 1e6)))
        self._headers = memoryview(bytearray(_PIECES * len(_PIECE_HEADER)))
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._begin = self._end = 0

    def run(self, command: str) -> Iterator[Rows | memoryview]:
        """See :class:`Link`."""
        self._send(b"Q", command.encode() + b"\0")
        yield from self._answers(())

    def upload(self, command: str, pieces: Iterable[bytes]) -> None:
        """See :class:`Link`."""
        self._send(b"Q", command.encode() + b"\0")
        for _ in self._answers(pieces):
            raise ServerFailure(None, f"{command}: the server sent data")

    def _send(self, kind: bytes, body: bytes) -> None:
        try:
            self._socket.sendall(_HEADER.pack(kind, len(body) + 4) + body)
        except OSError as error:
            raise ServerFailure(None, str(error)) from None

    def _answers(self, copy_in: Iterable[bytes]) -> Iterator[Rows | memoryview]:
        """What comes until the server is ready again; *copy_in* is sent when it asks for it."""
        rows: list[Row] = []
        failure: ServerFailure | None = None
        while True:
            kind, body = self._message()
            if kind == b"d":
                yield body
            elif kind == b"D":
                rows.append(_row(body))
            elif kind == b"G":
                for piece in copy_in:
                    if self._cancel.is_set():
                        raise Cancelled("the backup was cancelled")
                    self._send(b"d", piece)
                self._send(b"c", b"")
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

    def fill(self, target: memoryview) -> int:
        """See :class:`Link`."""
        count = min(len(target) // PIECE_BYTES, _PIECES)
        held = self._buffer[self._begin : self._end]
        if not count or len(held) >= _PIECE_STEP or held[: len(_PIECE_HEADER)] != _PIECE_HEADER[: len(held)]:
            return 0
        parts = self._parts(target, count)
        received = len(held)
        parts[0][:received] = held[: len(parts[0])]
        parts[1][: max(0, received - len(parts[0]))] = held[len(parts[0]) :]
        self._begin = self._end = 0
        while received < count * _PIECE_STEP:
            received += self._some(_behind(parts, received), socket.MSG_WAITALL)
            complete = (received + PIECE_BYTES) // _PIECE_STEP * len(_PIECE_HEADER)
            if self._headers[:complete] != (_PIECE_HEADER * count)[:complete]:
                return self._lost(parts, received)
        return count * PIECE_BYTES

    def close(self) -> None:
        """See :class:`Link`."""
        self._socket.close()
        self._connection.finish()

    def _parts(self, target: memoryview, count: int) -> list[memoryview]:
        """Where *count* messages go: header, contents, header, contents …"""
        parts = []
        for i in range(count):
            parts.append(self._headers[i * len(_PIECE_HEADER) : (i + 1) * len(_PIECE_HEADER)])
            parts.append(target[i * PIECE_BYTES : (i + 1) * PIECE_BYTES])
        return parts

    def _lost(self, parts: list[memoryview], received: int) -> int:
        """Another message came: it and what follows go where events are made from. The contents before it, in bytes."""
        right = 0
        while parts[2 * right] == _PIECE_HEADER:
            right += 1
        stray = b"".join(parts[2 * right :])[: received - right * _PIECE_STEP]
        self._buffer[: len(stray)] = stray
        self._end = len(stray)
        return right * PIECE_BYTES

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
            self._end += self._some([self._buffer[self._end :]])

    def _some(self, parts: list[memoryview], flags: int = 0) -> int:
        """Receive into *parts* once something came; bytes."""
        while True:
            if self._cancel.is_set():
                raise Cancelled("the backup was cancelled")
            try:
                count = self._socket.recvmsg_into(parts, 0, flags)[0]
            except BlockingIOError:  # nothing for so long
                continue
            except OSError as error:
                raise ServerFailure(None, str(error)) from None
            if not count:
                raise ServerFailure(None, "the server closed the connection")
            return count


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
        yield from self._answers(command, ())

    def upload(self, command: str, pieces: Iterable[bytes]) -> None:
        """See :class:`Link`."""
        for _ in self._answers(command, pieces):
            raise ServerFailure(None, f"{command}: the server sent data")

    def _answers(self, command: str, copy_in: Iterable[bytes]) -> Iterator[Rows | memoryview]:
        link = self._connection
        failure: ServerFailure | None = None
        try:
            link.send_query(command.encode())
            while (result := self._result()) is not None:
                if result.status == pq.ExecStatus.TUPLES_OK:
                    columns = range(result.nfields)
                    yield Rows([[result.get_value(row, column) for column in columns] for row in range(result.ntuples)])
                elif result.status == pq.ExecStatus.COPY_IN:
                    for piece in copy_in:
                        link.put_copy_data(piece)
                    link.put_copy_end()
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

    def fill(self, target: memoryview) -> int:  # noqa: ARG002 - the contract's signature
        """See :class:`Link`: libpq gives whole messages."""
        return 0

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


def _behind(parts: list[memoryview], done: int) -> list[memoryview]:
    """What of *parts*, header and contents in turn, lies behind their first *done* bytes."""
    whole, more = divmod(done, _PIECE_STEP)
    rest = parts[2 * whole :]
    if more >= len(_PIECE_HEADER):
        del rest[0]
        more -= len(_PIECE_HEADER)
    rest[0] = rest[0][more:]
    return rest


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
