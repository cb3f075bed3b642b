"""A snapshot as the parent of the next one: what it stored of a file, found by path and range.

Shards are found by the first paths that the manifest lists; a few decoded shards and spans of large files are kept, so
memory is the same for any size of the data. Nothing of the data themselves is read unless ``read`` asks for it.

Packs that are *refused* (a plan names them, a proof failed) are never built on. *Sparse* ones hold little that is still
needed: what lies in them is stored again, so that they can be deleted one day.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from mingus_engine import bounds
from mingus_engine.codec import entries as codec
from mingus_engine.codec.entries import BlobRef, Entry, Extent, RunTable
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged, ParentDamaged
from mingus_engine.repository.manifests import ShardRef
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.stored import UNKNOWN_HASH, Place, StoredBlock
from mingus_engine.repository.writer import UNUSABLE

# Some 300 KiB each when decoded.
_SHARDS_KEPT = 24
# A span of 64 MiB has 256 extents after a full backup, 8,192 (1.5 MiB) where every page is an increment's.
_SPANS_KEPT = 8
_FILE = 1  # sources.base.FileKind, which this layer does not know

Number = tuple[str, int]
V = TypeVar("V")


class Window(NamedTuple):
    """What is stored of a range of a file, cut at its end: ``places`` gapless and ascending; ``hashes`` of the blocks
    that begin in it, 16 bytes each; ``end`` = offset behind the last byte of the range that the file has.
    """

    places: list[Place]
    hashes: bytes
    end: int


class ParentSnapshot:
    """See the module. May be used by several threads; a ``sources.base.Parent`` and a ``stored.Stored``.

    :param refused, sparse: packs (run, number).
    """

    def __init__(
        self, reader: SnapshotReader, *, refused: Container[Number] = (), sparse: Container[Number] = ()
    ) -> None:
        self._reader = reader
        self._refused, self._sparse = refused, sparse
        self._first_paths = [shard.first_path for shard in reader.body.shards]
        self._packs = {(p.run, p.number): p for p in reader.manifest.packs}
        self._refuses = any(number in refused for number in self._packs)
        self._shards: _Kept[tuple[RunTable, list[Entry]]] = _Kept(_SHARDS_KEPT)
        self._spans: _Kept[tuple[list[Extent], RunTable, bytes]] = _Kept(_SPANS_KEPT)

    @property
    def snapshot(self) -> str:
        """Its ULID."""
        return self._reader.manifest.ulid

    @property
    def run(self) -> str:
        """The run that made it."""
        return self._reader.manifest.run

    @property
    def digest(self) -> str:
        """The content digest of its manifest."""
        return self._reader.manifest.digest

    @property
    def packs(self) -> Sequence[PackRef]:
        """All its packs."""
        return self._reader.manifest.packs

    def may_use(self, pack: PackRef) -> bool:
        """Whether a new snapshot may refer to what lies in *pack*."""
        return (pack.run, pack.number) not in self._refused and (pack.run, pack.number) not in self._sparse

    def holds(self, pack: PackRef) -> bool:
        """Whether *pack* is one of its packs."""
        return self._packs.get((pack.run, pack.number)) == pack

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of its manifest."""
        return self._reader.body.facts

    @property
    def run_keys(self) -> Mapping[str, bytes]:
        """Keys of all runs whose packs it references."""
        return self._reader.body.run_keys

    @property
    def ranges_allowed(self) -> bool:
        """Whether all of it may be built on without reading it again."""
        return not self._refuses

    def size(self, path: bytes) -> int | None:
        """Bytes of the file *path*, ``None`` = there is no such file. :raises ParentDamaged: unreadable."""
        found = self.entry(path)
        return found.entry.size if found is not None and found.entry.kind == _FILE else None

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Path and size of every file. :raises ParentDamaged: unreadable."""
        with self._believed():
            for entry, _ in self._reader.files():
                if entry.kind == _FILE:
                    yield entry.path, entry.size

    def content(self, path: bytes) -> Iterator[bytes]:
        """The content of a file in pieces; nothing if there is none. :raises ParentDamaged: unreadable."""
        found = self.entry(path)
        if found is None or found.entry.kind != _FILE:
            return
        with self._believed():
            for _, data, length in self._reader.data(found):
                if data is not None:
                    yield bytes(data)
                    continue
                for at in range(0, length, bounds.BLOB_PLAIN_MAX_BYTES):
                    yield bytes(min(bounds.BLOB_PLAIN_MAX_BYTES, length - at))

    def entry(self, path: bytes) -> TabledEntry | None:
        """The entry at *path*. :raises ParentDamaged: unreadable."""
        number = bisect.bisect_right(self._first_paths, path) - 1
        if number < 0:
            return None
        with self._believed():
            table, found = self._shards.get(number, lambda: self._reader.shard(number))
        at = bisect.bisect_left(found, path, key=lambda entry: entry.path)
        return TabledEntry(found[at], table) if at < len(found) and found[at].path == path else None

    @property
    def first_paths(self) -> Sequence[bytes]:
        """The paths that its shards begin with."""
        return self._first_paths

    def shard_table(self, number: int) -> ShardTable:
        """Shard *number* as columns. :raises ParentDamaged: unreadable."""
        with self._believed():
            return ShardTable(self._reader.raw_shard(number), f"snapshot {self.snapshot} shard {number}")

    def whole_shard(self, number: int) -> ShardRef | None:
        """Where shard *number* lies, if a new snapshot may refer to it."""
        shard = self._reader.body.shards[number]
        return shard if self._usable(shard.blob) else None

    @cached_property
    def all_usable(self) -> bool:
        """Whether a new snapshot may refer to each of its packs."""
        return all(map(self.may_use, self.packs))

    def spans(self, file: TabledEntry) -> Iterator[tuple[list[Extent], RunTable, bytes]]:
        """Of a file with maps of its own, per span: extents, their run table, block hashes.

        :raises ParentDamaged: unreadable.
        """
        with self._believed():
            for number in range(len(file.entry.maps) // codec.MAP_PAIR_BYTES):
                yield self._reader.span(file, number)

    def window(self, path: bytes, offset: int, length: int) -> Window | None:
        """What is stored of bytes *offset* (a multiple of 64 KiB) to *offset + length* of a file; ``None`` = nothing.

        :raises ParentDamaged: unreadable.
        """
        file = self.entry(path)
        if file is None or file.entry.kind != _FILE or offset >= file.entry.size:
            return None
        end = min(offset + length, file.entry.size)
        places: list[Place] = []
        hashes = bytearray()
        span_bytes = bounds.MAP_SPAN_BYTES if file.entry.maps else file.entry.size
        with self._believed():
            for number in range(offset // span_bytes, -(-end // span_bytes)):
                extents, table, span_hashes = self._span(file, number)
                begin = max(offset, number * span_bytes)
                until = min(end, (number + 1) * span_bytes)
                places.extend(_cut(extents, table, begin, until, path))
                first = (begin - number * span_bytes) // bounds.BLOCK_BYTES
                behind = -(-(until - number * span_bytes) // bounds.BLOCK_BYTES)
                found = span_hashes[first * bounds.BLOCK_HASH_BYTES : behind * bounds.BLOCK_HASH_BYTES]
                if len(found) != (behind - first) * bounds.BLOCK_HASH_BYTES:
                    raise Damaged(f"{path.decode('utf-8', 'replace')}: block hashes are missing")
                hashes += found
        return Window(places, bytes(hashes), end)

    def get(self, path: bytes, offset: int, length: int) -> dict[int, StoredBlock]:
        """Blocks whose hash is known and whose packs may be used, by file offset. :raises ParentDamaged: unreadable."""
        window = self.window(path, offset, length)
        if window is None:
            return {}
        found = {}
        size = self.size(path) or 0
        at = 0
        for i in range(len(window.hashes) // bounds.BLOCK_HASH_BYTES):
            block_hash = window.hashes[i * bounds.BLOCK_HASH_BYTES : (i + 1) * bounds.BLOCK_HASH_BYTES]
            begin = offset + i * bounds.BLOCK_BYTES
            end = min(begin + bounds.BLOCK_BYTES, size)
            if end > window.end:
                break
            at, places = _within(window.places, at, begin, end)
            if block_hash != UNKNOWN_HASH and all(map(self.usable, places)):
                found[begin] = StoredBlock(block_hash, end - begin, places)
        return found

    def usable(self, place: Place) -> bool:
        """Whether a new snapshot may refer to *place*."""
        return place.blob is None or self._usable(place.blob)

    def _usable(self, blob: BlobRef) -> bool:
        number = blob.run, blob.pack
        return number not in self._refused and number not in self._sparse

    def same_shard(self, first_path: bytes, digest: bytes) -> ShardRef | None:
        """The shard of this content, if the parent has it where it may be built on."""
        number = bisect.bisect_left(self._first_paths, first_path)
        if number == len(self._first_paths) or self._first_paths[number] != first_path:
            return None
        shard = self._reader.body.shards[number]
        return shard if shard.digest == digest and self._usable(shard.blob) else None

    def same_span(self, path: bytes, number: int, blob: bytes, hashes: bytes) -> tuple[BlobRef | None, BlobRef | None]:
        """Of span *number* of a file: where the parent holds this extents blob and these hashes, each if it does.

        :raises ParentDamaged: unreadable.
        """
        file = self.entry(path)
        if file is None or number >= len(file.entry.maps) // codec.MAP_PAIR_BYTES:
            return None, None
        with self._believed():
            extents, table, known = self._span(file, number)
            refs = [BlobRef(file.table.run(at.run, "maps"), *at[1:]) for at in file.entry.map_location(number)]
        # An extents blob is made from its extents in one way only.
        same = (codec.encode_extents_blob(codec.encode_extents(extents), table, "maps") == blob, known == hashes)
        one, other = (ref if equal and self._usable(ref) else None for ref, equal in zip(refs, same, strict=True))
        return one, other

    def read(self, path: bytes, places: list[Place]) -> Iterator[tuple[int, memoryview | None]]:
        """The bytes of *places* of a file, by offset; ``None`` = zeros. :raises ParentDamaged: unreadable."""
        table = RunTable()
        extents = [
            Extent(p.offset, p.length, 0, 0, 0, 0, 0, hole=True)
            if p.blob is None
            else Extent(p.offset, p.length, table.index(p.blob.run), *p.blob[1:], p.blob_offset)
            for p in places
        ]
        with self._believed():
            for extent, data in self._reader.fetch(extents, table, path.decode("utf-8", "replace")):
                yield extent.offset, data

    def pack(self, run: str, number: int) -> PackRef:
        """The pack of a place. :raises ParentDamaged: it is not one of the manifest's."""
        if (run, number) not in self._packs:
            what = f"snapshot {self.snapshot} refers to pack {number} of run {run} without listing it"
            raise ParentDamaged(what, snapshot=self.snapshot)
        return self._packs[run, number]

    def _span(self, file: TabledEntry, number: int) -> tuple[list[Extent], RunTable, bytes]:
        entry = file.entry
        if entry.maps:
            return self._spans.get((entry.path, number), lambda: self._reader.span(file, number))
        what = entry.path.decode("utf-8", "replace")
        return codec.decode_extents(entry.extents, what), file.table, entry.hashes

    @contextmanager
    def _believed(self) -> Iterator[None]:
        try:
            yield
        except UNUSABLE as error:
            raise ParentDamaged(f"snapshot {self.snapshot}: {error}", snapshot=self.snapshot) from error


