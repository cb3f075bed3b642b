"""Storing contents: chunks that are stored already are referred to, small files share blobs.

The order of the questions: is it what the parent has under the same path (no index is needed for that)? Is a chunk of
this content stored anywhere in the parent, by a dead run, or by this one? Only then it is compressed and sealed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import zstandard
from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.directories import Segment
from mingus_engine.codec.entries import EXTENT, BlobRef, Extent, RunTable
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.referring import Referring
from mingus_engine.jobs.storing import merged
from mingus_engine.repository.chunk_index import ChunkIndex
from mingus_engine.repository.manifests import ShardRef
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.stored import Place
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.chunking import Cutter
from mingus_engine.sources.files.parts import Blocks

# What is tried to be compressed, of a chunk at least 64 KiB long, before all of it is: begin, middle, end.
_SAMPLE_BYTES = 4 * bounds.KIB
# Compressing that saves less than 1/32 of the samples is given up.
_GAIN_SHIFT = 5
#: Below this a file says too little to be called incompressible.
TELLING_BYTES = 512


#: Run, number of the pack, bytes.
Use: TypeAlias = tuple[str, int, int]


class Small(NamedTuple):
    """A small content to be stored: at most ``bounds.BLOCK_BYTES``, with its id."""

    data: bytes
    chunk: bytes


class FileStoring(Referring):
    """See the module. Every method may be called by any thread."""

    def __init__(self, run: WriteRun, table: RunTable, parent: ParentSnapshot | None, index: ChunkIndex) -> None:
        super().__init__(run, table, parent)
        self._index = index
        self._samplers = threading.local()
        self.key = run.keys.hash_key

    def small(self, contents: Sequence[Small]) -> list[Extent]:
        """Store contents, together at most ``bounds.BLOB_PLAIN_BYTES``, in one blob; the extent of each."""
        found: list[Extent | None] = [self._known(c.chunk, 0, len(c.data)) for c in contents]
        segments, parts, first = [], [], {}
        at = 0
        for content, extent in zip(contents, found, strict=True):
            if extent is None and content.chunk not in first:
                first[content.chunk] = at
                segments.append(Segment(b"", 0, at, len(content.data), content.chunk))
                parts.append(content.data)
                at += len(content.data)
        if parts:
            ref = self._run.packs.append(BlobKind.DATA, b"".join(parts), segments)
            for content in contents:
                if (inside := first.get(content.chunk)) is not None:
                    self._index.stored(content.chunk, ref, inside, len(content.data))
            found = [
                extent or Extent(0, len(c.data), 0, ref.pack, ref.position, ref.sealed_bytes, first[c.chunk])
                for c, extent in zip(contents, found, strict=True)
            ]
        return [extent for extent in found if extent is not None]

    def chunks(self, data: memoryview, lengths: Sequence[int], offset: int) -> tuple[list[Extent], bool]:
        """Store *data*, the bytes of a file from *offset*, cut into chunks of *lengths*.

        :returns: extents, and whether all of it looked incompressible.
        """
        extents, at, dense = [], 0, True
        for length in lengths:
            piece = data[at : at + length]
            chunk = blake3(piece, key=self.key).digest()
            known = self._known(chunk, offset + at, length)
            if known is None:
                incompressible = self.incompressible(piece)
                dense = dense and incompressible
                segment = Segment(b"", 0, 0, length, chunk)
                ref = self._run.packs.append(BlobKind.DATA, piece, (segment,), compress=not incompressible)
                self._index.stored(chunk, ref, 0, length)
                known = Extent(offset + at, length, 0, ref.pack, ref.position, ref.sealed_bytes, 0)
            else:
                dense = False
            extents.append(known)
            at += length
        return extents, dense

    def mended(self, path: bytes, offset: int, data: memoryview, blocks: Blocks, cutter: Cutter) -> list[Extent]:
        """Store *data*, the bytes of the file *path* from *offset*, of which the parent has some *blocks* as they are.

        What was changed here and there so often that reading it would open too many blobs is stored again.
        """
        known = self._parent.get(path, offset, len(data)) if self._parent is not None else {}
        stored = [known.get(offset + i * bounds.BLOCK_BYTES) if same else None for i, same in enumerate(blocks.same)]
        blobs = {place.blob for block in stored if block is not None for place in block.places}
        if len(blobs) * bounds.BLOB_PLAIN_BYTES > bounds.SCATTER_MAX_BLOBS * max(len(data), bounds.BLOB_PLAIN_BYTES):
            stored = [None] * len(stored)
        extents: list[Extent] = []
        for has, run in groupby(range(len(stored)), lambda i: stored[i] is not None):
            numbers = list(run)
            if has:
                extents += self._kept([place for i in numbers if (b := stored[i]) is not None for place in b.places])
                continue
            begin, end = numbers[0] * bounds.BLOCK_BYTES, (numbers[-1] + 1) * bounds.BLOCK_BYTES
            fresh = data[begin:end]
            extents += self.chunks(fresh, list(cutter.lengths(fresh, complete=True)), offset + begin)[0]
        return merged(extents)

    def _kept(self, places: Sequence[Place]) -> Iterator[Extent]:
        """The extents of what the parent has."""
        parent = self._parent
        for offset, length, blob, inside in places:
            if blob is None or parent is None:
                yield Extent(offset, length, 0, 0, 0, 0, 0, hole=True)
                continue
            self.adopt(parent.pack(blob.run, blob.pack), parent)
            with self._lock:
                run = self._table.index(blob.run)
                self.reused_bytes += length
            yield Extent(offset, length, run, blob.pack, blob.position, blob.sealed_bytes, inside)

    def incompressible(self, data: bytes | memoryview) -> bool:
        """Whether samples of *data* do not become smaller."""
        if len(data) < TELLING_BYTES:
            return False
        sampler: zstandard.ZstdCompressor | None = getattr(self._samplers, "zstd", None)
        if sampler is None:
            sampler = self._samplers.zstd = zstandard.ZstdCompressor(level=1, write_content_size=False)
        half, end = len(data) // 2, len(data) - _SAMPLE_BYTES
        sample = bytes(data)
        if len(data) > 3 * _SAMPLE_BYTES:
            sample = b"".join((data[:_SAMPLE_BYTES], data[half : half + _SAMPLE_BYTES], data[end:]))
        return len(sampler.compress(sample)) >= len(sample) - (len(sample) >> _GAIN_SHIFT)

    def block_hashes(self, data: memoryview) -> bytes:
        """The keyed hashes of the 64 KiB blocks of *data*, which begins where a block does."""
        key, size, width = self.key, bounds.BLOCK_BYTES, bounds.BLOCK_HASH_BYTES
        return b"".join(blake3(data[at : at + size], key=key).digest(length=width) for at in range(0, len(data), size))

    def may_take_over(self, file: TabledEntry) -> bool:
        """Whether a new snapshot may refer to all that the parent's *file* is made of."""
        parent = self._parent
        return parent is not None and (parent.all_usable or all(map(parent.may_use, self._packs_of(file))))

    def take_over(self, file: TabledEntry) -> None:
        """Account for a file that is as in the parent."""
        if self._parent is None:
            return
        for pack in self._packs_of(file):
            self.adopt(pack, self._parent)
        self.account(self._uses(file))
        if file.entry.kind == FileKind.FILE:
            self.reused_bytes += file.entry.size

    def take_over_shard(self, shard: ShardRef, table: ShardTable) -> None:
        """Account for a whole shard that is as in the parent."""
        parent = self._parent
        if parent is None:
            return
        self.adopt(parent.pack(shard.blob.run, shard.blob.pack), parent)
        mapped = set(table.with_maps())
        for number in mapped:
            self.take_over(TabledEntry(table.entry(number), table.runs))
        extents = b"".join(table.extents(number) for number in range(len(table)) if number not in mapped)
        uses = list(uses_of(extents, table.runs))
        for run, pack in {(run, pack) for run, pack, _ in uses}:
            self.adopt(parent.pack(run, pack), parent)
        self.account(uses)
        self.reused_bytes += sum(record[8] for record in table.records if record[0] == FileKind.FILE)

    def account(self, uses: Iterable[Use]) -> None:
        """The snapshot has these extents."""
        with self._lock:
            for run, pack, length in uses:
                self.live[run, pack] += length

    def _packs_of(self, file: TabledEntry) -> Iterator[PackRef]:
        """The packs that the parent's *file* needs."""
        parent = self._parent
        if parent is None:
            return
        what = file.entry.path.decode("utf-8", "replace")
        for pair in file.entry.map_locations():
            for at in pair:
                yield parent.pack(file.table.run(at.run, what), at.pack)
        for run, pack in {(run, pack) for run, pack, _ in self._uses(file)}:
            yield parent.pack(run, pack)

    def _uses(self, file: TabledEntry) -> Iterator[Use]:
        if not file.entry.maps:
            yield from uses_of(file.entry.extents, file.table)
        elif self._parent is not None:
            for extents, runs, _ in self._parent.spans(file):
                yield from uses_of(extents, runs)

    def _known(self, chunk: bytes, offset: int, length: int) -> Extent | None:
        found = self._index.find(chunk)
        if found is None:
            return None
        place, pack = found
        if place.blob is None or place.length != length:
            return None
        blob: BlobRef = place.blob
        if pack is not None:
            self.adopt(pack, self._index)
        with self._lock:
            run = self._table.index(blob.run)
            self.reused_bytes += length
        return Extent(offset, length, run, blob.pack, blob.position, blob.sealed_bytes, place.blob_offset)


def uses_of(extents: bytes | Iterable[Extent], runs: RunTable) -> Iterator[Use]:
    """Run, pack and bytes of *extents*, encoded or not, without holes."""
    if isinstance(extents, bytes):
        for _, length, run, flags, pack, _, _, _ in EXTENT.iter_unpack(extents):
            if not flags:
                yield runs.run(run, "extents"), pack, length
        return
    for e in extents:
        if not e.hole:
            yield runs.run(e.run, "extents"), e.pack, e.length
