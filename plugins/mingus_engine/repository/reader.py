"""Reading a snapshot: shards → entries → extents → blobs, each opened once and checked before it is believed.

Every blob is authenticated (AES-GCM, at its place), its plain length checked before it is decompressed, and every 64
KiB block whose hash is known is hashed again. Memory, of each thread: the reads of one batch (16 MiB at most), 8 MiB of
opened blobs, and what the shard being read holds; what is fetched ahead from a store that is not a disk is spooled.
"""

from __future__ import annotations

import bisect
import hmac
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec import entries as codec
from mingus_engine.codec import shards
from mingus_engine.codec.blobs import Decompressor
from mingus_engine.codec.containers import HEADER_BYTES, PACK_MAGIC, BlobKind, Cipher, Header
from mingus_engine.codec.entries import BlobRef, Entry, Extent, RunTable
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged
from mingus_engine.repository import envelope
from mingus_engine.repository.block_checker import BlockChecker
from mingus_engine.repository.fetch_plan import Batch, batches
from mingus_engine.repository.manifests import Body, Manifest
from mingus_engine.repository.packs import PackRef, pack_key
from mingus_engine.repository.prefetch import Prefetcher, Range
from mingus_engine.repository.repository import Repository

# Shards and maps of large files: so many are asked for while the one before is worked on.
_LOOK_AHEAD = 3
# Opened blobs that neighbouring extents share, or take turns with: of a native increment, most are the parent's.
_OPENED_MAX_BYTES = 8 * bounds.MIB
# Small files, which lie beside each other in packs: some MiB together.
_FILES_AHEAD = 64

T = TypeVar("T")


