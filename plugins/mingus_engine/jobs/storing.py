"""Deciding for every byte of a file whether it is stored already, and storing the rest.

Whole blocks of 64 KiB are hashed and compared with what the parent and dead runs stored of the same file; what is equal
becomes an extent over the stored blob. Ranges that a source calls unchanged become extents over the parent's without
being read. Blocks that are new in part only (native increments know pages of 8 KiB) get the unknown hash.

What a full backup would make one blob is stored again as a whole when a change would scatter it over too many of them:
else every restore of a long chain would open four times as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.directories import Segment
from mingus_engine.codec.entries import Extent, RunTable
from mingus_engine.errors import SourceError
from mingus_engine.jobs.referring import Referring
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot, cut_places
from mingus_engine.repository.resume import StoredBlocks
from mingus_engine.repository.stored import UNKNOWN_HASH, Place, Stored, StoredBlock
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import Stretch, Stretches


class Piece(NamedTuple):
    """A stretch of a file that is stored: extents and block hashes, encoded as an entry has them."""

    extents: list[Extent]
    hashes: bytes


@dataclass
class _Slab:
    """One item's range while it is stored. ``extents`` come in any order; ``hashes`` begin as unknown."""

    path: bytes
    offset: int
    length: int
    extents: list[Extent] = field(default_factory=list)
    hashes: bytearray = field(default_factory=bytearray)
    loose: list[Stretch] = field(default_factory=list)
    loose_bytes: int = 0
    reused: int = 0
    adopted: set[PackRef] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hashes = bytearray(UNKNOWN_HASH * -(-self.length // bounds.BLOCK_BYTES))

    def blocks(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Begin and end of the blocks that lie in *begin* to *end* as a whole."""
        whole = self.offset + self.length
        at = -(-begin // bounds.BLOCK_BYTES) * bounds.BLOCK_BYTES
        while at < end and min(at + bounds.BLOCK_BYTES, whole) <= end:
            yield at, min(at + bounds.BLOCK_BYTES, whole)
            at += bounds.BLOCK_BYTES

    def set_hash(self, block: int, value: bytes) -> None:
        """Of the block that begins at *block*."""
        at = (block - self.offset) // bounds.BLOCK_BYTES * bounds.BLOCK_HASH_BYTES
        self.hashes[at : at + bounds.BLOCK_HASH_BYTES] = value


class _Known(NamedTuple):
    """A block that is stored already, and who has it."""

    block: StoredBlock
    source: Stored


class Storing(Referring):
    """See the module. Every method may be called by any thread."""

    def __init__(self, run: WriteRun, table: RunTable, blocks: StoredBlocks, parent: ParentSnapshot | None) -> None:
        super().__init__(run, table, parent)
        self._blocks = blocks
        # Now, by one thread: two that gave a number to a run at once could give the same one.
        for known in (blocks.run_keys, parent.run_keys if parent is not None else {}):
            for other in known:
                table.index(other)

    def whole(self, path: bytes, offset: int, data: memoryview) -> Piece:
        """Store what is not stored yet of *data*, the bytes of a file from *offset*."""
        slab = _Slab(path, offset, len(data))
        self._new(slab, offset, data)
        return self._finished(slab)

    def mixed(self, path: bytes, offset: int, found: Stretches) -> Piece:
        """The same for a range of which the source gave only what changed.

        :raises SourceError: the stretches do not follow each other, or name what the parent does not have.
        """
        slab = _Slab(path, offset, found.length)
        at = offset
        for stretch in _joined(found.stretches):
            if stretch.offset != at or stretch.length <= 0:
                raise SourceError(f"{_shown(path)}: a stretch at {stretch.offset} where {at} was expected")
            at += stretch.length
            if stretch.data is not None:
                self._new_and_loose(slab, stretch.offset, stretch.data)
            elif stretch.parent:
                self._unchanged(slab, stretch)
            else:
                slab.extents.append(Extent(stretch.offset, stretch.length, 0, 0, 0, 0, 0, hole=True))
        self._put_loose(slab)
        return self._finished(slab)

    def _new_and_loose(self, slab: _Slab, offset: int, data: memoryview) -> None:
        """New bytes: the blocks that lie in them are compared, what is left is only stored."""
        blocks = list(slab.blocks(offset, offset + len(data)))
        if not blocks:
            self._loosen(slab, offset, data)
            return
        first, behind = blocks[0][0] - offset, blocks[-1][1] - offset
        if first:
            self._loosen(slab, offset, data[:first])
        self._new(slab, offset + first, data[first:behind])
        if behind < len(data):
            self._loosen(slab, offset + behind, data[behind:])

    def _new(self, slab: _Slab, offset: int, data: memoryview) -> None:
        """Whole blocks, the last one maybe cut by the file's end."""
        key = self._run.keys.hash_key
        blocks = range(0, len(data), bounds.BLOCK_BYTES)
        hashes = [
            blake3(data[at : at + bounds.BLOCK_BYTES], key=key).digest(length=bounds.BLOCK_HASH_BYTES) for at in blocks
        ]
        stored: dict[int, StoredBlock] = self._blocks.get(slab.path, offset, len(data)) if self._blocks else {}
        of_parent = self._parent.get(slab.path, offset, len(data)) if self._parent else {}
        for group in _groups(offset, len(data)):
            found, of_dead = [], []
            for at in group:
                block, length = offset + at, min(bounds.BLOCK_BYTES, len(data) - at)
                block_hash = hashes[at // bounds.BLOCK_BYTES]
                slab.set_hash(block, block_hash)
                found.append(self._match(block_hash, length, of_parent.get(block), stored.get(block)))
                of_dead.append(self._match(block_hash, length, None, stored.get(block)))
            if all(of_dead) and any(known is None or known.source is self._blocks for known in found):
                found = of_dead  # what a dead run gathered is not gathered again
            elif _scattered(found):
                found = [known if _is_hole(known) else None for known in found]
            of_group = slice(group.start // bounds.BLOCK_BYTES, -(-group.stop // bounds.BLOCK_BYTES))
            self._store_group(slab, offset + group.start, data[group.start : group.stop], found, hashes[of_group])

    def _store_group(
        self, slab: _Slab, offset: int, data: memoryview, found: Sequence[_Known | None], hashes: Sequence[bytes]
    ) -> None:
        """*data*, blocks from *offset* of the file with *hashes*: such as were not *found* become blobs."""
        fresh = 0  # the first of the blocks that must be stored

        def put(behind: int) -> None:
            span = data[fresh * bounds.BLOCK_BYTES : behind * bounds.BLOCK_BYTES]
            self._put(slab, offset + fresh * bounds.BLOCK_BYTES, span, hashes[fresh:behind])

        for i, known in enumerate(found):
            if known is not None:
                put(i)
                fresh = i + 1
                self._reuse(slab, known.block.places, known.source)
        put(len(found))

    def _match(
        self, block_hash: bytes, length: int, of_parent: StoredBlock | None, of_dead: StoredBlock | None
    ) -> _Known | None:
        if self._parent is not None and of_parent is not None and _same(of_parent, block_hash, length):
            return _Known(of_parent, self._parent)
        if of_dead is not None and _same(of_dead, block_hash, length):
            return _Known(of_dead, self._blocks)
        return None

    def _put(self, slab: _Slab, offset: int, data: memoryview, hashes: Sequence[bytes]) -> None:
        """Store *data*, whole blocks from *offset* of the file, as one blob."""
        if not data:
            return
        segment = Segment(slab.path, offset, 0, len(data), b"".join(hashes))
        ref = self._run.packs.append(BlobKind.DATA, data, (segment,))
        slab.extents.append(Extent(offset, len(data), 0, ref.pack, ref.position, ref.sealed_bytes, 0))

    def _unchanged(self, slab: _Slab, stretch: Stretch) -> None:
        """A range that is as the parent has it."""
        parent, end = self._parent, stretch.offset + stretch.length
        begin = stretch.offset // bounds.BLOCK_BYTES * bounds.BLOCK_BYTES
        window = parent.window(slab.path, begin, end - begin) if parent is not None else None
        if parent is None or window is None or window.end < end or not parent.ranges_allowed:
            raise SourceError(f"{_shown(slab.path)}: the parent does not have bytes {stretch.offset} to {end}")
        size = parent.size(slab.path)
        for block, behind in slab.blocks(stretch.offset, end):
            if behind == min(block + bounds.BLOCK_BYTES, size or 0):
                at = (block - begin) // bounds.BLOCK_BYTES * bounds.BLOCK_HASH_BYTES
                slab.set_hash(block, window.hashes[at : at + bounds.BLOCK_HASH_BYTES])
        places = cut_places(window.places, stretch.offset, end)
        self._reuse(slab, [p for p in places if parent.usable(p)], parent)
        for offset, data in parent.read(slab.path, [p for p in places if not parent.usable(p)]):
            if data is not None:
                self._loosen(slab, offset, data)

    def _loosen(self, slab: _Slab, offset: int, data: memoryview) -> None:
        """New bytes that are no whole blocks: several of them share a blob."""
        for at in range(0, len(data), bounds.BLOB_PLAIN_BYTES):
            piece = data[at : at + bounds.BLOB_PLAIN_BYTES]
            if slab.loose_bytes + len(piece) > bounds.BLOB_PLAIN_BYTES:
                self._put_loose(slab)
            slab.loose.append(Stretch(offset + at, len(piece), piece))
            slab.loose_bytes += len(piece)

    def _put_loose(self, slab: _Slab) -> None:
        if not slab.loose:
            return
        inside = 0
        segments, places = [], []
        for offset, length, _, _ in slab.loose:
            # Without hashes: such a piece is no block that a later run could compare.
            segments.append(Segment(slab.path, offset, inside, length, b""))
            places.append((offset, length, inside))
            inside += length
        data = b"".join(s.data for s in slab.loose if s.data is not None)
        ref = self._run.packs.append(BlobKind.DATA, data, segments)
        slab.extents.extend(
            Extent(offset, length, 0, ref.pack, ref.position, ref.sealed_bytes, at) for offset, length, at in places
        )
        slab.loose, slab.loose_bytes = [], 0

    def _reuse(self, slab: _Slab, places: Sequence[Place], source: Stored) -> None:
        for place in places:
            if place.blob is None:
                slab.extents.append(Extent(place.offset, place.length, 0, 0, 0, 0, 0, hole=True))
                continue
            run = self._table.index(place.blob.run)
            slab.extents.append(Extent(place.offset, place.length, run, *place.blob[1:], place.blob_offset))
            slab.reused += place.length
            pack = source.pack(place.blob.run, place.blob.pack)
            if pack not in slab.adopted:
                slab.adopted.add(pack)
                self.adopt(pack, source)

    def _finished(self, slab: _Slab) -> Piece:
        extents = merged(sorted(slab.extents))
        with self._lock:
            self.reused_bytes += slab.reused
            for e in extents:
                if not e.hole:
                    self.live[self._table.run(e.run, "extents"), e.pack] += e.length
        return Piece(extents, bytes(slab.hashes))


def _same(known: StoredBlock, block_hash: bytes, length: int) -> bool:
    return known.hash == block_hash and known.length == length


def _groups(offset: int, length: int) -> Iterator[range]:
    """Where blocks begin within *length* bytes from *offset*, by the blob that a full backup makes of them."""
    at = 0
    while at < length:
        behind = min(at + bounds.BLOB_PLAIN_BYTES - (offset + at) % bounds.BLOB_PLAIN_BYTES, length)
        yield range(at, behind, bounds.BLOCK_BYTES)
        at = behind


def _scattered(found: Sequence[_Known | None]) -> bool:
    """Whether a group of blocks that changed would lie in too many blobs."""
    runs = sum(known is None and (i == 0 or found[i - 1] is not None) for i, known in enumerate(found))
    blobs = {place.blob for known in found if known is not None for place in known.block.places}
    return runs > 0 and runs + len(blobs - {None}) > bounds.SCATTER_MAX_BLOBS


def _is_hole(known: _Known | None) -> bool:
    return known is not None and all(place.blob is None for place in known.block.places)


def _joined(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """*stretches* with neighbours that are not new bytes made one."""
    held: Stretch | None = None
    for s in stretches:
        if held is not None and s.data is None and held.parent == s.parent and held.offset + held.length == s.offset:
            held = held._replace(length=held.length + s.length)
            continue
        if held is not None:
            yield held
        held = s if s.data is None else None
        if held is None:
            yield s
    if held is not None:
        yield held


def merged(extents: list[Extent]) -> list[Extent]:
    """Ascending *extents* with those that go on in the same blob made one."""
    found: list[Extent] = []
    for e in extents:
        last = found[-1] if found else None
        if last is not None and ((last.hole and e.hole) or _goes_on(last, e)):
            found[-1] = last._replace(length=last.length + e.length)
        else:
            found.append(e)
    return found


def _goes_on(last: Extent, e: Extent) -> bool:
    return (
        not last.hole
        and not e.hole
        and (last.run, last.pack, last.position) == (e.run, e.pack, e.position)
        and last.blob_offset + last.length == e.blob_offset
    )


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")
