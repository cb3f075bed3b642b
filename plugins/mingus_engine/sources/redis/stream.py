"""The command stream of a server: what it sends its replicas, from where an earlier reader stopped.

``PSYNC <replid> <offset + 1>`` goes on where the stream was left, as long as the server's backlog still has it; never
is an RDB taken here. What is durable is acknowledged once a second, and nothing else: a server that waits for replicas
(``WAIT``) may count on it. Source: ``replication.c`` of Redis 7.0 (``masterTryPartialResync``,
``replicationFeedSlaves``), Redis documentation "Replication".
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import redis

from mingus_engine.bounds import KIB
from mingus_engine.errors import BackupBroken, Cancelled, SourceBusy, SourceError, SourceUnsupported
from mingus_engine.redis.client import connect, mapped, place
from mingus_engine.redis.link import Link
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis import psync

_EPOCH_2000_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_READ_BYTES = 64 * KIB
# 16 MiB wait at most while a container is stored; then the server keeps the rest.
_WAITING_CHUNKS = 256
# A primary pings its replicas each 10 s unless repl-ping-replica-period says otherwise.
_SILENCE_S = 120.0
_TICK_S = 1.0
_BACKLOG_MADE_WITHIN_S = 10.0
_CONTINUE = re.compile(r"CONTINUE(?: ([0-9a-f]{40}))?")
_ASKED = b"\r\n$6\r\nGETACK\r\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything executed before the server's clock showed *clock_us* (since 2000-01-01) lies below *offset*, and
    nothing executed later: both were taken in one transaction.
    """

    clock_us: int = 0
    offset: int = 0

    @property
    def time(self) -> datetime | None:
        """The clock as a time; ``None`` = there is none."""
        return datetime.fromtimestamp((self.clock_us + _EPOCH_2000_US) / 1e6, UTC) if self.clock_us else None


@dataclass(frozen=True)
class Replication:
    """What a server says of its replication.

    :param offset: where its stream ends now. :param replid2: the history it shares up to *shared_to*, before it was
        promoted; empty = none. :param backlog_start: the first offset it can still send from; ``None`` = none at all.
    :param backlog_bytes: how much the backlog can hold.
    """

    replid: str
    offset: int
    primary: bool
    replid2: str = ""
    shared_to: int = 0
    backlog_start: int | None = None
    backlog_bytes: int = 0

    @classmethod
    def of(cls, info: dict[str, Any]) -> Replication:
        """From ``INFO replication``."""
        second = int(info.get("second_repl_offset", -1))
        active = bool(int(info.get("repl_backlog_active", 0)))
        return cls(
            replid=str(info["master_replid"]),
            offset=int(info["master_repl_offset"]),
            primary=str(info["role"]) == "master",
            replid2=str(info["master_replid2"]) if second > 0 else "",
            shared_to=max(0, second - 1),
            backlog_start=int(info["repl_backlog_first_byte_offset"]) - 1 if active else None,
            backlog_bytes=int(info.get("repl_backlog_size", 0)),
        )

    def trouble(self, replid: str, offset: int) -> str:
        """Why the stream of *replid* cannot be continued at *offset*; empty = it can."""
        if replid == self.replid:
            end = self.offset
        elif replid == self.replid2:
            end = min(self.shared_to, self.offset)
        else:
            return f"the server has another history ({self.replid[:8]}…)"
        if offset > end:
            return f"the server's share of that history ends at {end}"
        if self.backlog_start is None:
            return "the server keeps no backlog"
        if offset < self.backlog_start:
            return f"the server's backlog begins at {self.backlog_start}: {self.backlog_start - offset} bytes are gone"
        return ""


