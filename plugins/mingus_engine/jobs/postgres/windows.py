"""``windows``: from which moment to which moment a source can be restored, told from what is stored and nothing else.

A window begins where a snapshot is consistent (its stop LSN) and ends where the stored write-ahead log has its first
gap. Snapshots whose logs reach equally far share one window; what lies between two windows is a gap. The window of a
timeline reaches back to snapshots of its ancestors. Times are those of samples that the server gave while the log was
received; where there is none the time is unknown, never guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.jobs import surveying
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.jobs.refuted import usable
from mingus_engine.jobs.stored_logs import DamagedLog
from mingus_engine.jobs.surveying import WindowsReport, shown
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.wal_path import WalPath
from mingus_engine.settings import Settings


@dataclass(frozen=True)
class BasePoint:
    """A snapshot as a place where recovery can begin.

    :param start: first LSN of the segment it needs first. :param stop: LSN at which it is consistent, at ``stopped_at``
        by the clock of the machine that made it.
    """

    snapshot: str
    system_id: int
    timeline: int
    start: int
    stop: int
    stopped_at: datetime
    segment_bytes: int


@dataclass(frozen=True)
class Window:
    """Any moment from ``start`` to ``end`` (LSNs) on the timeline can be restored.

    :param snapshots: ULIDs of those it can be restored from, oldest first; the first one opens it.
    :param start_time: when the opening snapshot was consistent. :param end_time: everything committed before is stored.
    """

    system_id: int
    timeline: int
    start: int
    end: int
    snapshots: tuple[str, ...]
    start_time: datetime | None = None
    end_time: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "system_id": str(self.system_id),
            "timeline": self.timeline,
            **_ends(self),
            "snapshots": list(self.snapshots),
        }

    def shown(self) -> str:
        """``timeline 1: 0/3000100 (2026-…Z) to 0/5000000 (…)``."""
        start, end = lsns.text(self.start), lsns.text(self.end)
        return f"timeline {self.timeline}: {shown(start, self.start_time)} to {shown(end, self.end_time)}"


@dataclass(frozen=True)
class Gap:
    """No moment between ``start`` and ``end`` (LSNs) can be restored: log is missing, or the next snapshot is later."""

    system_id: int
    timeline: int
    start: int
    end: int
    start_time: datetime | None = None
    end_time: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "system_id": str(self.system_id),
            "timeline": self.timeline,
            **_ends(self),
        }


Found = surveying.Found[Window, Gap]


def windows(settings: Settings, source_id: str, repository: str | None = None, *, context: JobContext) -> WindowsReport:
    """The windows of *source_id* in *repository* (default: in each of its chain).

    :raises MingusError: no repository could be read; the error of the first.
    """
    settings.stored_source(source_id, "postgres")
    return surveying.survey(settings, source_id, repository, look, context=context)


def look(repository: Repository, source: str) -> Found:
    """The windows of *source* in one repository, with their times."""
    return Recoverable(repository, source, state.look(repository, source)).found()


class Recoverable:
    """A look at what one repository can restore of a source: its base points, paths and log.

    :param trusted: ULID of a snapshot that counts although its newest proof says that it is not good.
    :ivar points: usable snapshots, in the source's order. :ivar unusable: ULID → why it is not among them.
    """

    def __init__(self, repository: Repository, source: str, seen: state.SourceState, *, trusted: str = "") -> None:
        self.repository = repository
        self.wal = StoredWal(repository, source, seen)
        self.manifests: dict[str, Manifest] = {m.ulid: m for m in seen.manifests}
        self.points: list[BasePoint] = []
        self.facts: dict[str, Mapping[str, Any]] = {}
        self._paths: dict[tuple[int, int], WalPath] = {}
        found, self.unusable = usable(repository, source, seen, trusted=trusted)
        for manifest, facts in found:
            if (point := base_point(manifest.ulid, facts)) is not None:
                self.points.append(point)
                self.facts[manifest.ulid] = facts

    def found(self) -> Found:
        """Windows and gaps of every timeline, with their times."""
        while True:
            result = compute(self.points, list(self.paths()), self.unusable)
            try:
                timed = tuple(self._timed(window) for window in result.windows)
            except DamagedLog as error:
                # What is not whole is not there: the windows are others without it.
                self.wal.discard(error)
                self._paths.clear()
                continue
            return Found(timed, tuple(gaps(timed)), result.unusable, dict(self.wal.damaged))

    def paths(self) -> Iterator[WalPath]:
        """To every timeline that a snapshot may lead to, those of the newest cluster last, ascending."""
        order = {point.system_id: i for i, point in enumerate(self.points)}
        known = {(p.system_id, p.timeline) for p in self.points}
        known |= {key for key in self.wal.index.timelines if key[0] in order}
        for key in sorted(known, key=lambda key: (order[key[0]], key[1])):
            try:
                yield self.path(*key)
            except DamagedLog as error:
                self.wal.discard(error)  # the timeline stands alone now
                yield self.path(*key)

    def path(self, system_id: int, timeline: int) -> WalPath:
        """The way to a timeline.

        :raises DamagedLog: its history is not whole.
        """
        key = (system_id, timeline)
        if key not in self._paths:
            newest = next(p for p in reversed(self.points) if p.system_id == system_id)
            self._paths[key] = self.wal.path(system_id, timeline, newest.segment_bytes)
        return self._paths[key]

    def point(self, snapshot: str) -> BasePoint:
        """The base point of a usable snapshot."""
        return next(p for p in self.points if p.snapshot == snapshot)

    def _timed(self, window: Window) -> Window:
        point = self.point(window.snapshots[0])
        sample = self.wal.newest_sample(self.path(window.system_id, window.timeline), point.start, window.end)
        # A sample from before the snapshot's end says nothing about this window.
        end_time = sample.at if sample and sample.flush >= window.start else None
        return replace(window, start_time=point.stopped_at, end_time=end_time)


def base_point(snapshot: str, facts: Mapping[str, Any]) -> BasePoint | None:
    """The place where recovery from a snapshot begins; ``None``: it is not one of a PostgreSQL cluster."""
    if "start_lsn" not in facts:
        return None
    segment_bytes = int(facts["wal_segment_bytes"])
    return BasePoint(
        snapshot=snapshot,
        system_id=int(facts["system_id"]),
        timeline=int(facts["timeline"]),
        start=lsns.segment_start(lsns.parse(str(facts["start_lsn"])), segment_bytes),
        stop=lsns.parse(str(facts["stop_lsn"])),
        stopped_at=datetime.fromisoformat(str(facts["stopped_at"])),
        segment_bytes=segment_bytes,
    )


def compute(points: Sequence[BasePoint], paths: Iterable[WalPath], unusable: dict[str, str]) -> Found:
    """Windows and gaps, without times; pure.

    :param points: snapshots in the source's order. :param paths: to every timeline of interest.
    """
    found: list[Window] = []
    opened: set[str] = set()
    reasons = dict(unusable)
    for path in paths:
        by_end: dict[int, list[BasePoint]] = {}
        for point in points:
            if not leads_to(point, path):
                continue
            end = path.covered_to(point.start)
            if end >= point.stop:
                by_end.setdefault(end, []).append(point)
                opened.add(point.snapshot)
            else:
                reasons[point.snapshot] = (
                    f"write-ahead log of timeline {point.timeline} is missing from {lsns.text(end)}"
                    f" to {lsns.text(point.stop)}"
                )
        for end, group in sorted(by_end.items()):
            group.sort(key=lambda p: p.stop)
            found.append(Window(path.system_id, path.timeline, group[0].stop, end, tuple(p.snapshot for p in group)))
    reasons = {ulid: why for ulid, why in reasons.items() if ulid not in opened}
    return Found(tuple(found), tuple(gaps(found)), reasons)


def leads_to(point: BasePoint, path: WalPath) -> bool:
    """Whether the timeline descends from the snapshot: it was left only after the snapshot's end (TRAPS 5)."""
    return point.system_id == path.system_id and any(
        step.timeline == point.timeline and step.holds(point.stop) for step in path.steps
    )


def gaps(found: Sequence[Window]) -> Iterable[Gap]:
    """What lies between the windows of each timeline."""
    for before, after in itertools.pairwise(found):
        if (before.system_id, before.timeline) == (after.system_id, after.timeline):
            yield Gap(before.system_id, before.timeline, before.end, after.start, before.end_time, after.start_time)


def _ends(of: Window | Gap) -> dict[str, Any]:
    return {
        "start_lsn": lsns.text(of.start),
        "start_time": surveying.iso(of.start_time),
        "end_lsn": lsns.text(of.end),
        "end_time": surveying.iso(of.end_time),
    }
