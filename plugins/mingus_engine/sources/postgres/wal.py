"""The receiver of write-ahead log over the replication protocol.

A physical slot keeps the server from removing WAL that is still needed: a temporary one, made before a backup starts,
which belongs to this connection and vanishes with it, or the archiver's, which stays (``slots``). ``stream`` yields
pieces until ``stop_at`` names an LSN that was reached. Source: PostgreSQL documentation "Streaming Replication
Protocol"; POSTGRES.md §4.

Feedback: a periodic status reports as flushed only what ``confirm`` said is durable, so the slot never moves past what
is stored. A status that the server *asks for* reports an invalid flush position and the write position instead: a
server that shuts down waits until the reported position equals what it sent, and would wait for ever for a flush
position that stands still.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken, Cancelled, SourceBusy, SourceError
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.base import TimelineHistory, WalPiece
from mingus_engine.sources.postgres.connection import connect_replication, place, result_error, server_error

# wal_sender_timeout is 60 s by default and may be set to a few; a status costs nothing.
STATUS_INTERVAL_S = 5.0
_POLL_S = 1.0
# undefined_file: the segment is gone. object_in_use: another receiver has the slot.
_REMOVED, _IN_USE = "58P01", "55006"
_CLOSE_S = 2.0
_STATUS = struct.Struct(">cQQQqB")
_DATA = struct.Struct(">cQQq")
_KEEPALIVE = struct.Struct(">cQqB")
_WAL_DATA, _KEEPALIVE_MESSAGE = b"wk"
_EPOCH_2000_US = 946_684_800_000_000


@dataclass(frozen=True)
class Identity:
    """Answer of ``IDENTIFY_SYSTEM``: who the server is and up to where its WAL is flushed."""

    system_id: int
    timeline: int
    flush: int


@dataclass(frozen=True)
class TimelineSwitch:
    """The timeline that was streamed ends at ``lsn``; history goes on with timeline ``timeline``."""

    timeline: int
    lsn: int


class WalRemoved(BackupBroken):
    """The server has removed the write-ahead log that was asked for."""

    hint = "the slot did not hold it; see max_slot_wal_keep_size and `mingus check SOURCE`"


class WalReceiver:
    """One replication connection. ``stream`` runs in one thread; ``stop_at`` and ``confirm`` in any.

    :ivar switch: set when ``stream`` ended because the timeline did.
    """

    def __init__(self, conn: PostgresConnection, cancel: threading.Event) -> None:
        self._conn = conn
        self._cancel = cancel
        self._link: PGconn = connect_replication(conn)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._stop_at: int | None = None
        self._confirmed = 0
        self._closed = False
        # Held while libpq works, not while a caller has a piece: libpq's connections are not for two threads.
        self._lock = threading.Lock()
        self.slot = ""
        self.position = 0
        self.switch: TimelineSwitch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- commands -----------------------------------------------------------------------------------------------------

    def identify(self) -> Identity:
        """Ask who the server is.

        :raises SourceError: the connection broke.
        """
        system_id, timeline, position = self._row("IDENTIFY_SYSTEM", "identifying the system")[:3]
        return Identity(int(system_id), int(timeline), lsns.parse(position))

    def create_temporary_slot(self, name: str) -> None:
        """Make a physical slot that holds WAL from now on and ends with this connection.

        :raises SourceDenied, SourceUnsupported, BackupBroken: no right, ``wal_level`` too low, no slot free.
        """
        self._row(
            f'CREATE_REPLICATION_SLOT "{name}" TEMPORARY PHYSICAL RESERVE_WAL', f'creating replication slot "{name}"'
        )
        self.slot = name

    def create_slot(self, name: str) -> None:
        """Make a physical slot that stays and holds WAL from the last checkpoint on.

        :raises SourceDenied, SourceUnsupported, BackupBroken: no right, ``wal_level`` too low, no slot free.
        """
        self._row(f'CREATE_REPLICATION_SLOT "{name}" PHYSICAL RESERVE_WAL', f'creating replication slot "{name}"')

    def drop_slot(self, name: str) -> None:
        """Remove a slot. :raises SourceBusy: it is in use. :raises SourceError:"""
        doing = f'dropping replication slot "{name}"'
        try:
            with self._lock:
                self._checkpoint()
                result = self._link.exec_(f'DROP_REPLICATION_SLOT "{name}"'.encode())
        except psycopg.Error as error:
            raise self._broken(str(error)) from None
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise self._failed(result, doing)

    def history(self, timeline: int) -> TimelineHistory:
        """The history file of a timeline above 1.

        :raises SourceError: the server has none.
        """
        doing = f"fetching the history of timeline {timeline}"
        result = self._execute(f"TIMELINE_HISTORY {timeline}", doing)
        name, content = result.get_value(0, 0), result.get_value(0, 1)
        if name is None or content is None:
            raise BackupBroken(f"{place(self._conn)}: {doing}: no file")
        return TimelineHistory(timeline, name.decode("ascii"), content)

    # -- streaming ----------------------------------------------------------------------------------------------------

    def stop_at(self, lsn: int | None) -> None:
        """Let ``stream`` end once everything before *lsn* was yielded; ``None``: go on to the end of the timeline."""
        self._stop_at = lsn
        self._wake()

    def confirm(self, lsn: int) -> None:
        """Everything before *lsn* is durable: the server may remove it."""
        self._confirmed = max(self._confirmed, lsn)

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Within the block, between two pieces of a stream, the server hears from us while something else takes long.

        Without it a slow store looks to the server like a dead receiver (``wal_sender_timeout``).
        """
        done = threading.Event()

        def tell() -> None:
            while not done.wait(STATUS_INTERVAL_S):
                with self._lock, contextlib.suppress(psycopg.Error):  # the stream itself will say what is broken
                    if not self._closed:
                        self._report(flushed=self._confirmed)

        teller = threading.Thread(target=tell, name="mingus-wal-status", daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()

    def stream(self, start: int, timeline: int, *, tick_s: float = 0.0) -> Iterator[WalPiece]:
        """Pieces from *start* on; may be started again after it ended.

        A piece's data stay valid. Its clock and flush position are such that whatever was flushed when the clock
        showed that time lies before that position (0 = not known).

        :param tick_s: yield a piece without data so often while the server has nothing to send; 0 = never.

        Ends at the position given to :meth:`stop_at`, or at the end of the timeline (``switch`` says so then).

        :raises WalRemoved: the server does not have it any more.
        :raises SourceBusy: another receiver has the slot.
        :raises BackupBroken: the server shut down, the connection broke.
        :raises Cancelled: the event was set.
        """
        steps = self._stream(start, timeline, tick_s=tick_s)
        while True:
            with self._lock:
                self._checkpoint()
                piece = next(steps, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """End the connection and with it the slot; idempotent. A ``stream`` in another thread raises ``Cancelled``."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        if not self._lock.acquire(timeout=_CLOSE_S):
            # libpq waits for a server that does not answer: take the line from under it.
            with socket.socket(fileno=os.dup(self._link.socket)) as line, contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            self._lock.acquire()
        try:
            self._link.finish()
            os.close(self._wake_read)
            os.close(self._wake_write)
        finally:
            self._lock.release()

    def _stream(self, start: int, timeline: int, *, tick_s: float) -> Iterator[WalPiece]:
        slot = f'SLOT "{self.slot}" ' if self.slot else ""
        command = f"START_REPLICATION {slot}PHYSICAL {lsns.text(start)} TIMELINE {timeline}"
        self.position, self.switch = start, None
        try:
            self._link.send_query(command.encode())
            result = self._next_result(command)
            if result is None or result.status != pq.ExecStatus.COPY_BOTH:
                self._ended(result, command)
                return
            self._link.nonblocking = 1
            by_server = yield from self._pieces(timeline, tick_s=tick_s)
            # After an error of the server there is no COPY left that could be ended.
            with contextlib.suppress(psycopg.Error) if by_server else contextlib.nullcontext():
                self._link.put_copy_end()
                self._link.flush()
            # What was under way when we asked for the end is dropped: it lies beyond the position to stop at.
            while not by_server and (size := self._link.get_copy_data(1)[0]) >= 0:
                if size == 0:
                    self._wait()
            self._link.nonblocking = 0
            self._ended(self._next_result(command), command)
        except psycopg.Error as error:
            raise self._broken(str(error)) from None

    def _pieces(self, timeline: int, *, tick_s: float) -> Generator[WalPiece, None, bool]:
        """Returns whether it was the server that ended the stream."""
        reported = time.monotonic()
        # A message's own clock is read after its flush position; the one before it was read earlier than that.
        earlier = 0
        while True:
            self._checkpoint()
            size, data = self._link.get_copy_data(1)
            if size < 0:
                return True
            if size > 0:
                kind = data[0]
                if kind == _WAL_DATA:
                    _, start, flush, clock = _DATA.unpack_from(data)
                    piece = data[_DATA.size : size]
                    if start != self.position:
                        raise self._broken(f"WAL came at {lsns.text(start)} instead of {lsns.text(self.position)}")
                    self.position += len(piece)
                    yield WalPiece(timeline, start, piece, earlier, flush)
                    earlier = clock
                elif kind == _KEEPALIVE_MESSAGE:
                    _, _, earlier, asked = _KEEPALIVE.unpack_from(data)
                    if asked:
                        self._report(flushed=0)
                        reported = time.monotonic()
            if self._stop_at is not None and self.position >= self._stop_at:
                self._report(flushed=self._confirmed)
                return False
            if time.monotonic() - reported >= STATUS_INTERVAL_S:
                self._report(flushed=self._confirmed)
                reported = time.monotonic()
            if size == 0 and not self._wait(min(tick_s or _POLL_S, _POLL_S)) and tick_s:
                yield WalPiece(timeline, self.position, memoryview(b""), 0, 0)

    def _report(self, *, flushed: int) -> None:
        now = time.time_ns() // 1000 - _EPOCH_2000_US
        self._link.put_copy_data(_STATUS.pack(b"r", self.position, flushed, 0, now, 0))
        self._link.flush()

    def _wait(self, seconds: float = _POLL_S) -> bool:
        """Wait for the server; whether it sent something."""
        self._checkpoint()
        poll = select.poll()
        poll.register(self._link.socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(seconds * 1000)]
        if self._wake_read in ready:
            os.read(self._wake_read, 64)
        if self._link.socket in ready:
            self._link.consume_input()
            return True
        return False

    def _checkpoint(self) -> None:
        if self._closed or self._cancel.is_set():
            raise Cancelled("receiving write-ahead log was cancelled")

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it will wake anyway
            os.write(self._wake_write, b"x")

    def _ended(self, result: PGresult | None, doing: str) -> None:
        """Look at the results after the stream: a switch of timelines, an orderly end, or an error.

        All are taken, so that the connection is free for the next command.
        """
        error: SourceError | None = None
        while result is not None:
            if result.status == pq.ExecStatus.TUPLES_OK:
                timeline, position = result.get_value(0, 0), result.get_value(0, 1)
                if timeline and position:
                    self.switch = TimelineSwitch(int(timeline), lsns.parse(position.decode()))
            elif result.status != pq.ExecStatus.COMMAND_OK:
                error = error or self._failed(result, doing)
            if self._link.status == pq.ConnStatus.BAD:
                break
            result = self._link.get_result()
        if error is not None:
            raise error
        if self._link.status == pq.ConnStatus.BAD:
            raise self._broken(f"{doing}: connection lost")
        if self.switch is None and (self._stop_at is None or self.position < self._stop_at):
            raise self._broken("the server ended the stream")

    def _execute(self, command: str, doing: str) -> PGresult:
        try:
            with self._lock:
                self._checkpoint()
                result = self._link.exec_(command.encode())
        except psycopg.Error as error:
            raise self._broken(str(error)) from None
        if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples < 1:
            raise self._failed(result, doing)
        return result

    def _failed(self, result: PGresult, doing: str) -> SourceError:
        error = result_error(self._conn, result, doing)
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        if state == _IN_USE.encode():
            return SourceBusy(error.message)
        return WalRemoved(error.message) if state == _REMOVED.encode() and "removed" in error.message else error

    def _row(self, command: str, doing: str) -> list[str]:
        result = self._execute(command, doing)
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]

    def _next_result(self, doing: str) -> PGresult | None:
        result = self._link.get_result()
        if result is None and self._link.status == pq.ConnStatus.BAD:
            raise self._broken(f"{doing}: connection lost")
        return result

    def _broken(self, message: str) -> BackupBroken:
        error = server_error(self._conn, None, message, f"receiving write-ahead log at {lsns.text(self.position)}")
        return BackupBroken(error.message)
