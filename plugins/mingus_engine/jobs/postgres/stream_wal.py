"""``stream_wal``: archive a source's log for ever, seconds behind the server.

What passes by itself is waited out with growing pauses: a server that restarts, a network that is cut, a standby that
is promoted, a repository that is down (the slot keeps the log on the server meanwhile; nothing is read ahead). What
does not, ends the service: wrong settings, missing keys, a server whose log is not the archived one.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.errors import (
    Cancelled,
    ClockSkew,
    CommitRefused,
    MingusError,
    ObjectMissing,
    SourceError,
    SourceUnsupported,
    StoreError,
)
from mingus_engine.jobs import places
from mingus_engine.jobs.catching_up import catch_up
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres import wal_canary
from mingus_engine.jobs.postgres.wal_segments import SegmentStore
from mingus_engine.jobs.postgres.wal_session import Session, Totals
from mingus_engine.jobs.serving import Pauses, cut_off_after
from mingus_engine.repository import runs, writer
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres.archiving import WalSource

# After a request to stop, a last slice may take so long; then whatever is under way is cut off.
LAST_SLICE_S = 20.0
# A run, and with it the key of what it stores, is renewed daily; in a repository that is not the chain's first one
# sooner, to go back when the first is there again.
_RUN_S = 86400.0
_RUN_ELSEWHERE_S = 600.0
_STATUS_S = 60.0


@dataclass(frozen=True, kw_only=True)
class StreamStatus:
    """Where the service is. ``lag_bytes`` of log are not stored yet; ``sampled_at`` as in ``ArchiveWalReport``."""

    source: str
    repository: str
    timeline: int
    archived_to: str
    lag_bytes: int
    sampled_at: str | None
    wal_status: str
    segments: int
    slices: int
    wal_bytes: int
    gaps: int
    failures: int

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class StreamWalReport(Report):
    """What a service did until it was asked to stop; ``failures`` were waited out."""

    archived_to: str
    timeline: int
    segments: int
    slices: int
    wal_bytes: int
    gaps: list[dict[str, Any]]
    failures: int


def stream_wal(
    settings: Settings,
    source_id: str,
    *,
    context: JobContext,
    on_status: Callable[[StreamStatus], None] = lambda _: None,
    status_interval_s: float = _STATUS_S,
) -> StreamWalReport:
    """Archive until ``context.cancel`` is set; then store a last slice and return.

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
    return StreamWalReport(
        job="stream wal",
        source=source_id,
        duration_s=clock.seconds,
        archived_to=lsns.text(totals.archived_to),
        timeline=totals.timeline,
        segments=totals.segments,
        slices=totals.slices,
        wal_bytes=totals.stored_bytes,
        gaps=[gap.as_dict() for gap in totals.gaps],
        failures=service.failures,
    )


class _Service:
    def __init__(
        self,
        settings: Settings,
        source_id: str,
        context: JobContext,
        *,
        cut: threading.Event,
        on_status: Callable[[StreamStatus], None],
        status_interval_s: float,
    ) -> None:
        self._settings, self._source = settings, settings.source(source_id, "postgres")
        self._asked, self._cut = context.cancel, cut
        self._context = dataclasses.replace(context, cancel=cut)
        self._on_status, self._status_interval_s = on_status, status_interval_s
        self._status_due = 0.0
        self._pauses = Pauses()
        self._repository = ""
        self.totals = Totals()
        self.failures = 0

    def run(self) -> None:
        """Until asked to stop."""
        while not self._asked.is_set():
            try:
                self._archive_run()
            except (StoreError, SourceError, CommitRefused, ClockSkew) as error:
                if isinstance(error, SourceUnsupported | ObjectMissing):
                    raise
                self.failures += 1
                self._pauses.pause(error, self._asked, self._context)
            except Cancelled:
                self._context.log("the last slice was not stored in time; the slot keeps it on the server")
                return

    def _archive_run(self) -> None:
        """One run in one repository; ends when it is time for another, or when asked to stop."""
        settings, source = self._settings, self._source
        with places.first_reachable(settings, source.id, self._context) as repository:
            self._repository = repository.name
            first = repository.name == settings.chain(source.id)[0]
            until = time.monotonic() + (_RUN_S if first else _RUN_ELSEWHERE_S)
            run = writer.begin(
                repository, source.id, kind=runs.LOG, spool_path=settings.spool_path, level=source.compression_level,
                provenance=self._context.provenance,
            )  # fmt: skip
            with closing(run):
                try:
                    while not self._asked.is_set() and time.monotonic() < until:
                        self._archive_timeline(run, until)
                except SourceError:
                    with suppress(MingusError):
                        run.end([])
                    raise
                run.end([])

    def _archive_timeline(self, run: WriteRun, until: float) -> None:
        with WalSource(self._source, self._cut) as server:
            session = Session(
                run, server, settings=self._settings, context=self._context, totals=self.totals,
                catch_up=lambda: catch_up(self._settings, self._source.id, self._repository, self._context),
            )  # fmt: skip
            with closing(session):
                session.ready()
                interval_s = self._source.wal.slice_interval_s
                due, stop_by = 0.0, 0.0
                for store in session.stream(tick_s=interval_s):
                    now = time.monotonic()
                    if now >= due:
                        due = now + interval_s
                        self._slice(server, session, store)
                    if self._asked.is_set() and not stop_by:
                        # What the server has by now comes along, if that does not take long.
                        stop_by = now + LAST_SLICE_S / 2
                        server.receiver.stop_at(max(server.sample().flush, store.position))
                    if now >= until or 0 < stop_by <= now:
                        break
                if session.store is not None:
                    session.store.slice()

    def _slice(self, server: WalSource, session: Session, store: SegmentStore) -> None:
        sample = server.sample()
        store.sampled(sample)
        wal = self._source.wal
        if (
            not store.slice()
            and session.idle_for_us(sample) >= wal.idle_sample_s * 1e6
            # A marker is log like any other: its slice brings the newer sample into every repository.
            and (server.standby or not wal.canary or wal_canary.write(server, self._context) is None)
        ):
            store.refresh()
        self._pauses.over()
        if time.monotonic() < self._status_due:
            return
        self._status_due = time.monotonic() + self._status_interval_s
        slot, totals = server.slot(), self.totals
        proven = sample if sample.flush <= store.stored_to and sample.clock_us else store.sample
        self._on_status(
            StreamStatus(
                source=self._source.id,
                repository=self._repository,
                timeline=session.timeline,
                archived_to=lsns.text(store.stored_to),
                lag_bytes=max(0, sample.flush - store.stored_to),
                sampled_at=moment.isoformat() if (moment := proven.time) is not None else None,
                wal_status=slot.wal_status if slot is not None else "",
                segments=totals.segments + store.segments,
                slices=totals.slices + store.slices,
                wal_bytes=totals.stored_bytes + store.stored_bytes,
                gaps=len(totals.gaps),
                failures=self.failures,
            )
        )
