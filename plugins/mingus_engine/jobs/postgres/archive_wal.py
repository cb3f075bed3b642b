"""``archive_wal``: bring a source's write-ahead log up to the present into the archive, and to every repository.

The phases: open the first reachable repository → begin a run → write the canary and take a sample → per timeline: get
the slot ready, go on where the stored log ends, store whole segments and at the end a slice → end of the run → ship to
the other repositories → find the canary in each.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.errors import (
    BackupBroken,
    Cancelled,
    LogMissing,
    SourceBusy,
    StoreUnreachable,
)
from mingus_engine.jobs import places
from mingus_engine.jobs.catching_up import catch_up, copied
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres import wal_canary
from mingus_engine.jobs.postgres.wal_session import BUSY_POLL_S, BUSY_WAIT_S, Session, Totals
from mingus_engine.repository import runs, writer
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres.archiving import Sample, WalSource
from mingus_engine.sources.postgres.wal import WalRemoved

# Changes of timeline, and slots that turn out to be worth nothing, within one drain.
_SESSIONS_MAX = 20


@dataclass(frozen=True, kw_only=True)
class ArchiveWalReport(Report):
    """What was archived. ``wal_bytes`` of log; ``lag_bytes`` were written to it since.

    :ivar archived_to: LSN before which everything is stored. :ivar sampled_at: whatever was committed before this
        moment (ISO 8601, the server's clock) is archived; ``None`` = not known.
    :ivar gaps: log that is lost, declared in the repository too; then ``fresh_full_needed``.
    :ivar streaming: another archiver holds the slot and is near; nothing was received here.
    :ivar repositories: per repository of the chain ``ok``, what was put, ``canary`` and what went wrong.
    :ivar ok: every repository has everything, and the canary where one was written.
    """

    repository: str
    slot: str
    wal_status: str
    timeline: int
    archived_to: str
    segments: int
    slices: int
    wal_bytes: int
    lag_bytes: int
    sampled_at: str | None
    gaps: list[dict[str, Any]]
    fresh_full_needed: bool
    streaming: bool
    checks: list[dict[str, Any]]
    repositories: list[dict[str, Any]]
    ok: bool


def archive_wal(
    settings: Settings, source_id: str, *, context: JobContext, canary: bool | None = None, ship: bool = True
) -> ArchiveWalReport:
    """Archive the log of *source_id* up to now.

    :param canary: instead of the setting ``wal.canary``. :param ship: bring it to the other repositories, too.
    :raises SourceBusy: another archiver has the slot, and is behind.
    :raises LogDiverged: the server's log is not the one that is archived. :raises MingusError: what was stored stays.
    """
    clock = Stopwatch()
    source = settings.source(source_id, "postgres")
    with places.first_reachable(settings, source_id, context) as repository:
        drain = _Drain(settings, source_id, repository, context)
        drain.run(canary=source.wal.canary if canary is None else canary)
        first = repository.name
    others = [name for name in settings.chain(source_id) if name != first] if ship else []
    copies = [copied(settings, source_id, first, other, context) for other in others]
    repositories = [{"name": first, "ok": True}, *copies]
    if drain.marker is not None:
        for entry in repositories:
            if entry["ok"]:
                context.progress("canary", 0, 0, str(entry["name"]))
                found = wal_canary.find(settings, source_id, str(entry["name"]), drain.marker, context)
                entry.update(canary=found, ok=bool(found["ok"]))
    return drain.report(repositories, clock.seconds)


def refuse_incomplete(report: ArchiveWalReport) -> None:
    """:raises MingusError: not every repository has what was archived: the first of the reasons."""
    bad = [entry for entry in report.repositories if not entry["ok"]]
    if bad:
        whys = "; ".join(f"{e['name']}: {e.get('error') or e['canary']['detail']}" for e in bad)
        what = f"log up to {report.archived_to} is archived in {report.repository}, but not everywhere: {whys}"
        if any("canary" in entry for entry in bad):
            raise LogMissing(f"{what} (the canary was not found)")
        raise StoreUnreachable(what)


class _Drain:
    def __init__(self, settings: Settings, source_id: str, repository: Repository, context: JobContext) -> None:
        self._settings, self._source, self._context = settings, settings.source(source_id, "postgres"), context
        self._repository = repository
        self._totals = Totals()
        self._streaming = False
        self._target: int | None = None
        self._sample = Sample()
        self._checks: list[dict[str, Any]] = []
        self._wal_status, self._flush = "", 0
        self.marker: wal_canary.Marker | None = None

    def run(self, *, canary: bool) -> None:
        """Archive everything up to the present."""
        settings, context = self._settings, self._context
        with ExitStack() as stack:
            run = writer.begin(
                self._repository, self._source.id, kind=runs.LOG, spool_path=settings.spool_path,
                level=self._source.zstd_level, provenance=context.provenance,
            )  # fmt: skip
            stack.callback(run.close)
            for _ in range(_SESSIONS_MAX):
                with WalSource(self._source, context.cancel) as server:
                    if self._target is None:
                        self.marker = wal_canary.write(server, context) if canary else None
                        self._sample = server.sample()
                        self._target = max(server.flush, self._sample.flush, self.marker.lsn if self.marker else 0)
                    if self._session(run, server):
                        break
            else:
                raise BackupBroken(f"{_SESSIONS_MAX} changes of timeline or lost slots in one drain", hint="")
            run.end([])

    def _session(self, run: WriteRun, server: WalSource) -> bool:
        """Archive one timeline; whether the target was reached."""
        context = self._context
        session = Session(
            run, server, settings=self._settings, context=context, totals=self._totals, sample=self._sample,
            catch_up=lambda: catch_up(self._settings, self._source.id, self._repository.name, context),
        )  # fmt: skip
        with closing(session):
            try:
                session.ready()
            except SourceBusy as busy:
                self._follow_streaming(session, busy)
                self._finish(server)
                return True
            server.receiver.stop_at(self._target)
            try:
                self._receive(session)
            except WalRemoved as error:
                context.log(error.message)
                return False
            if session.timeline != server.timeline:
                return False
            self._finish(server)
        return True

    def _receive(self, session: Session) -> None:
        for store in session.stream():
            self._context.progress("archive", self._totals.stored_bytes + store.stored_bytes, 0)
        if session.store is not None:
            session.store.slice()
            if session.idle_for_us(self._sample) >= self._source.wal.idle_sample_s * 1e6:
                session.store.refresh()

    def _follow_streaming(self, session: Session, busy: SourceBusy) -> None:
        """Another archiver has the slot: see whether it stores what there is.

        :raises SourceBusy: it does not, or too slowly.
        """
        wal, target = self._source.wal, self._target or 0
        deadline = time.monotonic() + BUSY_WAIT_S + 2 * wal.slice_interval_s
        while (stored_to := session.look()) < target and time.monotonic() < deadline:
            if self._context.cancel.wait(BUSY_POLL_S):
                raise Cancelled("archiving was cancelled")
        lag = max(0, target - stored_to)
        if lag > wal.busy_lag_max_bytes:
            raise SourceBusy(f"{busy.message}, and {lag} bytes of log are not archived")
        self._context.log(f"another archiver is at work ({busy.message}); {lag} bytes of log are not archived yet")
        self._streaming = True
        self._sample = session.stored_sample
        if self.marker is not None and stored_to < self.marker.lsn:
            self.marker = None

    def _finish(self, server: WalSource) -> None:
        self._checks = [check.as_dict() for check in server.checks()]
        slot = server.slot()
        self._wal_status = slot.wal_status if slot is not None else ""
        self._flush = max(server.sample().flush, self._target or 0)

    def report(self, repositories: list[dict[str, Any]], seconds: float) -> ArchiveWalReport:
        """The job's report."""
        totals = self._totals
        return ArchiveWalReport(
            job="archive wal",
            source=self._source.id,
            duration_s=seconds,
            repository=self._repository.name,
            slot=self._source.wal_slot,
            wal_status=self._wal_status,
            timeline=totals.timeline,
            archived_to=lsns.text(totals.archived_to),
            segments=totals.segments,
            slices=totals.slices,
            wal_bytes=totals.stored_bytes,
            lag_bytes=max(0, self._flush - totals.archived_to),
            sampled_at=moment.isoformat() if (moment := self._sample.time) is not None else None,
            gaps=[gap.as_dict() for gap in totals.gaps],
            fresh_full_needed=bool(totals.gaps),
            streaming=self._streaming,
            checks=self._checks,
            repositories=repositories,
            ok=all(entry["ok"] for entry in repositories),
        )
