"""``windows`` of Redis: from which moment to which moment a source can be restored, told from what is stored.

A window begins with a snapshot whose replication id and offset are known and ends where the stored command stream has
its first gap; snapshots whose stream reaches equally far share it. The times are those of the server's own clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mingus_engine.jobs import surveying
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.stored_stream import StoredStream, StreamPath
from mingus_engine.jobs.redis.stream_store import system_id
from mingus_engine.jobs.refuted import usable
from mingus_engine.jobs.stored_logs import DamagedLog
from mingus_engine.jobs.surveying import WindowsReport, shown
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings


@dataclass(frozen=True)
class BasePoint:
    """A shard of a snapshot as a place where recovery can begin.

    :param form: ``rdb``, or ``aof``: the backup of an append-only file. :param offset: of replication, that its RDB
        ends with; of an append-only file: bytes of its last file, up to where it can be restored.
    :param at: everything in its RDB was executed before, by the server's clock; of an append-only file: the first
        moment that can be restored. :param reaches: of an append-only file: the last one.
    :param exact: whether moments between can be restored (an append-only file needs annotations for that).
    """

    snapshot: str
    shard: str
    replid: str
    offset: int
    at: datetime | None
    form: str
    reaches: datetime | None = None
    exact: bool = True


@dataclass(frozen=True)
class Window:
    """Any whole command from ``start`` to ``end`` (offsets) of the history can be the last one restored.

    :param form: ``stream``: snapshots and the command stream; ``aof``: one backup of an append-only file.
    :param snapshots: ULIDs of those it can be restored from, oldest first.
    """

    form: str
    shard: str
    replid: str
    start: int
    end: int
    snapshots: tuple[str, ...]
    start_time: datetime | None = None
    end_time: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "form": self.form,
            "shard": self.shard,
            "replid": self.replid,
            **_ends(self),
            "snapshots": list(self.snapshots),
        }

    def shown(self) -> str:
        """For messages."""
        where = f"{self.shard}: " if self.shard else ""
        return f"{where}{shown(str(self.start), self.start_time)} to {shown(str(self.end), self.end_time)}"


@dataclass(frozen=True)
class Gap:
    """Nothing between ``start`` and ``end`` (offsets) of a history can be restored."""

    shard: str
    replid: str
    start: int
    end: int
    start_time: datetime | None = None
    end_time: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "shard": self.shard,
            "replid": self.replid,
            **_ends(self),
        }


Found = surveying.Found[Window, Gap]


def windows(settings: Settings, source_id: str, repository: str | None = None, *, context: JobContext) -> WindowsReport:
    """The windows of *source_id* in *repository* (default: in each of its chain).

    :raises MingusError: no repository could be read; the error of the first.
    """
    settings.stored_source(source_id, "redis")
    return surveying.survey(settings, source_id, repository, look, context=context)


def look(repository: Repository, source: str) -> Found:
    """The windows of *source* in one repository, with their times."""
    return Recoverable(repository, source, state.look(repository, source)).found()


class Recoverable:
    """A look at what one repository can restore of a source: its base points and command streams.

    :param trusted: ULID of a snapshot that counts although its newest proof says that it is not good.
    :ivar points: of usable snapshots, in the source's order. :ivar unusable: ULID → why it is not among them.
    """

    def __init__(self, repository: Repository, source: str, seen: state.SourceState, *, trusted: str = "") -> None:
        self.repository = repository
        self.stream = StoredStream(repository, source, seen)
        self.manifests: dict[str, Manifest] = {m.ulid: m for m in seen.manifests}
        self.facts: dict[str, Mapping[str, Any]] = {}
        self.points: list[BasePoint] = []
        found, self.unusable = usable(repository, source, seen, trusted=trusted)
        for manifest, facts in found:
            self.facts[manifest.ulid] = facts
            self.points += base_points(manifest.ulid, facts)

    def found(self) -> Found:
        """Windows and gaps of every history, with their times; the newest snapshot's last."""
        while True:
            try:
                made = tuple(self._windows())
            except DamagedLog as error:
                self.stream.discard(error)  # what is not whole is not there: the windows are others without it
                continue
            return Found(made, tuple(gaps(made)), dict(self.unusable), dict(self.stream.damaged))

    def path(self, replid: str) -> StreamPath:
        """The way to a history. :raises DamagedLog:"""
        return self.stream.path(replid)

    def paths(self) -> list[StreamPath]:
        """To every history that is stored or that a snapshot is of; none that is only the beginning of another one."""
        replids = dict.fromkeys(p.replid for p in self.points if p.form != "aof")
        for replid in self._stored_histories():
            replids.setdefault(replid)
        every = [self.path(replid) for replid in replids if replid]
        shared = {step.replid: step.until or 0 for path in every for step in path.steps[:-1]}
        return [p for p in every if p.replid not in shared or self._ends(p.replid) > shared[p.replid]]

    def _ends(self, replid: str) -> int:
        """The last offset of a history at which there is anything: an old primary may have gone on by itself."""
        stored = [log.name.end for log in self.stream.index.timeline(system_id(replid), 1).logs]
        return max([*stored, *(p.offset for p in self.points if p.replid == replid and p.form != "aof")], default=0)

    def _stored_histories(self) -> Iterator[str]:
        """Ids that containers name: of histories in which no snapshot was taken yet."""
        known = {int(p.replid[:16], 16) for p in self.points if p.replid}
        for (number, _), logs in self.stream.index.timelines.items():
            if number not in known and logs.logs:
                yield str(self.stream.directory(logs.logs[-1]).facts.get("replid", ""))

    def _windows(self) -> Iterator[Window]:
        made: list[tuple[int, Window]] = []
        order = {point.snapshot: i for i, point in enumerate(self.points)}
        for path in self.paths():
            by_end: dict[tuple[str, int], list[BasePoint]] = {}
            for point in self.points:
                if point.form != "aof" and path.holds(point.replid, point.offset):
                    by_end.setdefault((point.shard, path.covered_to(point.offset)), []).append(point)
            for (shard, end), group in by_end.items():
                group.sort(key=lambda p: p.offset)
                window = Window(
                    "stream", shard, path.replid, group[0].offset, end, tuple(p.snapshot for p in group), group[0].at
                )
                made.append((order[group[-1].snapshot], self._timed(window, path, group)))
        made += [(order[p.snapshot], _of_file(p)) for p in self.points if p.form == "aof"]
        never = datetime.min.replace(tzinfo=UTC)
        # A server that was set back goes on twice from the same snapshot.
        yield from (window for _, window in sorted(made, key=lambda found: (found[0], found[1].end_time or never)))

    def _timed(self, window: Window, path: StreamPath, group: Sequence[BasePoint]) -> Window:
        pieces = path.pieces(window.start, window.end)
        first, last = self.stream.oldest_sample(pieces), self.stream.newest_sample(pieces)
        if first is None or last is None:
            return replace(window, end_time=group[-1].at)
        opens = group[0].at
        return replace(window, start_time=min(opens, first.at) if opens else first.at, end_time=last.at)


