"""The command stream on its way into a repository: slices every few seconds, and now and then one container of many.

A container holds any bytes of the stream; only who replays it looks for whole commands. Nothing is received twice, so
nothing can be compared: that the server accepts to go on at an offset of a history is the proof that it is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingus_engine.bounds import MIB
from mingus_engine.codec.containers import ContainerKind
from mingus_engine.repository import names
from mingus_engine.repository.logs import LogWriter
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.redis.stream import Sample

#: As many bytes of stream are held in the (sealed) spool before they are stored again as one container.
CONTAINER_BYTES = 16 * MIB
# What an idle primary sends.
_PING = b"*1\r\n$4\r\nPING\r\n"


def system_id(replid: str) -> int:
    """The number that stands for a replication id in the names of logs."""
    return int(replid[:16], 16)


@dataclass(frozen=True)
class StreamDestination:
    """Where to and how containers are written; *facts* are said of each besides its own."""

    run: WriteRun
    replid: str
    spool_path: Path
    level: int
    facts: dict[str, Any]

    def writer(self, start: int) -> LogWriter:
        """A new container from the offset *start* on."""
        lineage = names.wal_lineage(system_id(self.replid), 1, start)
        return LogWriter(
            self.run, ContainerKind.WAL, lineage, start, spool_path=self.spool_path, level=self.level
        )  # fmt: skip


class StreamStore:
    """The stream of one history from *start* on. ``take`` what comes, in order; ``slice`` when it should be safe.

    :param on_stored: told of the offset before which everything is stored, after each put.
    :ivar position: everything before was taken; ``stored_to``: was stored. :ivar sample: the newest that is stored.
    :ivar idle: nothing but signs of life was taken since the last put.
    """

    def __init__(self, to: StreamDestination, start: int, on_stored: Callable[[int], None]) -> None:
        self._to, self._on_stored = to, on_stored
        self._samples: list[Sample] = []
        self._writer: LogWriter | None = None
        self.position = self.stored_to = start
        self.slices = self.containers = self.stored_bytes = 0
        self.sample = Sample()
        self.idle = True

    def take(self, data: bytes) -> None:
        """The next bytes.

        :raises StoreError: a container could not be stored. :raises CommitRefused: the run was fenced.
        """
        if not data:
            return
        if self._writer is None:
            self._writer = self._to.writer(self.position)
        self._writer.append(data)
        self.position += len(data)
        self.idle = self.idle and data == _PING * (len(data) // len(_PING))
        if self._writer.length >= CONTAINER_BYTES:
            self.finish()

    def sampled(self, sample: Sample) -> None:
        """A sample that goes into the container that reaches it."""
        if not sample.clock_us or sample.offset < self.stored_to:
            return
        # Of those at one offset the first and the last tell all.
        if len(self._samples) > 1 and sample.offset == self._samples[-1].offset == self._samples[-2].offset:
            self._samples.pop()
        self._samples.append(sample)

    def slice(self) -> bool:
        """Store what is new; whether there was anything.

        :raises StoreError: :raises CommitRefused: as :meth:`take`.
        """
        if self._writer is None or self.position <= self.stored_to:
            return False
        if self._writer.start == self.stored_to and self._writer.length >= CONTAINER_BYTES // 2:
            return self.finish()
        with closing(self._to.writer(self.stored_to)) as part:
            for chunk in self._writer.read(self.stored_to):
                part.append(chunk)
            self._put(part)
        self.slices += 1
        return True

    def finish(self) -> bool:
        """Store all since the last time as one container, which stands for its slices; whether there was anything.

        :raises StoreError: :raises CommitRefused: as :meth:`take`.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        with closing(writer):
            self._put(writer)
        self.containers += 1
        return True

    def close(self) -> None:
        """Abandon what is not stored. Idempotent."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _put(self, writer: LogWriter) -> None:
        end = writer.start + writer.length
        samples = [s for s in self._samples if s.offset <= end]
        newest = max(samples, key=lambda sample: sample.clock_us, default=Sample())
        facts = {
            **self._to.facts,
            "replid": self._to.replid,
            "samples": [[s.offset, s.clock_us] for s in samples if s.offset >= writer.start],
        }
        writer.put(server_clock_us=newest.clock_us, flush=newest.offset, facts=facts)
        self._to.run.refuse_if_fenced()  # DESIGN §4: before anything is confirmed to the server
        self.stored_bytes += end - max(writer.start, min(self.stored_to, end))
        self.stored_to = max(self.stored_to, end)
        # Those of a slice go into the container that stands for it, too.
        kept_from = self._writer.start if self._writer is not None else end
        self._samples = [s for s in self._samples if s.offset >= kept_from]
        if newest.clock_us > self.sample.clock_us:
            self.sample = newest
        self.idle = True
        self._on_stored(self.stored_to)
