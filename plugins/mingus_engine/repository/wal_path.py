"""The write-ahead log on the way to a timeline: where it is stored, up to where without a gap, and as which files.

A server that was promoted copies the beginning of the segment in which it left the old timeline, so a stored segment of
the new one also holds the end of the old one (POSTGRES.md §4). A segment of a path is therefore made from whatever
holds its bytes, and named as a server that follows the path looks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.errors import LogMissing
from mingus_engine.postgres.timelines import Step
from mingus_engine.repository.log_index import LogIndex, StoredLog, TimelineLogs


@dataclass(frozen=True)
class Piece:
    """Bytes of log from ``start`` up to ``end`` (LSNs), which lie in the container ``log``."""

    log: StoredLog
    start: int
    end: int


@dataclass(frozen=True)
class SegmentFile:
    """A file of ``pg_wal``: its first LSN, how many bytes of it are there, and what they are made of, in order."""

    name: str
    start: int
    length: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class WalPath:
    """The steps to a timeline of one cluster, over what is stored.

    :param segment_bytes: size of a WAL segment.
    """

    index: LogIndex
    system_id: int
    steps: Sequence[Step]
    segment_bytes: int

    @property
    def timeline(self) -> int:
        """Where the path leads."""
        return self.steps[-1].timeline

    def covered_to(self, start: int) -> int:
        """The first LSN behind *start* that is not stored; *start* itself when nothing is."""
        at = start
        for number, step in enumerate(self.steps):
            if step.end is None:
                return self._logs(step).covered_to(at)
            if at >= step.end:
                continue
            at = min(self._logs(step).covered_to(at), step.end)
            shared = lsns.segment_start(step.end, self.segment_bytes)
            if at < step.end and at >= shared:
                at = max(at, min(step.end, max(self._logs(s).covered_to(shared) for s in self.steps[number + 1 :])))
            if at < step.end:
                return at
        return at

    def pieces(self, start: int, end: int) -> list[Piece]:
        """What holds every byte from *start* to *end*, in order, without overlap.

        :raises LogMissing: there is a gap; it is named.
        """
        found: list[Piece] = []
        for number, step in enumerate(self.steps):
            low, high = max(start, step.begin), end if step.end is None else min(end, step.end)
            if low >= high:
                continue
            shared = high if step.end is None else max(low, lsns.segment_start(step.end, self.segment_bytes))
            found += _cut(self._logs(step).covering(low, min(shared, high)), low, min(shared, high))
            if shared < high:
                found += self._shared(number, shared, high)
        return found

    def files(self, start: int, end: int) -> Iterator[SegmentFile]:
        """The segments that hold *start* to *end*, whole but for the last one, which ends with *end*.

        :raises LogMissing: there is a gap; it is named.
        """
        first = lsns.segment_start(start, self.segment_bytes)
        waiting: list[Piece] = []
        for piece in self.pieces(first, end):
            at = piece.start
            while at < piece.end:
                segment = lsns.segment_start(at, self.segment_bytes)
                if waiting and waiting[0].start < segment:
                    yield self._file(waiting)
                    waiting = []
                upto = min(piece.end, segment + self.segment_bytes)
                waiting.append(Piece(piece.log, at, upto))
                at = upto
        if waiting:
            yield self._file(waiting)

    def step_at(self, lsn: int) -> Step:
        """The step whose log holds the byte at *lsn*."""
        return next(s for s in self.steps if s.end is None or lsn < s.end)

    def _file(self, pieces: list[Piece]) -> SegmentFile:
        start, end = pieces[0].start, pieces[-1].end
        # A server looks for the newest timeline's file first; it takes an older one's where that is not there.
        timeline = self.step_at(end - 1).timeline
        return SegmentFile(lsns.segment_name(timeline, start, self.segment_bytes), start, end - start, tuple(pieces))

    def _shared(self, number: int, low: int, high: int) -> list[Piece]:
        """The end of an old timeline, from its own log or from a later one's copy of the segment."""
        trouble: LogMissing | None = None
        for step in self.steps[number:]:
            try:
                return _cut(self._logs(step).covering(low, high), low, high)
            except LogMissing as error:
                trouble = trouble or error
        raise trouble or LogMissing("no timeline")

    def _logs(self, step: Step) -> TimelineLogs:
        return self.index.timeline(self.system_id, step.timeline)


def _cut(logs: Sequence[StoredLog], low: int, high: int) -> list[Piece]:
    """Each container for what those before it do not hold."""
    found = []
    for log in logs:
        upto = min(log.name.end, high)
        found.append(Piece(log, low, upto))
        low = upto
    return found
