"""Files as bytes: entries, extents and block hashes, in fixed-width records.

An *extent* says where a range of a file lies: in which blob of which pack of which run, or that it is a *hole* (reads
as zeros, stored nowhere). Extents of a file are ascending and gapless. Run numbers are short because they index a
table of run ULIDs at the head of whatever holds the extents (a shard, or an extents blob).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mingus_engine import bounds, ulids
from mingus_engine.codec.containers import SEALED_MAX_BYTES, BlobKind
from mingus_engine.errors import Damaged, FormatTooNew

EXTENT = struct.Struct("<QIHHIIII")
LOCATION = struct.Struct("<HHIII")
#: One span's pair of locations: of its extents blob and of its hashes blob.
MAP_PAIR_BYTES = 2 * LOCATION.size
_HOLE = 1
_MAP_HEAD = struct.Struct("<HHI")
MAP_VERSION = 1


class Extent(NamedTuple):
    """Bytes ``offset`` to ``offset + length`` of a file are at ``blob_offset`` of a blob; ``hole``: zeros, nothing
    stored.

    ``run`` is an index into the table of whoever holds the extent; ``position`` and ``sealed_bytes`` are of the
    sealed blob.
    """

    offset: int
    length: int
    run: int
    pack: int
    position: int
    sealed_bytes: int
    blob_offset: int
    hole: bool = False


class Location(NamedTuple):
    """Where one sealed blob lies. ``run`` is an index into a run table."""

    run: int
    pack: int
    position: int
    sealed_bytes: int


class BlobRef(NamedTuple):
    """Where one sealed blob lies, with the run's ULID: valid outside of any table."""

    run: str
    pack: int
    position: int
    sealed_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a snapshot.

    :param extents: encoded (:func:`encode_extents`), empty when the map is in blobs (or the file is empty).
    :param hashes: 16 bytes per 64 KiB block, zero = unknown; empty likewise.
    :param maps: per ``bounds.MAP_SPAN_BYTES`` of the file one pair (extents blob, hashes blob), encoded locations.
    :param extra: attributes beyond the fixed ones; empty in version 1 of PostgreSQL snapshots.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes = b""
    extra: bytes = b""
    extents: bytes = b""
    hashes: bytes = b""
    maps: bytes = b""

    def map_locations(self) -> Iterator[tuple[Location, Location]]:
        """Per span of the file: where its extents blob and its hashes blob lie."""
        for number in range(len(self.maps) // MAP_PAIR_BYTES):
            yield self.map_location(number)

    def map_location(self, number: int) -> tuple[Location, Location]:
        """Where the extents blob and the hashes blob of span *number* lie."""
        run, _, pack, at, size = LOCATION.unpack_from(self.maps, number * MAP_PAIR_BYTES)
        other, _, other_pack, other_at, other_size = LOCATION.unpack_from(
            self.maps, number * MAP_PAIR_BYTES + LOCATION.size
        )
        return Location(run, pack, at, size), Location(other, other_pack, other_at, other_size)


def encode_extents(extents: Iterable[Extent]) -> bytes:
    """*extents* as 32-byte records."""
    return b"".join(
        EXTENT.pack(
            e.offset, e.length, e.run, _HOLE if e.hole else 0, e.pack, e.position, e.sealed_bytes, e.blob_offset
        )
        for e in extents
    )


def decode_extents(raw: bytes, what: str) -> list[Extent]:
    """The extents of *raw*, ascending and gapless from the first one's offset.

    :raises FormatTooNew: flags of a newer version. :raises Damaged: not whole records, out of order, an impossible
        length.
    """
    if len(raw) % EXTENT.size:
        raise Damaged(f"{what}: extents are not whole records")
    extents = []
    expected = None
    for offset, length, run, flags, pack, position, sealed, blob_offset in EXTENT.iter_unpack(raw):
        if flags & ~_HOLE:
            raise FormatTooNew(f"{what}: extent at {offset} has flags {flags:#x}, this program knows {_HOLE:#x}")
        if length == 0 or (expected is not None and offset != expected):
            raise Damaged(f"{what}: extent at {offset} does not follow {expected}")
        if not flags & _HOLE and (sealed > SEALED_MAX_BYTES or blob_offset + length > bounds.BLOB_PLAIN_MAX_BYTES):
            raise Damaged(f"{what}: extent at {offset} has impossible lengths")
        extents.append(Extent(offset, length, run, pack, position, sealed, blob_offset, bool(flags & _HOLE)))
        expected = offset + length
    return extents


class RunTable:
    """Run ULIDs in order of first use; what a u16 in an extent means."""

    def __init__(self, runs: Sequence[str] = ()) -> None:
        self._runs = list(runs)
        self._index = {run: i for i, run in enumerate(self._runs)}

    def __len__(self) -> int:
        return len(self._runs)

    def index(self, run: str) -> int:
        """The number of *run*, new if need be.

        :raises OverflowError: more than 65,535 runs: the caller must store again instead of referencing.
        """
        if run not in self._index:
            if len(self._runs) > 0xFFFE:
                raise OverflowError("run table is full")
            self._index[run] = len(self._runs)
            self._runs.append(run)
        return self._index[run]

    def run(self, index: int, what: str) -> str:
        """The ULID of number *index*.

        :raises Damaged: there is no such number.
        """
        if index >= len(self._runs):
            raise Damaged(f"{what}: run number {index} of {len(self._runs)}")
        return self._runs[index]

    def encode(self) -> bytes:
        """16 bytes per run."""
        return b"".join(map(ulids.to_bytes, self._runs))

    @classmethod
    def decode(cls, raw: bytes, count: int) -> RunTable:
        """*count* runs from the start of *raw*."""
        return cls([ulids.from_bytes(raw[i * 16 : i * 16 + 16]) for i in range(count)])


def renumber_extents(raw: bytes, old: RunTable, new: RunTable, what: str) -> bytes:
    """Encoded extents with run numbers of *old* rewritten to numbers of *new* (extended as needed)."""
    if not raw:
        return raw
    out = bytearray(raw)
    for at in range(0, len(raw), EXTENT.size):
        fields = list(EXTENT.unpack_from(raw, at))
        if not fields[3] & _HOLE:
            fields[2] = new.index(old.run(fields[2], what))
            EXTENT.pack_into(out, at, *fields)
    return bytes(out)


def renumber_maps(raw: bytes, old: RunTable, new: RunTable, what: str) -> bytes:
    """Encoded map locations with run numbers of *old* rewritten to numbers of *new*."""
    out = bytearray()
    for run, zero, pack, position, sealed in LOCATION.iter_unpack(raw):
        out += LOCATION.pack(new.index(old.run(run, what)), zero, pack, position, sealed)
    return bytes(out)


def encode_extents_blob(raw: bytes, table: RunTable, what: str) -> bytes:
    """The plain data of an extents blob: a run table of its own and the extents.

    Layout: ``u16 version · u16 runs · u32 extents · runs (16 each) · extents (32 each)``.
    """
    own = RunTable()
    renumbered = renumber_extents(raw, table, own, what)
    return _MAP_HEAD.pack(MAP_VERSION, len(own), len(raw) // EXTENT.size) + own.encode() + renumbered


def decode_extents_blob(raw: bytes, what: str) -> tuple[RunTable, list[Extent]]:
    """Inverse of :func:`encode_extents_blob`.

    :raises FormatTooNew: a newer version. :raises Damaged: not well-formed.
    """
    if len(raw) < _MAP_HEAD.size:
        raise Damaged(f"{what}: shorter than its head")
    version, runs, count = _MAP_HEAD.unpack_from(raw)
    if version > MAP_VERSION:
        raise FormatTooNew(f"{what}: map version {version}, this program knows {MAP_VERSION}")
    if version != MAP_VERSION:
        raise Damaged(f"{what}: impossible map version {version}")
    at = _MAP_HEAD.size + runs * 16
    if len(raw) != at + count * EXTENT.size:
        raise Damaged(f"{what}: {len(raw)} bytes do not hold {count} extents and {runs} runs")
    return RunTable.decode(raw[_MAP_HEAD.size :], runs), decode_extents(raw[at:], what)


#: Which kind of blob each half of a map pair is sealed as.
MAP_KINDS = (BlobKind.EXTENTS, BlobKind.HASHES)
