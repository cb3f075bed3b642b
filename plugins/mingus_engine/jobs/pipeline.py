"""The data path of every backup: read → hash → compare → compress → seal → pack, in one pass over a bounded queue.

One thread iterates the source's items; workers call ``read`` and do the rest. What becomes of the
bytes is decided by ``mingus_engine.jobs.storing``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mingus_engine import bounds
from mingus_engine.codec.entries import RunTable
from mingus_engine.errors import SourceError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.file_map import FileMap
from mingus_engine.jobs.storing import Storing
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.resume import StoredBlocks
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import FileKind, Item, Stretches
from mingus_engine.sources.buffers import allocate_slab

_Work: TypeAlias = tuple[Item, FileMap]


@dataclass
class Counters:
    """What went through, in bytes and files; guarded by the pipeline's lock.

    :ivar read_bytes: what the files hold. :ivar given_bytes: what of it the source gave, less if it knew what changed.
    """

    read_bytes: int = 0
    given_bytes: int = 0
    files: int = 0
    vanished: int = 0


class Pipeline:
    """Processes items into packs and sorted entries.

    :param blocks: what dead runs stored already; may be empty. :param parent: the snapshot to build on.
    :ivar total_bytes: expected, for progress; 0 = unknown. :ivar storing: what became of the bytes.
    """

    def __init__(
        self,
        run: WriteRun,
        entries: EntrySorter,
        table: RunTable,
        blocks: StoredBlocks,
        context: JobContext,
        *,
        parent: ParentSnapshot | None = None,
    ) -> None:
        self._run, self._entries, self._table, self._context = run, entries, table, context
        self.storing = Storing(run, table, blocks, parent)
        self._lock = threading.Lock()
        self._open: dict[bytes, FileMap] = {}
        self.counters = Counters()
        self.total_bytes = 0

    def process(self, items: Iterator[Item], workers: int) -> None:
        """Run *items* through *workers* threads; returns when all are done.

        :raises MingusError: the first failure of the source, a worker, or the store. :raises Cancelled: asked to stop.
        """
        crew: Crew[_Work] = Crew(
            "worker", self._worker, cancel=self._context.cancel, queue_items=bounds.QUEUE_ITEMS,
            release=lambda work: work[0].release(),
        )  # fmt: skip
        crew.run(self._works(items), workers)

    def _works(self, items: Iterator[Item]) -> Iterator[_Work]:
        for item in items:
            self._context.checkpoint()
            file_map = self._map_of(item)
            file_map.submit(item.last)
            yield item, file_map

    def _map_of(self, item: Item) -> FileMap:
        path = item.file.path
        file_map = self._open.get(path) or self._open.setdefault(path, FileMap(item.file))
        if item.last:
            del self._open[path]
        return file_map

    def _worker(self) -> Callable[[_Work], None]:
        scratch = allocate_slab()
        return lambda work: self._process(*work, scratch)

    def _process(self, item: Item, file_map: FileMap, scratch: memoryview) -> None:
        data = item.read(scratch)
        if data is None:
            if file_map.vanish():
                self._finish(file_map)
            return
        if item.offset % bounds.BLOCK_BYTES or (not item.last and item.length % bounds.BLOCK_BYTES):
            # Its block hashes would stand for other ranges than a reader compares them with.
            where = f"{item.file.path.decode('utf-8', 'replace')} at {item.offset}"
            raise SourceError(f"{where}: an item of {item.length} bytes is not in whole blocks")
        if isinstance(data, Stretches):
            length, given = data.length, data.read_bytes
            piece = self.storing.mixed(item.file.path, item.offset, data)
        else:
            length = given = len(data)
            piece = self.storing.whole(item.file.path, item.offset, data)
        with self._lock:
            self.counters.read_bytes += length
            self.counters.given_bytes += given
            done = self.counters.read_bytes
        if file_map.piece(item.offset, length, piece.extents, piece.hashes):
            self._finish(file_map)
        self._context.progress("back up", done, self.total_bytes, item.file.path.decode("utf-8", "replace"))

    def _finish(self, file_map: FileMap) -> None:
        entry = file_map.entry(self._table, self._run.packs.append, self.storing.find_span)
        if entry is not None:
            self._entries.add(entry)
        with self._lock:
            self.counters.vanished += entry is None
            self.counters.files += entry is not None and entry.kind == FileKind.FILE
