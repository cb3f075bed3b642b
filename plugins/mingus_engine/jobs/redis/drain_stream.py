"""``drain_stream``: record a server's command stream up to now, from where what is stored ends.

It relies on the server's replication backlog, which must hold what is written between two drains; where it does not, a
gap is declared and a snapshot is taken for what follows. The service (``jobs.redis.stream``) loses nothing.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mingus_engine.errors import BackupBroken, Cancelled, SourceBusy
from mingus_engine.jobs import places
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.redis.stream_session import BaseMaker, StreamSession, Totals, primary_of, reader_name
from mingus_engine.repository import runs, writer
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.redis.stream import Sample, StreamSource

_TICK_S = 0.2
_BUSY_POLL_S = 0.2
# Without a word of the server, not even its pings.
_STALLED_S = 300.0


@dataclass(frozen=True, kw_only=True)
class RedisStreamReport(Report):
    """What was recorded of a command stream. ``bytes_stored`` of it.

    :ivar reaches: whatever was executed before this moment (ISO 8601, the server's clock) is stored; ``None`` = not
        known. :ivar position: the replication offset it reaches.
    :ivar gaps: commands that are lost, declared in the repository, too. :ivar base: ULID of a snapshot that was taken
        for what is recorded from now on.
    :ivar streaming: a service is at work and is near; nothing was received here.
    """

    form: str
    repository: str
    replid: str
    position: int
    reaches: str | None
    bytes_stored: int
    containers: int
    gaps: list[dict[str, Any]]
    base: str | None
    streaming: bool
    checks: list[dict[str, Any]]


def drain_stream(settings: Settings, source_id: str, *, context: JobContext) -> RedisStreamReport:
    """Record the commands of *source_id* up to now in the first reachable repository of its chain.

    :raises SourceBusy: a service is at work, and is behind. :raises MingusError: what was stored stays.
    """
    clock = Stopwatch()
    source = settings.source(source_id, "redis")
    with places.first_reachable(settings, source_id, context) as repository:
        run = writer.begin(
            repository, source_id, kind=runs.LOG, spool_path=settings.spool_path, level=source.zstd_level,
            provenance=context.provenance,
        )  # fmt: skip
        with closing(run):
            drain = _Drain(settings, run, context)
            drain.run()
            run.end([])
        return drain.report(clock.seconds)


class _Drain:
    def __init__(self, settings: Settings, run: WriteRun, context: JobContext) -> None:
        self._settings, self._run, self._context = settings, run, context
        self._source = settings.source(run.source, "redis")
        self._totals = Totals()
        self._streaming = False
        self._sample = Sample()
        self._base = ""
        self._checks: list[dict[str, Any]] = []

    def run(self) -> None:
        """Until everything that was executed before it began is stored."""
        context = self._context
        conn = primary_of(self._source.redis.connection)
        with StreamSource(conn, context.cancel, name=reader_name(self._source.id), log=context.log) as server:
            session = StreamSession(
                self._run, server, settings=self._settings, context=context, totals=self._totals
            )  # fmt: skip
            with closing(session):
                self._sample = server.sample()
                session.ready()
                if (check := session.backlog_check()) is not None:
                    session.checks.append(check)
                self._checks = [check.as_dict() for check in session.checks]
                try:
                    self._record(server, session)
                except SourceBusy as busy:
                    self._follow_service(session, busy)

    def _record(self, server: StreamSource, session: StreamSession) -> None:
        maker: BaseMaker | None = None
        stop = threading.Event()
        target: int | None = None
        moved, before = time.monotonic(), -1
        try:
            for store in session.stream(_TICK_S):
                self._checkpoint()
                if session.needs_base and maker is None:
                    maker = BaseMaker(lambda: self._take_base(stop))
                if maker is not None and not maker.done:
                    continue
                if target is None:
                    if maker is not None:
                        maker.refuse_failure()
                        self._base = maker.snapshot
                        self._refuse_useless(session)
                        self._sample = server.sample()
                    target = max(self._sample.offset, server.replication().offset)
                    store.sampled(self._sample)
                if store.position >= target:
                    store.finish()
                    return
                if store.position != before:
                    moved, before = time.monotonic(), store.position
                elif time.monotonic() - moved > _STALLED_S:
                    raise BackupBroken(f"the command stream stands at {store.position}, before {target}")
                self._context.progress("record", store.stored_bytes, 0)
        finally:
            stop.set()
            if maker is not None:
                maker.join()

    def _take_base(self, stop: threading.Event) -> str:
        context = dataclasses.replace(self._context, cancel=_Either(self._context.cancel, stop))
        context.log("takes a snapshot for the recorded commands to follow")
        return back_up(self._settings, self._source.id, context=context).snapshot

    def _refuse_useless(self, session: StreamSession) -> None:
        """:raises BackupBroken: the snapshot that was taken is not of the recorded history."""
        if not session.has_base():
            raise BackupBroken(
                f"snapshot {self._base} does not lie in the recorded command stream",
                hint="was there a failover meanwhile? the next run takes another one",
            )

    def _follow_service(self, session: StreamSession, busy: SourceBusy) -> None:
        """A service has the stream: see whether it stores what there is.

        :raises SourceBusy: it does not, or too slowly.
        """
        stream, target = self._source.redis.stream, self._sample.offset
        deadline = time.monotonic() + 3.0 + 2 * stream.slice_interval_s
        while (reached := session.stored_to()) < target and time.monotonic() < deadline:
            if self._context.cancel.wait(_BUSY_POLL_S):
                raise Cancelled("recording was cancelled")
        if (lag := max(0, target - reached)) > stream.busy_lag_max_bytes:
            raise SourceBusy(f"{busy.message}, and {lag} bytes of commands are not stored")
        self._context.log(f"a service is at work ({busy.message}); {lag} bytes of commands are not stored yet")
        self._streaming = True
        self._totals.stored_to = reached

    def _checkpoint(self) -> None:
        if self._context.cancel.is_set():
            raise Cancelled("recording was cancelled")

    def report(self, seconds: float) -> RedisStreamReport:
        """The job's report."""
        totals = self._totals
        samples = [s for s in (self._sample, totals.sample) if s.offset <= totals.stored_to]
        reached = max(samples, key=lambda s: s.clock_us, default=Sample())
        return RedisStreamReport(
            job="record commands",
            source=self._source.id,
            duration_s=seconds,
            form="stream",
            repository=self._run.repository.name,
            replid=totals.replid,
            position=totals.stored_to,
            reaches=moment.isoformat() if (moment := reached.time) is not None else None,
            bytes_stored=totals.stored_bytes,
            containers=totals.containers + totals.slices,
            gaps=[gap.as_dict() for gap in totals.gaps],
            base=self._base or None,
            streaming=self._streaming,
            checks=self._checks,
        )


class _Either(threading.Event):
    """Set when either of two is."""

    def __init__(self, one: threading.Event, other: threading.Event) -> None:
        super().__init__()
        self._both = one, other

    def is_set(self) -> bool:
        """See ``threading.Event``."""
        return any(event.is_set() for event in self._both)

    def wait(self, timeout: float | None = None) -> bool:
        """See ``threading.Event``."""
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while not self.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._both[0].wait(min(left, 0.1))
        return True
