"""``stream``: record a server's commands for ever, seconds behind it.

What passes by itself is waited out with growing pauses: a server that restarts, a network that is cut, a failover, a
repository that is down. The server's backlog bridges that; what it cannot bridge is declared as a gap, and a snapshot
is taken beside the recording for what follows. What does not pass ends the service: wrong settings, missing keys.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from mingus_engine.errors import SourceError
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.redis.stream_session import BaseMaker, StreamSession, Totals, primary_of, reader_name
from mingus_engine.jobs.redis.stream_store import StreamStore
from mingus_engine.jobs.serving import LAST_SLICE_S, STATUS_S, LogService, cut_off_after
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import RedisConnection, Settings
from mingus_engine.sources.redis.stream import StreamSource

_TICK_S = 0.1
# Slices of an hour become one container.
_CONTAINER_S = 3600.0
_BASE_AGAIN_S = 60.0
# A primary that was cut off from the others may go on by itself: who is primary is asked this often.
_PRIMARY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RedisStreamStatus:
    """Where the service is. ``lag_bytes`` of commands are not stored yet; ``reaches`` as in ``RedisStreamReport``."""

    source: str
    repository: str
    replid: str
    stored_to: int
    lag_bytes: int
    reaches: str | None
    slices: int
    containers: int
    stream_bytes: int
    has_base: bool
    gaps: int
    failures: int

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class RedisServiceReport(Report):
    """What a service did until it was asked to stop; ``failures`` were waited out."""

    replid: str
    stored_to: int
    reaches: str | None
    slices: int
    containers: int
    stream_bytes: int
    gaps: list[dict[str, Any]]
    failures: int


def stream(
    settings: Settings,
    source_id: str,
    *,
    context: JobContext,
    on_status: Callable[[RedisStreamStatus], None] = lambda _: None,
    status_interval_s: float = STATUS_S,
) -> RedisServiceReport:
    """Record until ``context.cancel`` is set; then store what is left and return.

    :param on_status: told where it is, after the first slice and then every *status_interval_s*.
    :raises MingusError: something that no waiting mends.
    """
    clock = Stopwatch()
    with cut_off_after(context.cancel, LAST_SLICE_S) as cut:
        service = _Service(
            settings, source_id, context, cut=cut, on_status=on_status, status_interval_s=status_interval_s
        )
        service.run()
    totals = service.totals
    return RedisServiceReport(
        job="stream commands",
        source=source_id,
        duration_s=clock.seconds,
        replid=totals.replid,
        stored_to=totals.stored_to,
        reaches=moment.isoformat() if (moment := totals.sample.time) is not None else None,
        slices=totals.slices,
        containers=totals.containers,
        stream_bytes=totals.stored_bytes,
        gaps=[gap.as_dict() for gap in totals.gaps],
        failures=service.failures,
    )


class _Service(LogService):
    late = "what was left was not stored in time; the server's backlog may have it still"

    def __init__(
        self,
        settings: Settings,
        source_id: str,
        context: JobContext,
        *,
        cut: threading.Event,
        on_status: Callable[[RedisStreamStatus], None],
        status_interval_s: float,
    ) -> None:
        source = settings.source(source_id, "redis")
        super().__init__(settings, source, context, cut=cut, status_interval_s=status_interval_s)
        self._on_status = on_status
        self.totals = Totals()

    def work(self, run: WriteRun, until: float) -> None:
        """See ``LogService``."""
        conn = primary_of(self._source.redis.connection)
        log = self._context.log
        with StreamSource(conn, self._cut, name=reader_name(self._source.id), log=log) as server:
            session = StreamSession(run, server, settings=self._settings, context=self._context, totals=self.totals)
            with closing(session):
                session.ready()
                _Recording(self, server, session, conn, until).run()

    # -- for a recording ----------------------------------------------------------------------------------------------

    @property
    def asked(self) -> bool:
        """Whether it shall end."""
        return self._asked.is_set()

    @property
    def slice_interval_s(self) -> float:
        """Of the settings."""
        return self._source.redis.stream.slice_interval_s

    @property
    def idle_sample_s(self) -> float:
        """Of the settings."""
        return self._source.redis.stream.idle_sample_s

    def take_base(self, stop: threading.Event) -> str:
        """A snapshot for what is recorded to follow; its ULID."""
        self._context.log("takes a snapshot for the recorded commands to follow")
        return back_up(
            self._settings, self._source.id, context=dataclasses.replace(self._context, cancel=stop)
        ).snapshot

    def base_failed(self, error: BaseException) -> None:
        """It is tried again later; the recording goes on."""
        self.failures += 1
        self._context.log(f"no snapshot for the recorded commands to follow: {error}")

    def moved(self, conn: RedisConnection) -> bool:
        """Whether another server is the primary now, where somebody can be asked."""
        if not self._source.redis.connection.sentinels:
            return False
        with suppress(SourceError):
            now = primary_of(self._source.redis.connection)
            if now != conn:
                self._context.log(f"the primary is {now.host}:{now.port} now")
                return True
        return False

    def stored(self, server: StreamSource, session: StreamSession, store: StreamStore) -> None:
        """Something was stored: all is well; say so when it is time."""
        if not self._working():
            return
        totals = self.totals
        self._on_status(
            RedisStreamStatus(
                source=self._source.id,
                repository=self._repository,
                replid=totals.replid,
                stored_to=store.stored_to,
                lag_bytes=max(0, server.replication().offset - store.stored_to),
                reaches=moment.isoformat() if (moment := store.sample.time) is not None else None,
                slices=totals.slices + store.slices,
                containers=totals.containers + store.containers,
                stream_bytes=totals.stored_bytes + store.stored_bytes,
                has_base=not session.needs_base,
                gaps=len(totals.gaps),
                failures=self.failures,
            )
        )


class _Recording:
    """One connection: what is due when."""

    def __init__(
        self, service: _Service, server: StreamSource, session: StreamSession, conn: RedisConnection, until: float
    ) -> None:
        self._service, self._server, self._session, self._conn = service, server, session, conn
        self._until = until
        now = time.monotonic()
        self._slice_due = 0.0
        self._container_due, self._primary_due = now + _CONTAINER_S, now + _PRIMARY_S
        self._put_at = now
        self._stop_by, self._last = 0.0, 0
        self._base: BaseMaker | None = None
        self._base_due = 0.0
        self._stop_base = threading.Event()

    def run(self) -> None:
        """Until it is time for another one; everything received is stored then."""
        try:
            for store in self._session.stream(_TICK_S):
                now = time.monotonic()
                self._make_base(now)
                if now >= self._slice_due:
                    self._slice(store, now)
                if self._ends(store, now):
                    break
            if self._session.store is not None:
                self._session.store.finish()
        finally:
            self._stop_base.set()
            if self._base is not None:
                self._base.join()

    def _slice(self, store: StreamStore, now: float) -> None:
        self._slice_due = now + self._service.slice_interval_s
        if not store.idle or now >= self._put_at + self._service.idle_sample_s:
            self._put_at = now
            if now >= self._container_due:
                self._container_due = now + _CONTAINER_S
                store.finish()
            else:
                store.slice()
        self._service.stored(self._server, self._session, store)

    def _make_base(self, now: float) -> None:
        base = self._base
        if base is not None and base.done:
            self._base = None
            if base.failure is not None:
                self._service.base_failed(base.failure)
            else:
                self._session.needs_base = not self._session.has_base()
            self._base_due = now + _BASE_AGAIN_S
        if self._session.needs_base and self._base is None and now >= self._base_due:
            self._base = BaseMaker(lambda: self._service.take_base(self._stop_base))

    def _ends(self, store: StreamStore, now: float) -> bool:
        if now >= self._until:
            return True
        if now >= self._primary_due:
            self._primary_due = now + _PRIMARY_S
            if self._service.moved(self._conn):
                return True
        if not self._service.asked:
            return False
        if not self._stop_by:
            # What the server has by now comes along, if that does not take long.
            self._stop_by, self._last = now + LAST_SLICE_S / 2, self._server.replication().offset
            store.sampled(self._server.sample())
        return store.position >= self._last or now >= self._stop_by
