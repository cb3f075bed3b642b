"""One server, one repository, one timeline: get ready, receive, store, confirm.

Whoever drives it (a drain, the service) opens a session, lets it stream, and opens the next one after a change of
timeline or a failure. Everything is looked up anew each time, so that no session trusts what a dead one remembered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mingus_engine import lsn as lsns
from mingus_engine.errors import LogDiverged, SourceBusy, SourceError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.postgres.wal import keep_history
from mingus_engine.jobs.postgres.wal_position import Gap, Position, position
from mingus_engine.jobs.postgres.wal_segments import Destination, SegmentStore, Tail
from mingus_engine.postgres import timelines
from mingus_engine.repository import log_index, logs, records
from mingus_engine.repository.log_index import LogIndex
from mingus_engine.repository.writer import UNUSABLE, WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.base import TimelineHistory
from mingus_engine.sources.postgres.archiving import Sample, WalSource
from mingus_engine.sources.postgres.slots import Slot
from mingus_engine.sources.postgres.wal import WalRemoved

# A receiver that was killed still holds the slot until the server notices.
BUSY_WAIT_S = 3.0
BUSY_POLL_S = 0.2


@dataclass
class Totals:
    """What was done so far. ``stored_bytes`` of log; ``sample``: the newest that is stored or proven."""

    segments: int = 0
    slices: int = 0
    stored_bytes: int = 0
    archived_to: int = 0
    timeline: int = 0
    sample: Sample = field(default_factory=Sample)
    gaps: list[Gap] = field(default_factory=list)


class Session:
    """See the module. The server and the run are the caller's.

    :param catch_up: brings here what other repositories have; called when log is missing before what the slot holds.
    :param sample: goes into the first container that reaches it.
    :ivar store: what ``stream`` fills; ``timeline`` what it streams. :ivar stored_sample: the newest found stored.
    """

    def __init__(
        self,
        run: WriteRun,
        server: WalSource,
        *,
        settings: Settings,
        context: JobContext,
        totals: Totals,
        sample: Sample | None = None,
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._server, self._context, self._totals = run, server, context, totals
        self._catch_up = catch_up
        self._to = Destination(
            run=run,
            system_id=server.system_id,
            segment_bytes=server.segment_bytes,
            spool_path=settings.spool_path,
            level=settings.source(run.source).zstd_level,
            server_version=server.version,
            waiting=server.receiver.kept_alive,
        )
        self._sample = sample or Sample()
        self.stored_sample = Sample()
        self._tails: dict[Position, Tail] = {}
        self.slot: Slot
        self.position: Position
        self.store: SegmentStore | None = None
        self.timeline = 0

    # -- getting ready ------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Slot, histories, and where to go on.

        :raises SourceBusy: another receiver has the slot. :raises LogDiverged: the server is not the one archived here.
        """
        self.slot, made = self._ready_slot()
        if made == "lost":
            self._context.log(f'replication slot "{self.slot.name}" was lost and is made anew: WAL may be missing')
        elif made:
            self._context.log(f'made replication slot "{self.slot.name}"')
        index = self._index()
        self._store_histories(index)
        self.position = self._position(index)
        if self.position.earlier is not None:
            self._catch_up()
            index = self._index()
            self.position = self._position(index)
        self._refuse_older_server(index)

    def _ready_slot(self) -> tuple[Slot, str]:
        deadline = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                return self._server.ready_slot()
            except SourceBusy:
                if time.monotonic() > deadline or self._context.cancel.wait(BUSY_POLL_S):
                    raise

    def look(self) -> int:
        """Only look how far another archiver has stored the log: its LSN. Also sets ``position``.

        :raises SourceError: there is no slot, or no timeline history.
        """
        slot = self._server.slot()
        if slot is None or slot.lost:
            raise SourceError(f'replication slot "{self._server.slot_name}" holds nothing')
        self.slot = slot
        own = [h.content for h in self._server.histories() if h.timeline == self._server.timeline]
        self._steps = timelines.path(self._server.timeline, own[0] if own else None)
        self.position = self._position(self._index())
        self._totals.timeline, self._totals.archived_to = self.position.timeline, self.position.stored_to
        return self.position.stored_to

    def _position(self, index: LogIndex) -> Position:
        """Where to go on; what cannot be read is not stored."""
        server, unreadable = self._server, set[str]()
        while True:
            usable = index.without(unreadable) if unreadable else index
            here = position(usable, server.system_id, self._steps, self.slot.restart, server.segment_bytes)
            found = {name for at in (here, here.earlier) if at is not None for name in self._read_tail(usable, at)}
            if not found:
                return here
            unreadable |= found

    def _index(self) -> LogIndex:
        run = self._run
        index = log_index.list_logs(run.repository, run.source, run.state.planned)
        return logs.counted(run.repository, index, run.state.fences, beyond=self.slot.restart)

    def _store_histories(self, index: LogIndex) -> None:
        """Before any log of their timelines.

        :raises LogDiverged: another history is stored for the server's timeline: two servers were promoted to it.
        """
        server = self._server
        own: TimelineHistory | None = None
        for history in server.histories():
            stored = index.histories.get((server.system_id, history.timeline))
            if history.timeline == server.timeline:
                own = history
            spool_path, level = self._to.spool_path, self._to.level
            if keep_history(self._run, stored, history, server.system_id, spool_path=spool_path, level=level):
                self._context.log(f"stored {history.filename}")
        self._steps = timelines.path(server.timeline, own.content if own else None)

    def _refuse_older_server(self, index: LogIndex) -> None:
        server, here = self._server, self.position
        newest = max((t for system_id, t in index.timelines if system_id == server.system_id), default=0)
        if newest > server.timeline:
            self._context.log(
                f"warning: log of timeline {newest} is stored, but this server is on timeline {server.timeline}:"
                " an old primary, or one that was set back?"
            )
        if here.timeline != server.timeline or here.begins or server.standby:
            return
        flush = server.sample().flush
        if here.stored_to > flush:
            raise LogDiverged(
                f"timeline {here.timeline}: log up to {lsns.text(here.stored_to)} is stored,"
                f" the server's ends at {lsns.text(flush)}"
            )

    # -- streaming ----------------------------------------------------------------------------------------------------

    def stream(self, *, tick_s: float = 0.0) -> Iterator[SegmentStore]:
        """Receive and store; yields the store after each piece (also after none, every *tick_s*).

        Ends as the receiver's stream does (``stop_at``, or the end of the timeline). The unfinished segment is the
        caller's to ``slice``.

        :raises SourceError: the stream broke; what was stored stays. :raises LogDiverged: :raises CommitRefused:
        :raises StoreError:
        """
        here = self.position
        if here.earlier is not None:
            try:
                yield from self._stream(here.earlier, tick_s=tick_s)
            except WalRemoved as error:
                reached = self.store.stored_to if self.store is not None else here.earlier.stored_to
                self._declare(Gap(here.timeline, reached, here.stored_to, error.message))
            else:
                return
        try:
            yield from self._stream(here, tick_s=tick_s)
        except WalRemoved:
            # The slot promised it: it is worth nothing. The next session makes a new one and finds the gap.
            with suppress(SourceError):
                self._server.receiver.drop_slot(self.slot.name)
            raise

    def _stream(self, at: Position, *, tick_s: float) -> Iterator[SegmentStore]:
        tail = self._tails.get(at)
        start = min(at.start(self._to.segment_bytes), tail.start if tail else at.stored_to)
        try:
            yield from self._stream_from(start, at, tail, tick_s=tick_s)
        except WalRemoved:
            if start >= at.start(self._to.segment_bytes) or (self.store and self.store.position > start):
                raise
            # Only what would be compared is gone.
            yield from self._stream_from(at.stored_to, at, None, tick_s=tick_s)

    def _stream_from(self, start: int, at: Position, tail: Tail | None, *, tick_s: float) -> Iterator[SegmentStore]:
        self._finish_store()
        store = self.store = SegmentStore(
            self._to, at.timeline, start=start, stored_to=at.stored_to, tail=tail, on_segment=self._stored
        )
        store.sampled(self._sample)
        self.timeline = self._totals.timeline = at.timeline
        self._totals.archived_to = at.stored_to
        if self._server.standby and start > self._server.flush:
            return  # a standby that was started again is behind what it had sent
        for piece in self._server.receiver.stream(start, at.timeline, tick_s=tick_s):
            store.take(piece.start, piece.data)
            yield store

    def _stored(self, end: int) -> None:
        # One byte less than is stored: the server keeps the end of it, to be compared with the next time.
        if end - 1 > self.slot.restart:
            self._server.receiver.confirm(end - 1)

    def _read_tail(self, index: LogIndex, at: Position) -> set[str]:
        """Read the end of what is stored before *at*; the name of a container that would hold it and cannot be read."""
        self._tails.pop(at, None)
        if at.begins:
            return set()
        stored = index.timeline(self._server.system_id, at.timeline).logs
        # The longest comes first; of those that only repeat its end for a newer sample the longest is the newest.
        for log in (log for log in stored if log.name.end == at.stored_to):
            try:
                reader = logs.LogReader(
                    self._run.repository, self._run.source, logs.reference(self._run.repository, *log)
                )
                directory, (start, data) = reader.directory(), reader.tail()
            except UNUSABLE as error:
                self._context.log(f"warning: stored log cannot be read, it is stored again: {error.message}")
                return {str(log.name)}
            if directory.flush <= log.name.end and directory.server_clock_us > self.stored_sample.clock_us:
                self.stored_sample = Sample(directory.server_clock_us, directory.flush)
            tail = self._tails.setdefault(at, Tail(start, data, str(log.name)))
            if log.name.start >= tail.start and str(log.name) != tail.name:
                self._tails[at] = replace(tail, refreshed=log.name.start)
                break
        return set()

    # -- what the caller asks for -------------------------------------------------------------------------------------

    def idle_for_us(self, sample: Sample) -> int:
        """Microseconds from the newest stored sample to *sample*, by the server's clock."""
        stored = max(self.stored_sample.clock_us, self.store.sample.clock_us if self.store else 0)
        return sample.clock_us - stored

    def close(self) -> None:
        """Take what was done into the totals; idempotent."""
        self._finish_store()

    def _finish_store(self) -> None:
        if (store := self.store) is None:
            return
        store.close()
        totals = self._totals
        totals.segments += store.segments
        totals.slices += store.slices
        totals.stored_bytes += store.stored_bytes
        totals.archived_to = store.stored_to
        if store.sample.clock_us:
            totals.sample = store.sample
        self.store = None

    def _declare(self, gap: Gap) -> None:
        """Say it where everybody will find it: in the repository, the report and the log."""
        if gap.end <= gap.start:
            return
        run = self._run
        facts = {"event": "wal gap", "system_id": str(self._server.system_id), **gap.as_dict()}
        facts.pop("why")
        run.repository.put_record(records.AUDIT, run.source, facts, {"why": gap.why, "run": run.run})
        self._totals.gaps.append(gap)
        self._context.log(
            f"GAP: log of timeline {gap.timeline} from {lsns.text(gap.start)} to {lsns.text(gap.end)} is lost"
            f" ({gap.end - gap.start} bytes): {gap.why}; no restore to a moment within it, and none across it from an"
            " older backup: take a full backup now"
        )
