"""One server, one repository, one history: find out where to go on, say what was lost, record, acknowledge.

Whoever drives it (a drain, the service) opens a session, lets it stream, and opens the next one after a failure.
Everything is looked up anew each time, so that no session trusts what a dead one remembered.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.errors import SourceUnsupported
from mingus_engine.jobs.catching_up import catch_up
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.stored_stream import StoredStream, put_history
from mingus_engine.jobs.redis.stream_position import Gap, Position, position, stored_to
from mingus_engine.jobs.redis.stream_store import StreamDestination, StreamStore, system_id
from mingus_engine.jobs.redis.windows import Recoverable
from mingus_engine.redis.client import place
from mingus_engine.repository import logs, names, records, state
from mingus_engine.repository.writer import UNUSABLE, WriteRun
from mingus_engine.settings import RedisConnection, Settings
from mingus_engine.sources.redis.discovery import discover
from mingus_engine.sources.redis.stream import Replication, Sample, StreamSource

GAP_EVENT = "redis gap"
# An hourly drain that finds the backlog too small loses commands.
_DRAIN_EVERY_S = 3600.0


@dataclass
class Totals:
    """What was done so far. ``stored_bytes`` of stream; ``sample``: the newest that is stored."""

    slices: int = 0
    containers: int = 0
    stored_bytes: int = 0
    stored_to: int = 0
    replid: str = ""
    sample: Sample = field(default_factory=Sample)
    gaps: list[Gap] = field(default_factory=list)


def primary_of(conn: RedisConnection) -> RedisConnection:
    """The server whose stream is recorded: the primary, where that can be found out.

    :raises SourceUnsupported: it is a cluster. :raises SourceError: no server was found.
    """
    if conn.cluster:
        raise SourceUnsupported(
            f"{place(conn)}: the command streams of a cluster are not recorded",
            hint="back up each primary as a source of its own (redis.connection.cluster: false), or take RDB snapshots",
        )
    return discover(conn)[0].primary


def reader_name(source: str) -> str:
    """How a reader of a source's stream is called on the server."""
    return f"mingus-stream-{source}"


