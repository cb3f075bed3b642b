"""Writing a snapshot's files into a target: the mirror image of the pipeline. One worker owns one file."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.base import FileWriter, Target

_POLL_S = 0.2


@dataclass
class Written:
    """What was written, in files and bytes."""

    files: int = 0
    bytes: int = 0


class Materialiser:
    """Writes every entry of a snapshot. Files with maps of their own go first, the largest of them at the beginning,
    so that no worker is left alone with a large one at the end. Their entries are in memory together: under 1 KiB
    for every 40 MiB of such files at worst.
    """

    def __init__(self, reader: SnapshotReader, target: Target, context: JobContext, total_bytes: int) -> None:
        self._reader, self._target, self._context, self._total = reader, target, context, total_bytes
        self._queue: queue.Queue[TabledEntry | None] = queue.Queue(64)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self.written = Written()

    def run(self, workers: int) -> Written:
        """Everything, by *workers* threads.

        :raises Damaged: what is stored is not what was backed up. :raises TargetError: :raises Cancelled:
        """
        threads = [threading.Thread(target=self._work, name=f"mingus-restore-{i}") for i in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for tabled in self._large():
                self._submit(tabled)
            for tabled in self._reader.files():
                if tabled.entry.kind == FileKind.FILE and not tabled.entry.maps:
                    self._submit(tabled)
                if self._stop.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - threads must end before it goes on
            self._fail(error)
        finally:
            for _ in threads:
                self._enqueue(None)
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure
        return self.written

    def _large(self) -> list[TabledEntry]:
        """Makes directories and links; the files with maps of their own, largest first."""
        found = []
        for tabled in self._reader.files():
            self._context.checkpoint()
            entry = tabled.entry
            if entry.kind == FileKind.DIRECTORY:
                self._target.make_directory(entry)
            elif entry.kind == FileKind.SYMLINK:
                self._target.make_symlink(entry)
            elif entry.maps:
                found.append(tabled)
        return sorted(found, key=lambda tabled: -tabled.entry.size)

    def _submit(self, tabled: TabledEntry) -> None:
        self._context.checkpoint()
        self._enqueue(tabled)

    def _enqueue(self, work: TabledEntry | None) -> None:
        while True:
            try:
                self._queue.put(work, timeout=_POLL_S)
                return
            except queue.Full:
                if self._stop.is_set() and work is not None:
                    return

    def _work(self) -> None:
        while True:
            tabled = self._queue.get()
            if tabled is None:
                return
            if self._stop.is_set():
                continue
            try:
                self._write(tabled)
            except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
                self._fail(error)

    def _write(self, tabled: TabledEntry) -> None:
        name = tabled.entry.path.decode("utf-8", "replace")
        writer: FileWriter = self._target.open_file(tabled.entry)
        try:
            for offset, data, length in self._reader.data(tabled):
                self._context.checkpoint()
                if data is not None:
                    writer.write(offset, data)
                with self._lock:
                    self.written.bytes += length
                    done = self.written.bytes
                self._context.progress("restore", done, self._total, name)
            writer.close()
        finally:
            writer.abort()
        with self._lock:
            self.written.files += 1

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._stop.set()
