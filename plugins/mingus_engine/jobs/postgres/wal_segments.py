"""The log of one timeline on its way into a repository: whole segments when they end, slices of the unfinished one.

A segment is received from its start, also when its beginning is stored already as slices: the whole segment replaces
them when it ends. What is received a second time is compared with what is stored; nothing is stored of a server whose
log is another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.codec.containers import ContainerKind
from mingus_engine.errors import BackupBroken, LogDiverged
from mingus_engine.jobs.postgres.wal import wal_facts
from mingus_engine.repository import names
from mingus_engine.repository.logs import LogWriter
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.postgres.archiving import Sample

# A sample waits for the log to reach it. While the archive is behind, newer ones are not worth more than the oldest.
_SAMPLES_MAX = 16
# Of what was stored so much is remembered, to store it once more with a newer sample while nothing new comes.
_REMEMBERED_BYTES = 4096
_REFRESH_BYTES = 8


@dataclass(frozen=True)
class Tail:
    """The last bytes of what is stored, which the server must send again as they are.

    :param refreshed: from here to its end it was stored once more with the newest sample; 0 = it was not.
    """

    start: int
    data: bytes
    name: str = ""
    refreshed: int = 0

    @property
    def end(self) -> int:
        """LSN behind the last one."""
        return self.start + len(self.data)


@dataclass(frozen=True)
class Destination:
    """Where to and how containers are written. *waiting* surrounds what may take long (keeps the server informed)."""

    run: WriteRun
    system_id: int
    segment_bytes: int
    spool_path: Path
    level: int
    server_version: int
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def facts(self) -> dict[str, Any]:
        """What every container says of its origin."""
        return wal_facts(self.system_id, self.segment_bytes, self.server_version)

    def writer(self, timeline: int, start: int) -> LogWriter:
        """A new container from *start* on."""
        lineage = names.wal_lineage(self.system_id, timeline, start)
        return LogWriter(
            self.run, ContainerKind.WAL, lineage, start, spool_path=self.spool_path, level=self.level
        )  # fmt: skip


class SegmentStore:
    """One timeline. ``take`` what comes, in order; ``slice`` when it should be safe. Not thread-safe.

    :param stored_to: up to here the log is stored. :param tail: the end of that, to compare with.
    :param on_segment: told of the end of each segment once it is stored whole.
    :ivar position: everything before was taken.
    """

    def __init__(
        self,
        to: Destination,
        timeline: int,
        *,
        start: int,
        stored_to: int,
        tail: Tail | None,
        on_segment: Callable[[int], None],
    ) -> None:
        self._to, self._timeline, self._on_segment = to, timeline, on_segment
        self._tail = tail
        self._newest = b""
        self._samples: deque[Sample] = deque()
        self._writer: LogWriter | None = None
        # The beginning of a segment before *stored_to* that is only compared is not stored again.
        self._keep_from = lsns.segment_start(stored_to, to.segment_bytes)
        self.position, self.stored_to = start, stored_to
        self.segments = self.slices = self.stored_bytes = 0
        self.sample = Sample()

    def take(self, at: int, data: memoryview) -> None:
        """The next bytes of the log.

        :raises BackupBroken: they are not the next. :raises LogDiverged: they are not what is stored.
        :raises StoreError: a segment could not be stored. :raises CommitRefused: the run was fenced.
        """
        if data and at != self.position:
            raise BackupBroken(f"WAL stream jumped from {lsns.text(self.position)} to {lsns.text(at)}")
        self._compare(data)
        while data:
            room = self._to.segment_bytes - self.position % self._to.segment_bytes
            part, data = data[:room], data[room:]
            if self.position >= self._keep_from:
                if self._writer is None:
                    self._writer = self._to.writer(self._timeline, self.position)
                self._writer.append(part)
            self.position += len(part)
            self._newest = bytes(part[-_REMEMBERED_BYTES:])
            if len(part) == room and self._writer is not None:
                self._end_segment()

    def sampled(self, sample: Sample) -> None:
        """A sample that goes into the container that reaches it."""
        if sample.clock_us and len(self._samples) < _SAMPLES_MAX:
            self._samples.append(sample)

    def slice(self) -> bool:
        """Store what is new of the unfinished segment; whether there was anything.

        :raises StoreError: :raises CommitRefused: as :meth:`take`.
        """
        if self._writer is None or self.position <= self.stored_to:
            return False
        with closing(self._to.writer(self._timeline, self.stored_to)) as part:
            for chunk in self._writer.read(self.stored_to):
                part.append(chunk)
            self._put(part)
        self.slices += 1
        return True

    def refresh(self) -> bool:
        """Store the end of the log once more for a newer sample, where nothing new comes; whether that was possible.

        Each time a little more of it: so a listing tells which is the newest, and that the others are not needed.
        """
        tail = self._tail
        if self.position != self.stored_to or tail is None or tail.end != self.stored_to or not self._samples:
            return False
        start = max(tail.start, (tail.refreshed or tail.end) - _REFRESH_BYTES)
        with closing(self._to.writer(self._timeline, start)) as part:
            part.append(tail.data[start - tail.start :])
            self._put(part, even_if_there=True)
        self._tail = replace(tail, refreshed=start)
        return True

    def close(self) -> None:
        """Abandon what is not stored. Idempotent."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _end_segment(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with closing(writer):
                self._put(writer)
            self.segments += 1
            self._on_segment(self.position)

    def _put(self, writer: LogWriter, *, even_if_there: bool = False) -> None:
        end = writer.start + writer.length
        sample = Sample()
        while self._samples and self._samples[0].flush <= end:
            sample = self._samples.popleft()
        with self._to.waiting():
            writer.put(
                server_clock_us=sample.clock_us, flush=sample.flush, facts=self._to.facts(), even_if_there=even_if_there
            )
            self._to.run.refuse_if_fenced()  # DESIGN §4: before anything is confirmed to the server
        self.stored_bytes += end - max(writer.start, min(self.stored_to, end))
        if end > self.stored_to:
            self.stored_to, self._tail = end, Tail(end - len(self._newest), self._newest)
        if sample.clock_us:
            self.sample = sample

    def _compare(self, data: memoryview) -> None:
        tail = self._tail
        if tail is None or self.position >= tail.end or self.position + len(data) <= tail.start:
            return
        low, high = max(self.position, tail.start), min(self.position + len(data), tail.end)
        if data[low - self.position : high - self.position] != tail.data[low - tail.start : high - tail.start]:
            raise LogDiverged(
                f"timeline {self._timeline}: the server's log between {lsns.text(low)} and {lsns.text(high)}"
                f" is not the one that is stored ({tail.name})"
            )