class StreamSession:
    """See the module. The server and the run are the caller's.

    :ivar position: where it goes on, after ``ready``; ``store`` what ``stream`` fills.
    :ivar checks: what an administrator should know.
    :ivar needs_base: no snapshot is there that what is recorded now could follow.
    """

    def __init__(
        self, run: WriteRun, server: StreamSource, *, settings: Settings, context: JobContext, totals: Totals
    ) -> None:
        self._run, self._server, self._context, self._totals = run, server, context, totals
        self._settings = settings
        self._stored: StoredStream
        self.checks: list[Check] = []
        self.position: Position
        self.server_state: Replication
        self.store: StreamStore | None = None
        self.needs_base = False

    def ready(self) -> None:
        """Where to go on; what is lost by that is declared.

        :raises SourceError: the server cannot be asked. :raises StoreError:
        """
        self.server_state = self._server.ready_backlog()
        last = self._find_position()
        if self.position.begins or self.position.gap is not None:
            # While this repository was away another one may have been written to.
            catch_up(self._settings, self._run.source, self._run.repository.name, self._context)
            last = self._find_position()
        self._note_step_back(last)
        if self.position.gap is not None:
            self._declare(self.position.gap)

    def _find_position(self) -> str:
        """Sets ``position``; the history that was recorded last."""
        run = self._run
        self._stored = StoredStream(run.repository, run.source, run.state)
        snapshots: dict[str, list[int]] = {}
        for point in self._snapshots().points:
            if point.form != "aof":
                snapshots.setdefault(point.replid, []).append(point.offset)
        last = self._last_history()
        # What a fenced run put may go: it counts only where the server could not send it again anyway.
        index = logs.counted(
            run.repository, self._stored.index, run.state.fences, beyond=self.server_state.backlog_start or 0
        )
        self.position = position(index, self.server_state, snapshots, last)
        return last

    def stored_to(self) -> int:
        """Only look how far another reader has stored the server's history."""
        run = self._run
        stored = StoredStream(run.repository, run.source, run.state)
        return stored_to(stored.index, self._server.replication().replid) or 0

    def stream(self, tick_s: float) -> Iterator[StreamStore]:
        """Receive and record; yields the store after each piece, also after none, every *tick_s*. Never ends.

        :raises SourceBusy: another reader is at work. :raises SourceError: the stream broke; what was stored stays.
        :raises CommitRefused: :raises StoreError:
        """
        here, settings = self.position, self._settings
        replid = self._server.begin(here.replid, here.offset)
        to = StreamDestination(self._run, replid, settings.spool_path, settings.source(self._run.source).zstd_level, {})
        if replid != here.replid:
            to = dataclasses.replace(to, facts={"follows": {"replid": here.replid, "offset": here.offset}})
            put_history(to, self._stored, here.replid, here.offset)
            self._context.log(f"history {here.replid[:8]}… goes on as {replid[:8]}… from {here.offset}")
        self._totals.replid = replid
        store = self.store = StreamStore(to, here.offset, self._server.durable)
        self._totals.stored_to = here.offset
        self.needs_base = not self.has_base()
        for data in self._server.chunks(tick_s):
            store.take(data)
            for sample in self._server.samples():
                store.sampled(sample)
            yield store

    def has_base(self) -> bool:
        """Whether a snapshot is there that the recorded stream follows without a gap."""
        begin, found = self.position.offset, self._snapshots()
        try:
            path = found.path(self._totals.replid)
        except UNUSABLE as error:
            self._context.log(f"warning: {error.message}")
            return False
        return any(
            path.holds(point.replid, point.offset)
            # Of what is received now nothing may be stored yet.
            and (point.offset >= begin or path.covered_to(point.offset) >= begin)
            for point in found.points
            if point.form != "aof"
        )

    def backlog_check(self) -> Check | None:
        """Whether the server's backlog holds an hour of commands, at the pace since the last recording; ``None`` = it
        cannot be told.
        """
        server, newest = self.server_state, self._newest_sample()
        now = self._server.sample()
        seconds = (now.clock_us - newest.clock_us) / 1e6
        if not newest.clock_us or not now.clock_us or seconds < 1 or now.offset < newest.offset:
            return None
        pace = (now.offset - newest.offset) / seconds
        held_s = server.backlog_bytes / pace if pace else float("inf")
        detail = f"repl-backlog-size is {server.backlog_bytes} bytes; {pace:.0f} bytes of commands a second"
        hint = f": set it to {int(2 * pace * _DRAIN_EVERY_S)} or more, or run `mingus redis stream`"
        ok = held_s >= _DRAIN_EVERY_S
        return Check("replication backlog holds an hour", ok, detail + ("" if ok else hint), {"pace": round(pace)})

    def close(self) -> None:
        """Take what was done into the totals; idempotent."""
        if (store := self.store) is None:
            return
        store.close()
        totals = self._totals
        totals.slices += store.slices
        totals.containers += store.containers
        totals.stored_bytes += store.stored_bytes
        totals.stored_to = store.stored_to
        if store.sample.clock_us:
            totals.sample = store.sample
        self.store = None

    def _snapshots(self) -> Recoverable:
        run = self._run
        return Recoverable(run.repository, run.source, state.look(run.repository, run.source))

    def _note_step_back(self, last: str) -> None:
        """A server that was started from an older file does not have any more what was recorded of it since."""
        here = self.position
        ended = stored_to(self._stored.index, last) or 0 if last else 0
        if here.begins or ended <= here.offset:
            return
        detail = (
            f"it goes on at {here.offset} of {here.replid[:8]}…; what was recorded of {last[:8]}… up to {ended} is not"
            " in it: it was started from older files, or another replica was promoted; a recovery reaches both"
        )
        self.checks.append(Check("the server has what was recorded", False, detail))
        self._context.log(f"warning: {detail}")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _newest_sample(self) -> Sample:
        replid, end = self.position.replid, self.position.offset
        stored = [] if self.position.begins else self._stored.index.timeline(system_id(replid), 1).logs
        newest = Sample()
        for log in (log for log in stored if log.name.end == end):
            try:
                directory = self._stored.directory(log)
            except UNUSABLE:
                continue
            newest = max(newest, Sample(directory.server_clock_us, directory.flush), key=lambda s: s.clock_us)
        return newest

    def _last_history(self) -> str:
        """The history that was recorded last, by the server's clocks."""
        newest, replid = -1, ""
        for history in self._stored.index.timelines.values():
            try:
                directory = self._stored.directory(history.logs[-1])
            except UNUSABLE:
                continue
            if directory.server_clock_us > newest:
                newest, replid = directory.server_clock_us, str(directory.facts.get("replid", ""))
        return replid

    def _declare(self, gap: Gap) -> None:
        """Say it where everybody will find it: in the repository, the report and the log; once."""
        if any(facts.get("replid") == gap.replid and facts.get("from") == gap.start for facts in self._declared()):
            return  # by a run that recorded nothing since
        self._totals.gaps.append(gap)
        self._context.log(
            f"GAP: the commands of history {gap.replid[:8]}… behind offset {gap.start} are lost: {gap.why}; recording"
            f" begins anew at {gap.end} of {gap.next_replid[:8]}…; no restore to a moment between"
        )
        run = self._run
        facts = {"event": GAP_EVENT, **gap.as_dict()}
        facts.pop("why")
        run.repository.put_record(records.AUDIT, run.source, facts, {"why": gap.why, "run": run.run})

    def _declared(self) -> Iterator[dict[str, Any]]:
        run = self._run
        for info in run.repository.store.list(f"records/{run.source}/"):
            if (name := names.record(info.name)) is not None and name.kind == records.AUDIT:
                try:
                    facts = run.repository.get_record(name).facts
                except UNUSABLE:
                    continue
                if facts.get("event") == GAP_EVENT:
                    yield dict(facts)


class BaseMaker:
    """A snapshot that is taken beside the recording, for what is recorded to follow it.

    :param make: takes it and gives its ULID.
    """

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self.snapshot = ""
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mingus-redis-base")
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        return not self._thread.is_alive()

    def refuse_failure(self) -> None:
        """:raises MingusError: why there is no snapshot."""
        if self.failure is not None:
            raise self.failure

    def join(self) -> None:
        """Wait for its end; who wants it soon cancels it first."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self.snapshot = self._make()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
            self.failure = error
