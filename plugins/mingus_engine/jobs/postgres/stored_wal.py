"""Reading the write-ahead log of a source out of a repository."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime

from mingus_engine.jobs.stored_logs import Sample, StoredLogs, named
from mingus_engine.postgres import timelines
from mingus_engine.repository.wal_path import Piece, WalPath

# While the log is caught up with, containers have no sample; beyond so many the time is called unknown.
_SAMPLES_LOOKED_AT = 64
_HISTORY_MAX_BYTES = 1 << 20


class StoredWal(StoredLogs):
    """The write-ahead log of one source in one open repository. Thread-safe."""

    def path(self, system_id: int, timeline: int, segment_bytes: int) -> WalPath:
        """The way to a timeline.

        :raises DamagedLog: its history is.
        """
        stored = self.index.histories.get((system_id, timeline))
        history = self.content(stored, _HISTORY_MAX_BYTES) if stored else None
        with named(stored) if stored else nullcontext():
            steps = timelines.path(timeline, history, str(stored.name) if stored else "")
        return WalPath(self.index, system_id, steps, segment_bytes)

    def newest_sample(self, path: WalPath, start: int, end: int) -> Sample | None:
        """The newest sample at or below *end*; ``None`` = unknown. *start* to *end* must be covered."""
        pieces = path.pieces(start, end)
        found = self._sample_in(pieces, end)
        # While nothing is written, an archiver stores the end again with a newer sample, each time a little longer.
        last = pieces[-1].log.name
        system_id, timeline, _ = last.lineage.split("/")
        again = [
            log
            for log in self.index.timeline(int(system_id), int(timeline)).logs
            if log.name.end == last.end <= end and log.name.start > last.start
        ]
        newer = [self.sample(log) for log in again[:_SAMPLES_LOOKED_AT] if log.name.start == again[0].name.start]
        return max((s for s in (found, *newer) if s is not None and s.flush <= end), key=lambda s: s.at, default=None)

    def sample_before(self, path: WalPath, start: int, end: int, moment: datetime) -> Sample | None:
        """The newest sample not after *moment*: nothing below its LSN was committed later. ``None`` = unknown."""
        pieces = path.pieces(start, end)
        low, high = 0, len(pieces)  # the samples of pieces[:low] are not after the moment, those of [high:] are
        best: Sample | None = None
        while low < high:
            middle = (low + high) // 2
            found = self._sample_in(pieces[: middle + 1], end)
            if found is not None and found.at > moment:
                high = middle
            else:
                best = found or best
                low = middle + 1
        return best

    def _sample_in(self, pieces: list[Piece], end: int) -> Sample | None:
        for piece in pieces[: -_SAMPLES_LOOKED_AT - 1 : -1]:
            found = self.sample(piece.log)
            if found is not None and found.flush <= end:
                return found
        return None