def lacking(reader: SnapshotReader) -> list[str]:
    """Stored names of packs of a snapshot that are not there with their sizes, by listing."""
    manifest = reader.manifest
    wanted = {str(p.name(manifest.name.source)): p.size for p in manifest.packs}
    found: dict[str, int] = {}
    for prefix in sorted({name.rpartition("/")[0] + "/" for name in wanted}):
        found.update((info.name, info.size) for info in reader.repository.store.list(prefix))
    return [name for name, size in wanted.items() if found.get(name) != size]


class _Kept(Generic[V]):
    """The values used last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of *key*, made if it is not here; two threads may make it at once."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._count:
                self._values.popitem(last=False)
        return value


def _cut(extents: list[Extent], table: RunTable, begin: int, end: int, path: bytes) -> Iterator[Place]:
    """The places of bytes *begin* to *end*. :raises Damaged: the extents do not cover them."""
    at = begin
    for e in extents[max(0, bisect.bisect_right(extents, begin, key=lambda e: e.offset) - 1) :]:
        if e.offset >= end:
            break
        skipped = begin - e.offset if e.offset < begin else 0
        length = min(e.offset + e.length, end) - e.offset - skipped
        if length <= 0 or e.offset + skipped != at:
            break
        at += length
        if e.hole:
            yield Place(e.offset + skipped, length, None)
        else:
            blob = BlobRef(table.run(e.run, "extents"), e.pack, e.position, e.sealed_bytes)
            yield Place(e.offset + skipped, length, blob, e.blob_offset + skipped)
    if at != end:
        raise Damaged(f"{path.decode('utf-8', 'replace')}: its extents do not cover bytes {begin} to {end}")


def _within(places: list[Place], first: int, begin: int, end: int) -> tuple[int, tuple[Place, ...]]:
    """Places of bytes *begin* to *end*, looked for from number *first* on; and where the next range begins to look."""
    while first < len(places) and places[first].offset + places[first].length <= begin:
        first += 1
    found = []
    for i in range(first, len(places)):
        p = places[i]
        if p.offset >= end:
            break
        skipped = max(0, begin - p.offset)
        length = min(p.offset + p.length, end) - p.offset - skipped
        inside = p.blob_offset + skipped if p.blob is not None else 0
        found.append(Place(p.offset + skipped, length, p.blob, inside))
    return first, tuple(found)


def cut_places(places: list[Place], begin: int, end: int) -> tuple[Place, ...]:
    """What of *places* lies within bytes *begin* to *end*."""
    first = max(0, bisect.bisect_right(places, begin, key=lambda p: p.offset) - 1)
    return _within(places, first, begin, end)[1]
