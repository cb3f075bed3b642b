"""A shard as columns: for those who compare most of it with something and decode little.

``codec.shards.decode`` makes an object of every entry; a tree of a million unchanged files has better things to do.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from mingus_engine import bounds
from mingus_engine.codec import attributes
from mingus_engine.codec.entries import EXTENT, MAP_PAIR_BYTES, Entry, RunTable
from mingus_engine.codec.shards import HEAD, RECORD, VERSION
from mingus_engine.errors import Damaged, FormatTooNew

#: Kind, zero, path length, target length, extra length, mode, uid, gid, size, mtime in ns, extents, hashes, map pairs,
#: zero.
Record: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]


class ShardTable:
    """The entries of one shard, in path order.

    :ivar paths: of all. :ivar records: fixed fields of all, see :data:`Record`. :ivar runs: what run numbers mean.
    :raises FormatTooNew: a newer version. :raises Damaged: not well-formed.
    """

    def __init__(self, raw: bytes, what: str) -> None:
        try:
            version, runs, count = HEAD.unpack_from(raw)
            if version > VERSION:
                raise FormatTooNew(f"{what}: shard version {version}, this program knows {VERSION}")
            record_at = HEAD.size + runs * 16
            at = record_at + count * RECORD.size
            self.records: list[Record] = list(RECORD.iter_unpack(raw[record_at:at]))
        except struct.error:
            raise Damaged(f"{what}: shorter than its records") from None
        if len(self.records) != count:
            raise Damaged(f"{what}: shorter than its records")
        self._raw, self._what = raw, what
        self.runs = RunTable.decode(raw[HEAD.size :], runs)
        self.paths: list[bytes] = []
        self._starts: list[int] = []
        width, hash_width = EXTENT.size, bounds.BLOCK_HASH_BYTES
        for record in self.records:
            self._starts.append(at)
            self.paths.append(raw[at : at + record[2]])
            at += (
                record[2] + record[3] + record[4] + width * record[10] + hash_width * record[11]
                + MAP_PAIR_BYTES * record[12]
            )  # fmt: skip
        if at != len(raw):
            raise Damaged(f"{what}: its records do not add up to its {len(raw)} bytes")

    def only(self, numbers: Sequence[int]) -> ShardTable:
        """The same shard with no entries but those at *numbers*, ascending."""
        part = copy.copy(self)
        part.records = [self.records[number] for number in numbers]
        part.paths = [self.paths[number] for number in numbers]
        part._starts = [self._starts[number] for number in numbers]
        return part

    def __len__(self) -> int:
        return len(self.records)

    def extra_begins_with(self, number: int, beginning: bytes) -> bool:
        """Whether the ``extra`` of entry *number* does."""
        record = self.records[number]
        at = self._starts[number] + record[2] + record[3]
        return record[4] >= len(beginning) and self._raw.startswith(beginning, at)

    def extents(self, number: int) -> bytes:
        """The encoded extents of entry *number*."""
        record = self.records[number]
        at = self._starts[number] + record[2] + record[3] + record[4]
        return self._raw[at : at + EXTENT.size * record[10]]

    def entry(self, number: int) -> Entry:
        """Entry *number* as an object."""
        record, at = self.records[number], self._starts[number]
        kind, _, path, target, extra, mode, uid, gid, size, mtime_ns, extents, hashes, maps, _ = record
        parts = []
        for length in (
            path, target, extra, extents * EXTENT.size, hashes * bounds.BLOCK_HASH_BYTES, maps * MAP_PAIR_BYTES
        ):  # fmt: skip
            parts.append(self._raw[at : at + length])
            at += length
        return Entry(parts[0], kind, mode, uid, gid, mtime_ns, size, *parts[1:])

    def has_more(self, number: int) -> bool:
        """Whether the ``extra`` of entry *number* has anything besides a mark (``codec.attributes``)."""
        record = self.records[number]
        at = self._starts[number] + record[2] + record[3]
        return attributes.has_more(self._raw[at : at + record[4]])

    def with_maps(self) -> Iterator[int]:
        """Numbers of the entries that have maps of their own."""
        return (number for number, record in enumerate(self.records) if record[12])