class SnapshotReader:
    """Reads one snapshot of one repository. May be used by several threads.

    :param spool_path: where what a distant store was asked for ahead waits; ``None`` = in memory.
    :raises KeyUnavailable: :raises Damaged: the manifest does not open.
    """

    def __init__(self, repository: Repository, manifest: Manifest, spool_path: Path | None = None) -> None:
        self.repository, self.manifest = repository, manifest
        self.body: Body = repository.manifest_body(manifest)
        self._packs = {(p.run, p.number): p for p in manifest.packs}
        self._opened: dict[tuple[str, int], tuple[PackRef, Cipher, str]] = {}
        self._prefetcher = Prefetcher(repository.store, spool_path)
        self._headers_expected: set[str] = set()
        self._lock = threading.Lock()
        self._local = threading.local()

    def files(self) -> Iterator[TabledEntry]:
        """Every entry of the snapshot in path order.

        :raises Damaged: a shard is missing, changed, swapped, or out of order.
        """
        last = b""
        for i in self._ahead(range(len(self.body.shards)), lambda n: self._ranges(self.body.shards[n].blob)):
            table, found = self.shard(i)
            if i and found[0].path <= last:
                raise Damaged(f"{self.manifest.name} shard {i}: does not follow the one before")
            last = found[-1].path
            for entry in found:
                yield TabledEntry(entry, table)

    def shard(self, number: int) -> tuple[RunTable, list[Entry]]:
        """One shard: its run table and its entries, at least one.

        :raises Damaged: it is missing, changed, or not the one that the manifest lists.
        """
        shard = self.body.shards[number]
        what = f"{self.manifest.name} shard {number}"
        table, found = shards.decode(self.raw_shard(number), what)
        if not found or found[0].path != shard.first_path:
            raise Damaged(f"{what}: does not begin where the manifest says")
        return table, found

    def raw_shard(self, number: int) -> bytes:
        """The plain form of one shard. :raises Damaged: it is missing, changed, or not the one that is listed."""
        shard = self.body.shards[number]
        raw = self.blob(BlobKind.SHARD, shard.blob)
        if not hmac.compare_digest(blake3(raw, key=self.body.hash_key).digest(), shard.digest):
            raise Damaged(f"{self.manifest.name} shard {number}: is not the shard that the manifest lists")
        return raw

    def expected(self, files: Iterable[TabledEntry]) -> Iterator[TabledEntry]:
        """*files*, all of whose data will be read: a distant store is asked for them ahead, many at a time.

        Files with maps of their own look ahead by themselves.
        """
        if not self._prefetcher.ahead:
            yield from files
            return
        iterator = iter(files)
        while batch := list(islice(iterator, _FILES_AHEAD)):
            ranges: list[Range] = []
            for file in batch:
                what = file.entry.path.decode("utf-8", "replace")
                with suppress(Damaged):  # said when the file is read
                    for planned in batches(codec.decode_extents(file.entry.extents, what)):
                        ranges += self._batch_ranges(planned, file.table, what)
            self._prefetcher.expect(ranges)
            yield from batch

    def data(self, file: TabledEntry) -> Iterator[tuple[int, memoryview | None, int]]:
        """The content of *file* in ascending order: offset, bytes (``None`` = hole) and length in bytes.

        :raises Damaged: anything of it is missing or changed, or does not add up to the entry's size.
        """
        what = file.entry.path.decode("utf-8", "replace")
        planned = self._planned(file, what)
        if file.entry.maps:  # else they were expected, if they were, with the files beside
            planned = self._planned_ahead(planned, what)
        expected = 0
        checker: BlockChecker | None = None
        for first, batch, table, hashes in planned:
            if first:
                if checker is not None:
                    checker.finish()
                checker = BlockChecker(hashes, expected, file.entry.size, self.body.hash_key, what)
            for extent, data in self._read(batch, table, what):
                if extent.offset != expected:
                    raise Damaged(f"{what}: extent at {extent.offset} where {expected} was expected")
                expected += extent.length
                if checker is not None:
                    checker.update(data, extent.length)
                yield extent.offset, data, extent.length
        if checker is not None:
            checker.finish()
        if expected != file.entry.size:
            raise Damaged(f"{what}: extents cover {expected} of {file.entry.size} bytes")

    def spans_of(self, file: TabledEntry) -> int:
        """Into how many parts, each read by :meth:`span_data`, a large file falls; 0: it is to be read as a whole.

        :raises Damaged: its maps do not fit its size.
        """
        count = len(file.entry.maps) // codec.MAP_PAIR_BYTES
        if count and count != -(-file.entry.size // bounds.MAP_SPAN_BYTES):
            what = file.entry.path.decode("utf-8", "replace")
            raise Damaged(f"{what}: {count} maps for {file.entry.size} bytes")
        return 0 if self._prefetcher.ahead else count  # from far away, who looks ahead in one file is faster

    def span_data(self, file: TabledEntry, number: int) -> Iterator[tuple[int, memoryview | None, int]]:
        """Span *number* of a file with maps of its own, as :meth:`data` gives the whole.

        :raises Damaged: see there.
        """
        what = file.entry.path.decode("utf-8", "replace")
        at, end = number * bounds.MAP_SPAN_BYTES, min(file.entry.size, (number + 1) * bounds.MAP_SPAN_BYTES)
        extents, table, hashes = self.span(file, number)
        checker = BlockChecker(hashes, at, file.entry.size, self.body.hash_key, what)
        for extent, data in self.fetch(extents, table, what):
            if extent.offset != at or extent.offset + extent.length > end:
                raise Damaged(f"{what}: extent at {extent.offset} where {at} was expected")
            at += extent.length
            checker.update(data, extent.length)
            yield extent.offset, data, extent.length
        checker.finish()
        if at != end:
            raise Damaged(f"{what}: no extent at {at}")

    def _planned_ahead(self, planned: Iterator[_Planned], what: str) -> Iterator[_Planned]:
        """*planned* in groups across spans, each asked for as a whole while the one before is worked on."""

        def groups() -> Iterator[list[_Planned]]:
            group: list[_Planned] = []
            for p in planned:
                group.append(p)
                if sum(g.batch.read_bytes for g in group) >= self._prefetcher.batch_bytes:
                    yield group
                    group = []
            yield group

        def ranges(group: list[_Planned]) -> Iterator[Range]:
            for p in group:
                yield from self._batch_ranges(p.batch, p.table, what)

        for group in self._ahead(groups(), ranges, 1):
            yield from group

    def _planned(self, file: TabledEntry, what: str) -> Iterator[_Planned]:
        """The batches of *file*; of a span without any, an empty one."""
        for extents, table, hashes in self._spans(file, what):
            planned = list(batches(extents, self._prefetcher.batch_bytes)) or [Batch([], [], [], [])]
            for i, batch in enumerate(planned):
                yield _Planned(i == 0, batch, table, hashes)

    def changes(
        self, file: TabledEntry, local: Callable[[int, int], bytes]
    ) -> Iterator[tuple[int, memoryview | None, int, bool]]:
        """The content of *file* in ascending order, as :meth:`data`, where *local* has other bytes; there the rest is
        fetched, blocks that are equal are not.

        :param local: gives the bytes it has at an offset, at most so many.
        :returns: offset, bytes (``None`` = hole), length, and whether these are *local*'s own.
        :raises Damaged: see :meth:`data`.
        """
        what = file.entry.path.decode("utf-8", "replace")
        size, block, width, at = file.entry.size, bounds.BLOCK_BYTES, bounds.BLOCK_HASH_BYTES, 0
        for extents, table, hashes in self._spans(file, what):
            begin, end = at, min(size, at + len(hashes) // width * block)
            while at < end:
                run = min(bounds.SLAB_BYTES, end - at)
                data = memoryview(local(at, run))
                for low, high, same in self._compared(data, run, hashes[(at - begin) // block * width :]):
                    if same:
                        yield at + low, data[low:high], high - low, True
                        continue
                    first, last = (at + low - begin) // block, -(-(at + high - begin) // block)
                    checker = BlockChecker(
                        hashes[first * width : last * width], at + low, size, self.body.hash_key, what
                    )
                    for found, part, count in self._part(extents, table, what, at + low, high - low):
                        checker.update(part, count)
                        yield found, part, count, False
                    checker.finish()
                at += run
        if at != size:
            raise Damaged(f"{what}: extents cover {at} of {size} bytes")

    def _compared(self, data: memoryview, length: int, hashes: bytes) -> Iterator[tuple[int, int, bool]]:
        """Runs of blocks of *length* bytes: begin, end, and whether *data* has what the hashes say."""
        width, begin, before = bounds.BLOCK_HASH_BYTES, 0, True
        for at in range(0, length, bounds.BLOCK_BYTES):
            end, number = min(at + bounds.BLOCK_BYTES, length), at // bounds.BLOCK_BYTES
            digest = blake3(data[at:end], key=self.body.hash_key).digest(length=width)
            same = len(data) >= end and hashes[number * width : (number + 1) * width] == digest
            if same != before and at > begin:
                yield begin, at, before
                begin = at
            before = same
        if begin < length:
            yield begin, length, before

    def _part(
        self, extents: Iterable[Extent], table: RunTable, what: str, start: int, length: int
    ) -> Iterator[tuple[int, memoryview | None, int]]:
        """*length* bytes of *extents* from *start*."""
        end, at = start + length, start
        wanted = [e for e in extents if e.offset < end and e.offset + e.length > start]
        for extent, data in self.fetch(wanted, table, what):
            low, high = max(extent.offset, start), min(extent.offset + extent.length, end)
            if low != at:
                raise Damaged(f"{what}: no extent at {at}")
            yield low, None if data is None else data[low - extent.offset : high - extent.offset], high - low
            at = high
        if at != end:
            raise Damaged(f"{what}: no extent at {at}")

    def stored_bytes(self, file: TabledEntry) -> int:
        """How much of *file* is no hole."""
        what = file.entry.path.decode("utf-8", "replace")
        return sum(e.length for extents, _, _ in self._spans(file, what) for e in extents if not e.hole)

    def tables(self, numbers: Iterable[int] | None = None) -> Iterator[ShardTable]:
        """The shards *numbers* (ascending; default: every one) as columns, in path order.

        :raises Damaged: as ``files``.
        """
        numbers = range(len(self.body.shards)) if numbers is None else numbers
        last = b""
        for i in self._ahead(numbers, lambda n: self._ranges(self.body.shards[n].blob)):
            table = ShardTable(self.raw_shard(i), f"{self.manifest.name} shard {i}")
            for path in table.paths:
                if path <= last:
                    raise Damaged(f"{self.manifest.name} shard {i}: entries are not in path order")
                last = path
            yield table

    def shards_within(self, ranges: Iterable[tuple[bytes, bytes]]) -> list[int]:
        """Numbers of the shards that may hold a path of one of *ranges* (first path, and the first one beyond)."""
        firsts = [shard.first_path for shard in self.body.shards]
        found: set[int] = set()
        for first, beyond in ranges:
            begin = max(0, bisect.bisect_right(firsts, first) - 1)
            found.update(range(begin, bisect.bisect_left(firsts, beyond)))
        return sorted(found)

    def same(self, file: TabledEntry, local: Callable[[int, int], bytes]) -> bool:
        """Whether *local* (as of ``changes``) has the content of *file*; nothing of that is fetched but its hashes. A
        block whose hash is not known counts as another one.
        """
        block, width, size, at = bounds.BLOCK_BYTES, bounds.BLOCK_HASH_BYTES, file.entry.size, 0
        for _, _, hashes in self._spans(file, file.entry.path.decode("utf-8", "replace")):
            begin, end = at, min(size, at + len(hashes) // width * block)
            while at < end:
                run = min(bounds.SLAB_BYTES, end - at)
                known = hashes[(at - begin) // block * width :]
                if not all(equal for _, _, equal in self._compared(memoryview(local(at, run)), run, known)):
                    return False
                at += run
        return at == size

    def block_hashes(self, file: TabledEntry) -> bytes:
        """The keyed hashes of all 64 KiB blocks of *file*, 16 bytes each; zero = unknown."""
        what = file.entry.path.decode("utf-8", "replace")
        return b"".join(hashes for _, _, hashes in self._spans(file, what))

    def blob(self, kind: BlobKind, ref: BlobRef) -> bytes:
        """The data of one blob."""
        pack, cipher, name = self._pack(ref.run, ref.pack)
        if ref.position + ref.sealed_bytes > pack.size:
            raise Damaged(f"{name}: a blob at {ref.position} lies beyond its end")
        sealed = self._prefetcher.take(name, ref.position, ref.sealed_bytes)
        return self._open(cipher, kind, ref.position, sealed, name)

    def _spans(self, file: TabledEntry, what: str) -> Iterator[tuple[list[Extent], RunTable, bytes]]:
        """Per span of the file its extents, their run table, and its block hashes."""
        entry = file.entry
        if not entry.maps:
            yield codec.decode_extents(entry.extents, what), file.table, entry.hashes
            return
        spans = range(len(entry.maps) // codec.MAP_PAIR_BYTES)
        for number in self._ahead(spans, lambda n: self._ranges(*self._map_refs(file, n))):
            yield self.span(file, number)

    def span(self, file: TabledEntry, number: int) -> tuple[list[Extent], RunTable, bytes]:
        """Of a file with maps of its own: the extents of span *number*, their run table, and its block hashes.

        :raises Damaged: missing or changed.
        """
        what = file.entry.path.decode("utf-8", "replace")
        where_extents, where_hashes = self._map_refs(file, number)
        table, extents = codec.decode_extents_blob(self.blob(BlobKind.EXTENTS, where_extents), what)
        return extents, table, self.blob(BlobKind.HASHES, where_hashes)

    def fetch(
        self, extents: Iterable[Extent], table: RunTable, what: str
    ) -> Iterator[tuple[Extent, memoryview | None]]:
        """The bytes of *extents*, each; ``None`` = a hole."""
        for batch in batches(extents):
            yield from self._read(batch, table, what)

    def _read(self, batch: Batch, table: RunTable, what: str) -> Iterator[tuple[Extent, memoryview | None]]:
        opened: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        opened_bytes = 0
        fetched = _Fetched(self._prefetcher, batch)
        for e, number in zip(batch.extents, batch.read_of, strict=True):
            if number < 0:
                yield e, None
                continue
            pack, cipher, name = self._pack(table.run(e.run, what), e.pack)
            if batch.reads[number].end > pack.size:
                raise Damaged(f"{name}: extents of {what} lie beyond its end")
            blob = opened.get((number, e.position))
            if blob is None:
                sealed = fetched.blob(name, e, number)
                blob = opened[number, e.position] = self._open(cipher, BlobKind.DATA, e.position, sealed, name)
                opened_bytes += len(blob)
                while opened_bytes > _OPENED_MAX_BYTES and len(opened) > 1:
                    opened_bytes -= len(opened.popitem(last=False)[1])
            else:
                opened.move_to_end((number, e.position))
            fetched.used(number)
            data = memoryview(blob)[e.blob_offset : e.blob_offset + e.length]
            if len(data) != e.length:
                raise Damaged(f"{name}: blob at {e.position} is too short for {what}")
            yield e, data

    def _ahead(
        self, things: Iterable[T], ranges: Callable[[T], Iterable[Range]], ahead: int = _LOOK_AHEAD
    ) -> Iterator[T]:
        """*things* in order; the ranges of the next *ahead* are asked for before they are needed."""
        waiting: deque[T] = deque()
        for thing in things:
            self._prefetcher.expect(ranges(thing))
            waiting.append(thing)
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def _batch_ranges(self, batch: Batch, table: RunTable, what: str) -> list[Range]:
        """What :meth:`_read` will take, where it takes what was fetched ahead."""
        blobs = {(e.run, e.pack, e.position, e.sealed_bytes) for e in batch.extents if not e.hole}
        return self._ranges(*(BlobRef(table.run(run, what), *where) for run, *where in blobs))

    def _ranges(self, *blobs: BlobRef) -> list[Range]:
        """Where *blobs* lie; one that cannot be is left out: whoever reads it says what is wrong."""
        found = []
        for blob in blobs:
            pack, end = self._packs.get((blob.run, blob.pack)), blob.position + blob.sealed_bytes
            if pack is None or end > pack.size:
                continue
            name = self._name(pack)
            found.append(Range(name, blob.position, end))
            with self._lock:
                if name not in self._headers_expected:
                    self._headers_expected.add(name)
                    found.append(Range(name, 0, HEADER_BYTES))
        return found

    def _name(self, pack: PackRef) -> str:
        return str(pack.name(self.manifest.name.source))

    def _open(self, cipher: Cipher, kind: BlobKind, position: int, sealed: memoryview, name: str) -> bytes:
        decompressor: Decompressor | None = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = Decompressor()
        return decompressor.data(cipher.open(kind, position, sealed, name), name)

    def _map_refs(self, file: TabledEntry, number: int) -> tuple[BlobRef, BlobRef]:
        """Where the extents and the hashes of span *number* lie."""
        what = file.entry.path.decode("utf-8", "replace")
        one, two = (
            BlobRef(file.table.run(at.run, what), at.pack, at.position, at.sealed_bytes)
            for at in file.entry.map_location(number)
        )
        return one, two

    def _pack(self, run: str, number: int) -> tuple[PackRef, Cipher, str]:
        key = (run, number)
        # Read without the lock: a dictionary's get is atomic, and at worst two threads open the same pack.
        if (opened := self._opened.get(key)) is not None:
            return opened
        if key not in self._packs or run not in self.body.run_keys:
            raise Damaged(f"{self.manifest.name}: refers to pack {number} of run {run} without listing it")
        pack = self._packs[key]
        name = self._name(pack)
        header = Header.decode(bytes(self._prefetcher.take(name, 0, HEADER_BYTES)), PACK_MAGIC, name)
        if (header.run, header.number) != key:
            envelope.mismatch(name)
        opened = self._opened[key] = pack, Cipher(header, pack_key(header, self.body.run_keys[run])), name
        return opened


class _Fetched:
    """The sealed blobs of a batch: what a distant store was asked for ahead, else cut from the batch's reads."""

    def __init__(self, prefetcher: Prefetcher, batch: Batch) -> None:
        self._prefetcher, self._batch = prefetcher, batch
        self._held: dict[int, memoryview] = {}
        self._left = list(batch.uses)

    def blob(self, name: str, e: Extent, number: int) -> memoryview:
        """The blob of *e*, which is in read *number*, of the pack *name*."""
        found = self._prefetcher.fetched(name, e.position, e.sealed_bytes)
        if found is not None:
            return found
        read = self._batch.reads[number]
        if number not in self._held:
            self._held[number] = self._prefetcher.take(name, read.start, read.end - read.start)
            # A batch for a distant store is larger than memory should be where nothing was fetched ahead.
            while len(self._held) > 1 and sum(map(len, self._held.values())) > 2 * bounds.FETCH_BATCH_BYTES:
                del self._held[next(iter(self._held))]
        return self._held[number][e.position - read.start : e.position - read.start + e.sealed_bytes]

    def used(self, number: int) -> None:
        """One extent of the read was given; after the last one its bytes are."""
        self._left[number] -= 1
        if not self._left[number]:
            self._held.pop(number, None)


class _Planned(NamedTuple):
    """A batch of a file, the run table of its extents, and the block hashes of its span. ``first``: of the span."""

    first: bool
    batch: Batch
    table: RunTable
    hashes: bytes
