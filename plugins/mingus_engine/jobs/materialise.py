"""Writing a snapshot's files into a target: the mirror image of the pipeline. One worker owns one file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mingus_engine import bounds
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.base import FileWriter, PresentFile, Target

_QUEUE_ITEMS = 64
# Progress is told so often within a file.
_COUNT_BYTES = bounds.MIB


@dataclass
class Written:
    """What was written, in files and bytes; ``same_bytes`` of them were there already."""

    files: int = 0
    bytes: int = 0
    same_bytes: int = 0


class Materialiser:
    """Writes every entry of a snapshot. Files with maps of their own go first, the largest of them at the beginning,
    so that no worker is left alone with a large one at the end. Their entries are in memory together: under 1 KiB
    for every 40 MiB of such files at worst.

    :param wanted: tells whether an entry is written; default: all are.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        target: Target,
        context: JobContext,
        total_bytes: int,
        *,
        wanted: Callable[[Entry], bool] = lambda _: True,
    ) -> None:
        self._reader, self._target, self._context, self._total = reader, target, context, total_bytes
        self._wanted = wanted
        self._lock = threading.Lock()
        self.written = Written()

    def run(self, workers: int) -> Written:
        """Everything, by *workers* threads.

        :raises Damaged: what is stored is not what was backed up. :raises TargetError: :raises Cancelled:
        """
        crew = Crew("restore", lambda: self._write, cancel=self._context.cancel, queue_items=_QUEUE_ITEMS)
        crew.run(self._works(), workers)
        return self.written

    def _works(self) -> Iterator[TabledEntry]:
        yield from self._large()
        files = (
            t
            for t in self._reader.files()
            if t.entry.kind == FileKind.FILE and not t.entry.maps and self._wanted(t.entry)
        )
        for tabled in self._reader.expected(files):
            self._context.checkpoint()
            yield tabled

    def _large(self) -> list[TabledEntry]:
        """Makes directories and links; the files with maps of their own, largest first."""
        found = []
        for tabled in self._reader.files():
            self._context.checkpoint()
            entry = tabled.entry
            if not self._wanted(entry):
                continue
            if entry.kind == FileKind.DIRECTORY:
                self._target.make_directory(entry)
            elif entry.kind == FileKind.SYMLINK:
                self._target.make_symlink(entry)
            elif entry.maps:
                found.append(tabled)
        return sorted(found, key=lambda tabled: -tabled.entry.size)

    def _write(self, tabled: TabledEntry) -> None:
        name = tabled.entry.path.decode("utf-8", "replace")
        present = self._target.open_present(tabled.entry)
        if present is not None:
            self._mend(tabled, present, name)
        else:
            writer: FileWriter = self._target.open_file(tabled.entry)
            try:
                uncounted = 0
                for offset, data, length in self._reader.data(tabled):
                    self._context.checkpoint()
                    if data is not None:
                        writer.write(offset, data)
                    uncounted += length
                    if uncounted >= _COUNT_BYTES:
                        self._count(uncounted, name)
                        uncounted = 0
                writer.close()
                self._count(uncounted, name)
            finally:
                writer.abort()
        with self._lock:
            self.written.files += 1

    def _mend(self, tabled: TabledEntry, present: PresentFile, name: str) -> None:
        """Bring a file that is there to what was backed up: only blocks that differ are fetched and written."""
        try:
            for offset, data, length, same in self._reader.changes(tabled, present.read):
                self._context.checkpoint()
                if same and data is not None:
                    present.keep(offset, data)
                else:
                    present.write(offset, bytes(length) if data is None else data)
                self._count(length, name, same=same)
            present.close()
        finally:
            present.abort()

    def _count(self, length: int, name: str, *, same: bool = False) -> None:
        with self._lock:
            self.written.bytes += length
            self.written.same_bytes += length if same else 0
            done = self.written.bytes
        self._context.progress("restore", done, self._total, name)