class StreamSource:
    """Two connections to one server: one for questions, one for the stream. ``close`` in every outcome.

    :param name: tells other readers for the same source that this one is at work.
    """

    def __init__(
        self, conn: RedisConnection, cancel: threading.Event, *, name: str, log: Callable[[str], None]
    ) -> None:
        self.conn, self._cancel, self._name, self._log = conn, cancel, name, log
        self._closing = ExitStack()
        self._questions = threading.Lock()
        self._link: Link | None = None
        self._durable = 0
        self._waiting: queue.Queue[bytes | BaseException] = queue.Queue(_WAITING_CHUNKS)
        self._stop = threading.Event()
        self._samples: list[Sample] = []
        self.replid = ""
        self._client: redis.Redis = connect(conn)
        self._closing.callback(self._client.close)

    # -- questions ----------------------------------------------------------------------------------------------------

    def replication(self) -> Replication:
        """As it is now."""
        with self._questions, mapped(self.conn, "reading INFO replication"):
            return Replication.of(self._client.info("replication"))

    def sample(self) -> Sample:
        """A sample of now; none of a replica, whose clock says nothing of what it has not got yet."""
        with self._questions, mapped(self.conn, "reading the clock and the offset"):
            batch = self._client.pipeline(transaction=True)
            batch.time()
            batch.info("replication")
            (seconds, micros), info = batch.execute()
        state = Replication.of(info)
        if not state.primary or (self.replid and state.replid != self.replid):
            return Sample()
        return Sample(seconds * 1_000_000 + micros - _EPOCH_2000_US, state.offset)

    def ready_backlog(self) -> Replication:
        """A server that never had a replica keeps no backlog: let it begin to.

        :raises SourceUnsupported: it does not.
        """
        state = self.replication()
        if state.backlog_start is not None:
            return state
        with Link(self.conn, self._cancel) as link:
            psync.introduce(link)
            link.send("PSYNC", "?", -1)
            deadline = time.monotonic() + _BACKLOG_MADE_WITHIN_S
            while (state := self.replication()).backlog_start is None:
                if time.monotonic() > deadline:
                    raise SourceUnsupported(
                        f"{place(self.conn)}: keeps no backlog for replicas", hint="is its user allowed +psync?"
                    )
                if self._cancel.wait(0.05):
                    raise Cancelled("the stream was stopped")
        return state

    # -- the stream ---------------------------------------------------------------------------------------------------

    def begin(self, replid: str, offset: int) -> str:
        """Let the stream begin at *offset* of the history *replid*; the id of the server's own history.

        :raises SourceBusy: another reader for this source is at work. :raises BackupBroken: the server cannot go on
            there after all.
        """
        link = self._link = self._closing.enter_context(Link(self.conn, self._cancel))
        self._refuse_others(link)
        psync.introduce(link)
        link.send("PSYNC", replid, offset + 1)
        answer = ""
        while not answer:
            answer = link.line(_SILENCE_S).decode("utf-8", "replace")
        match = _CONTINUE.fullmatch(answer[1:])
        if match is None:
            raise BackupBroken(f"{place(self.conn)}: PSYNC {replid[:8]}… {offset + 1}: answered {answer[:100]!r}")
        self.replid = match[1] or replid
        self._durable = offset
        for target in (self._receive, self._tick):
            thread = threading.Thread(target=self._guarded, args=(target, link), name="mingus-redis-stream")
            thread.start()
            self._closing.callback(thread.join)
        self._closing.callback(self._stop.set)
        return self.replid

    def chunks(self, tick_s: float) -> Iterator[bytes]:
        """What comes, in order; empty when nothing came for *tick_s*. Never ends by itself.

        :raises SourceError: the connection broke. :raises Cancelled:
        """
        while True:
            try:
                found = self._waiting.get(timeout=tick_s)
            except queue.Empty:
                found = b""
            if isinstance(found, BaseException):
                raise found
            yield found

    def durable(self, offset: int) -> None:
        """Everything before *offset* is stored: acknowledged with the next tick."""
        self._durable = offset

    def samples(self) -> list[Sample]:
        """Those taken since they were asked for the last time."""
        found, self._samples = self._samples, []
        return found

    def close(self) -> None:
        """End the connections. Idempotent."""
        self._stop.set()
        if self._link is not None:
            self._link.close()
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- threads ------------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[Link], None], link: Link) -> None:
        try:
            work(link)
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to who reads
            self._put(error)

    def _receive(self, link: Link) -> None:
        buffer = memoryview(bytearray(_READ_BYTES))
        while not self._stop.is_set():
            count = link.fill(buffer, _SILENCE_S)
            if not count:
                raise BackupBroken(
                    f"{place(self.conn)}: the server closed the stream",
                    hint="it was shut down, became a replica, or dropped a slow reader (client-output-buffer-limit)",
                )
            data = bytes(buffer[:count])
            self._put(data)
            if _ASKED in data:
                link.send("REPLCONF", "ACK", self._durable)

    def _tick(self, link: Link) -> None:
        while True:
            link.send("REPLCONF", "ACK", self._durable)
            sample = self.sample()
            if sample.clock_us:
                self._samples.append(sample)
            if self._stop.wait(_TICK_S):
                return

    def _put(self, thing: bytes | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._waiting.put(thing, timeout=0.2)
                return
            except queue.Full:
                continue

    def _refuse_others(self, link: Link) -> None:
        """Each says its name first and looks then: of two that begin at once the later one gives way."""
        try:
            link.command("CLIENT", "SETNAME", self._name)
            own = int(link.command("CLIENT", "ID"))
            with self._questions, mapped(self.conn, "listing clients"):
                clients: list[dict[str, Any]] = self._client.client_list()
        except (SourceError, ValueError) as error:
            self._log(f"whether another reader is at work cannot be told: {error}")
            return
        for client in clients:
            if client.get("name") == self._name and int(client["id"]) < own:
                raise SourceBusy(
                    f"{place(self.conn)}: another reader is at work, client {client['id']} at {client['addr']}"
                )
