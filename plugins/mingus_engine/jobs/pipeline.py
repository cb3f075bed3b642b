"""The data path of every backup: read → hash → compare → compress → seal → pack, in one pass over a bounded queue.

One thread iterates the source's items; workers call ``read`` and do the rest. What a block's keyed hash shows to be
stored already becomes an extent over the stored blob.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.directories import Segment
from mingus_engine.codec.entries import Extent, RunTable
from mingus_engine.errors import SourceError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.file_map import FileMap
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.resume import StoredBlock, StoredBlocks
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import FileKind, Item
from mingus_engine.sources.postgres.buffers import allocate_slab

_Work: TypeAlias = tuple[Item, FileMap]


@dataclass
class Counters:
    """What went through, in bytes and files; guarded by the pipeline's lock."""

    read_bytes: int = 0
    reused_bytes: int = 0
    files: int = 0
    vanished: int = 0


@dataclass(frozen=True, slots=True)
class _Slab:
    """One item's bytes while they are stored; ``extents`` grows."""

    path: bytes
    offset: int
    data: memoryview
    hashes: list[bytes]
    extents: list[Extent]


class Pipeline:
    """Processes items into packs and sorted entries.

    :param blocks: what dead runs stored already; may be empty. :param total_bytes: expected, for progress; 0 = unknown.
    """

    def __init__(
        self, run: WriteRun, entries: EntrySorter, table: RunTable, blocks: StoredBlocks, context: JobContext
    ) -> None:
        self._run, self._entries, self._table, self._blocks, self._context = run, entries, table, blocks, context
        self._lock = threading.Lock()
        self._open: dict[bytes, FileMap] = {}
        self.counters = Counters()
        self.adopted: set[PackRef] = set()
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
        hashes, extents = self._store(item.file.path, item.offset, data)
        with self._lock:
            self.counters.read_bytes += len(data)
            done = self.counters.read_bytes
        if file_map.piece(item.offset, len(data), extents, hashes):
            self._finish(file_map)
        self._context.progress("back up", done, self.total_bytes, item.file.path.decode("utf-8", "replace"))

    def _finish(self, file_map: FileMap) -> None:
        entry = file_map.entry(self._table, self._run.packs.append)
        if entry is not None:
            self._entries.add(entry)
        with self._lock:
            self.counters.vanished += entry is None
            self.counters.files += entry is not None and entry.kind == FileKind.FILE

    def _store(self, path: bytes, offset: int, data: memoryview) -> tuple[bytes, list[Extent]]:
        """Store what is not stored yet of *data*; its block hashes and extents."""
        key = self._run.keys.hash_key
        blocks = range(0, len(data), bounds.BLOCK_BYTES)
        hashes = [
            blake3(data[at : at + bounds.BLOCK_BYTES], key=key).digest(length=bounds.BLOCK_HASH_BYTES) for at in blocks
        ]
        slab = _Slab(path, offset, data, hashes, [])
        stored = self._blocks.get(path, offset, len(data)) if self._blocks else {}
        fresh = 0  # where the run of blocks that must be stored begins
        for i, at in enumerate(blocks):
            length = min(bounds.BLOCK_BYTES, len(data) - at)
            known = stored.get(offset + at)
            if known is not None and known.hash == hashes[i] and known.length == length:
                self._put(slab, fresh, at)
                fresh = at + length
                self._reuse(offset + at, known, slab.extents)
            elif at + length - fresh >= bounds.BLOB_PLAIN_BYTES:
                self._put(slab, fresh, at + length)
                fresh = at + length
        self._put(slab, fresh, len(data))
        return b"".join(hashes), slab.extents

    def _put(self, slab: _Slab, start: int, end: int) -> None:
        """Store bytes *start* to *end* of *slab* as one blob."""
        if start >= end:
            return
        first, behind = start // bounds.BLOCK_BYTES, -(-end // bounds.BLOCK_BYTES)
        segment = Segment(slab.path, slab.offset + start, 0, end - start, b"".join(slab.hashes[first:behind]))
        ref = self._run.packs.append(BlobKind.DATA, slab.data[start:end], (segment,))
        slab.extents.append(Extent(slab.offset + start, end - start, 0, ref.pack, ref.position, ref.sealed_bytes, 0))

    def _reuse(self, offset: int, known: StoredBlock, extents: list[Extent]) -> None:
        run = self._table.index(known.blob.run)
        new = Extent(
            offset, known.length, run, known.blob.pack, known.blob.position, known.blob.sealed_bytes, known.blob_offset
        )
        last = extents[-1] if extents else None
        if (
            last is not None
            and (last.run, last.pack, last.position) == (new.run, new.pack, new.position)
            and last.blob_offset + last.length == new.blob_offset
        ):
            extents[-1] = last._replace(length=last.length + new.length)
        else:
            extents.append(new)
        with self._lock:
            self.counters.reused_bytes += known.length
            self.adopted.add(self._blocks.pack(known.blob.run, known.blob.pack))
