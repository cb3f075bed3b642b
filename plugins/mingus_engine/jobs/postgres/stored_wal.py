"""Reading the write-ahead log of a source out of a repository: containers opened once, keys kept, bytes in order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mingus_engine.codec.containers import HEADER_BYTES, LOG_MAGIC, Header
from mingus_engine.errors import Damaged, FormatTooNew, KeyUnavailable, MingusError, ObjectMissing
from mingus_engine.postgres import timelines
from mingus_engine.repository import log_index
from mingus_engine.repository.log_index import LogIndex, StoredLog
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.state import SourceState
from mingus_engine.repository.wal_path import Piece, WalPath

_EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
# While the log is caught up with, containers have no sample; beyond so many the time is called unknown.
_SAMPLES_LOOKED_AT = 64
_HISTORY_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Everything that was committed before the server's clock said ``at`` lies below the LSN ``flush``."""

    at: datetime
    flush: int


class DamagedLog(Damaged):
    """A log container is not whole, or its key is not there; ``log`` names it."""

    def __init__(self, log: StoredLog, error: MingusError) -> None:
        super().__init__(error.message)
        self.log = log


class StoredWal:
    """The log of one source in one open repository. Thread-safe.

    :param seen: what a look at the source showed: what an open plan names is not there.
    :ivar damaged: stored name → what is wrong, of what was discarded.
    """

    def __init__(self, repository: Repository, source: str, seen: SourceState) -> None:
        self.repository, self.source = repository, source
        self.index: LogIndex = log_index.list_logs(repository, source, seen.planned)
        self.damaged: dict[str, str] = {}
        self._run_keys: dict[str, bytes] = {}
        self._samples: dict[StoredLog, Sample | None] = {}
        self._lock = threading.Lock()

    def path(self, system_id: int, timeline: int, segment_bytes: int) -> WalPath:
        """The way to a timeline.

        :raises DamagedLog: its history is.
        """
        stored = self.index.histories.get((system_id, timeline))
        history = self.content(stored, _HISTORY_MAX_BYTES) if stored else None
        with _named(stored) if stored else nullcontext():
            steps = timelines.path(timeline, history, str(stored.name) if stored else "")
        return WalPath(self.index, system_id, steps, segment_bytes)

    def discard(self, error: DamagedLog) -> None:
        """Count a container that is not whole as not there. Paths made before still have it."""
        self.damaged[str(error.log.name)] = error.message
        kept = (log for logs in self.index.timelines.values() for log in logs.logs if log != error.log)
        histories = (log for log in self.index.histories.values() if log != error.log)
        self.index = log_index.index([*kept, *histories])

    def content(self, log: StoredLog, max_bytes: int) -> bytes:
        """All of a small container. :raises DamagedLog: it is larger than *max_bytes*, or not what was stored."""
        with _named(log):
            if log.name.end - log.name.start > max_bytes:
                raise Damaged(f"{log.name}: is larger than {max_bytes} bytes")
        return b"".join(self.whole(log))

    def whole(self, log: StoredLog) -> Iterator[bytes]:
        """The bytes of one container. :raises DamagedLog: see :meth:`chunks`."""
        return self.chunks([Piece(log, log.name.start, log.name.end)])

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """The bytes of *pieces*, which follow each other, in parts of at most 256 KiB.

        :raises DamagedLog: changed, cut, or the digest differs.
        """
        for piece in pieces:
            at = piece.log.name.start
            with _named(piece.log):
                for chunk in self._reader(piece.log).chunks():
                    low, high = max(piece.start - at, 0), min(piece.end - at, len(chunk))
                    if low < high:
                        yield chunk[low:high]
                    at += len(chunk)

    def sample(self, log: StoredLog) -> Sample | None:
        """The newest sample of a container, ``None`` where it has none."""
        with self._lock:
            if log in self._samples:
                return self._samples[log]
        found = None
        with _named(log):
            directory = self._reader(log).directory()
            if directory.server_clock_us > 0 and directory.flush > 0:
                try:
                    found = Sample(_EPOCH_2000 + timedelta(microseconds=directory.server_clock_us), directory.flush)
                except OverflowError:
                    raise Damaged(f"{log.name}: its clock is no time") from None
        with self._lock:
            self._samples[log] = found
        return found

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

    def _reader(self, log: StoredLog) -> LogReader:
        name = log.name
        header = Header.decode(self.repository.store.get_range(str(name), 0, HEADER_BYTES), LOG_MAGIC, str(name))
        ref = LogRef(name.lineage, name.start, name.end, header.run, log.size, name.sha256, name.putting_run)
        with self._lock:
            key = self._run_keys.get(header.run)
        if key is None:
            key = self.repository.log_key(self.source, header.run)
            with self._lock:
                self._run_keys[header.run] = key
        return LogReader(self.repository, self.source, ref, key)


@contextmanager
def _named(log: StoredLog) -> Iterator[None]:
    try:
        yield
    except (Damaged, FormatTooNew, KeyUnavailable, ObjectMissing) as error:
        raise DamagedLog(log, error) from None
