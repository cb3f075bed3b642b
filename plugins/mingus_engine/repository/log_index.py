"""Which write-ahead log a repository holds of a source: one listing, no key needed.

Containers overlap: slices of an unfinished segment, the whole segment that replaced them, copies that a shipping run
put. What counts is the union of their ranges. Everything is kept apart by cluster (system identifier) and timeline,
and ordered by LSN, never by name (TRAPS "PostgreSQL" 4).
"""

from __future__ import annotations

import bisect
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from mingus_engine import lsn as lsns
from mingus_engine.errors import LogMissing
from mingus_engine.repository import names
from mingus_engine.repository.names import LogName
from mingus_engine.repository.repository import Repository


class StoredLog(NamedTuple):
    """One container as listed; ``size`` in bytes as stored."""

    name: LogName
    size: int


class Range(NamedTuple):
    """Bytes of log, from the LSN ``start`` up to ``end``."""

    start: int
    end: int


@dataclass(frozen=True)
class TimelineLogs:
    """The containers of one timeline of one cluster, ascending by start, the longest of equal starts first."""

    system_id: int
    timeline: int
    logs: Sequence[StoredLog]
    _starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [log.name.start for log in self.logs])

    @cached_property
    def _stretches(self) -> list[Range]:
        found: list[Range] = []
        for log in self.logs:
            if found and log.name.start <= found[-1].end:
                found[-1] = Range(found[-1].start, max(found[-1].end, log.name.end))
            else:
                found.append(Range(log.name.start, log.name.end))
        return found

    def stretches(self) -> list[Range]:
        """What is covered without a gap: disjoint, ascending, not adjacent."""
        return list(self._stretches)

    def covered_to(self, lsn: int) -> int:
        """The end of the stretch that holds *lsn* (or ends there); *lsn* itself when it is not covered."""
        return next((s.end for s in self._stretches if s.start <= lsn <= s.end), lsn)

    def needed(self) -> list[StoredLog]:
        """Without those that one other container covers alone: what a copy of this timeline must hold."""
        kept: list[StoredLog] = []
        for log in self.logs:  # ascending by start, the longest first: the farthest end so far tells
            if not kept or log.name.end > kept[-1].name.end:
                kept.append(log)
        return kept

    def covered_by_one(self, start: int, end: int) -> bool:
        """Whether one container holds all of *start* to *end*."""
        behind = bisect.bisect_right(self._starts, start)
        return any(log.name.end >= end for log in self.logs[:behind])

    def before(self, lsn: int) -> int | None:
        """The end of the last stretch that begins before *lsn*, at most *lsn*; ``None`` when there is none."""
        return max((min(s.end, lsn) for s in self.stretches() if s.start < lsn), default=None)

    def covering(self, start: int, end: int) -> list[StoredLog]:
        """The fewest containers that hold every byte from *start* to *end*, in order.

        :raises LogMissing: there is a gap; it is named.
        """
        chosen: list[StoredLog] = []
        at = start
        first = 0
        while at < end:
            # Among those that begin at or before *at*, the one that reaches farthest.
            behind = bisect.bisect_right(self._starts, at)
            best = max(self.logs[first:behind], key=lambda log: log.name.end, default=None)
            if best is None or best.name.end <= at:
                beyond = next((log.name.start for log in self.logs[behind:]), end)
                raise LogMissing(
                    f"write-ahead log of timeline {self.timeline} is missing from"
                    f" {lsns.text(at)} to {lsns.text(min(beyond, end))}",
                )
            chosen.append(best)
            at, first = best.name.end, behind
        return chosen


@dataclass(frozen=True)
class LogIndex:
    """All logs of a source.

    :param timelines: (system identifier, timeline) → its containers. :param histories: the same → its ``.history``.
    """

    timelines: dict[tuple[int, int], TimelineLogs]
    histories: dict[tuple[int, int], StoredLog]

    def timeline(self, system_id: int, timeline: int) -> TimelineLogs:
        """Of one timeline; empty when there is nothing."""
        return self.timelines.get((system_id, timeline)) or TimelineLogs(system_id, timeline, ())

    def without(self, stored: Container[str]) -> LogIndex:
        """The index without the containers of these stored names."""
        every = [*self.histories.values(), *(log for timeline in self.timelines.values() for log in timeline.logs)]
        return index(log for log in every if str(log.name) not in stored)


def list_logs(repository: Repository, source: str, planned: Container[str] = ()) -> LogIndex:
    """The logs of *source* that no open plan names (*planned*: ``SourceState.planned``)."""
    infos = repository.store.list(f"logs/{source}/")
    named = ((names.log(info.name), info) for info in infos if info.name not in planned)
    return index(StoredLog(name, info.size) for name, info in named if name is not None)


def index(found: Iterable[StoredLog]) -> LogIndex:
    """The index of what was listed."""
    by_timeline: dict[tuple[int, int], list[StoredLog]] = {}
    histories: dict[tuple[int, int], StoredLog] = {}
    for log in found:
        system_id, timeline, part = log.name.lineage.split("/")
        key = int(system_id), int(timeline)
        if part == "history":
            histories.setdefault(key, log)
        else:
            by_timeline.setdefault(key, []).append(log)
    return LogIndex(
        {
            key: TimelineLogs(*key, sorted(logs, key=lambda log: (log.name.start, -log.name.end, str(log.name))))
            for key, logs in by_timeline.items()
        },
        histories,
    )
