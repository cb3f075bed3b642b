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
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.jobs.catching_up import catch_up
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres import wal_canary
from mingus_engine.jobs.postgres.wal_segments import SegmentStore
from mingus_engine.jobs.postgres.wal_session import Session, Totals
from mingus_engine.jobs.serving import LAST_SLICE_S, STATUS_S, LogService, cut_off_after
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres.archiving import WalSource


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
    status_interval_s: float = STATUS_S,
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


class _Service(LogService):
    late = "the last slice was not stored in time; the slot keeps it on the server"

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
        source = settings.source(source_id, "postgres")
        super().__init__(settings, source, context, cut=cut, status_interval_s=status_interval_s)
        self._on_status = on_status
        self.totals = Totals()

    def work(self, run: WriteRun, until: float) -> None:
        """See ``LogService``: timeline after timeline."""
        while not self._asked.is_set() and time.monotonic() < until:
            self._archive_timeline(run, until)

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
        if not self._working():
            return
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