def base_points(snapshot: str, facts: Mapping[str, Any]) -> Iterator[BasePoint]:
    """The places where recovery from a snapshot begins, one per shard; none of a source of another kind."""
    form = str(facts.get("form", ""))
    for shard in facts.get("shards", ()) if form in {"rdb", "aof"} else ():
        name, replid = str(shard.get("name", "")), str(shard.get("replid", ""))
        if form == "aof":
            reaches, first = _parsed(facts["started_at"]), _unix(facts["aof"].get("first_stamp"))
            end = int(facts["aof"]["files"][-1]["bytes"])
            yield BasePoint(snapshot, name, replid, end, first or reaches, form, reaches, exact=first is not None)
        elif replid:
            ctime = shard.get("rdb", {}).get("aux", {}).get("ctime", "")
            # It was begun within that second: nothing in it was executed after the next one began.
            at = _unix(int(ctime) + 1) if str(ctime).isdigit() else _parsed(facts["stopped_at"])
            yield BasePoint(snapshot, name, replid, int(shard["offset"]), at, form)


def _of_file(point: BasePoint) -> Window:
    start = 0 if point.exact else point.offset
    snapshots = (point.snapshot,)
    return Window("aof", point.shard, point.replid, start, point.offset, snapshots, point.at, point.reaches)


def gaps(found: Sequence[Window]) -> Iterator[Gap]:
    """What lies between the windows of each history."""
    streams = [w for w in found if w.form == "stream"]
    for before, after in itertools.pairwise(sorted(streams, key=lambda w: (w.shard, w.replid, w.start))):
        if (before.shard, before.replid) == (after.shard, after.replid) and before.end < after.start:
            yield Gap(before.shard, before.replid, before.end, after.start, before.end_time, after.start_time)


def _unix(seconds: object) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) and 0 < seconds < 1 << 36 else None


def _parsed(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


def _ends(of: Window | Gap) -> dict[str, Any]:
    return {
        "start_offset": of.start,
        "start_time": surveying.iso(of.start_time),
        "end_offset": of.end,
        "end_time": surveying.iso(of.end_time),
    }
