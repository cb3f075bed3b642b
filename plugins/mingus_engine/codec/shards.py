"""Shards: entries in path order, cut where the paths say, so that one insertion moves no other cut.

Plain form (little-endian)::

    u16 version · u16 runs · u32 entries · runs (16 each) · records (52 each) · heap
    record: u8 kind · u8 zero · u16 path length · u16 target length · u16 extra length · u32 mode · u32 uid · u32 gid ·
            u64 size · i64 mtime ns · u32 extents · u32 hashes · u32 map pairs · u32 zero
    heap, per entry: path · target · extra · extents (32 each) · hashes (16 each) · map pairs (32 each)

A cut is made before an entry whose keyed path hash ends in ``cut_bits`` zero bits, or when the shard would pass its
maximum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.entries import EXTENT, MAP_PAIR_BYTES, Entry, RunTable, renumber_extents, renumber_maps
from mingus_engine.errors import Damaged, FormatTooNew, SourceError

VERSION = 1
HEAD = struct.Struct("<HHI")
RECORD = struct.Struct("<BBHHHIIIQqIIII")


class TabledEntry(NamedTuple):
    """An entry together with the run table its numbers refer to."""

    entry: Entry
    table: RunTable


def is_cut(path: bytes, hash_key: bytes, cut_bits: int) -> bool:
    """Whether a shard begins with *path*."""
    digest = int.from_bytes(blake3(path, key=hash_key).digest(length=8), "little")
    return digest & ((1 << cut_bits) - 1) == 0


def encoded_bytes(entry: Entry) -> int:
    """How much *entry* adds to a shard."""
    variable = (entry.path, entry.target, entry.extra, entry.extents, entry.hashes, entry.maps)
    return RECORD.size + sum(map(len, variable))


def cut(entries: Iterable[TabledEntry], hash_key: bytes, cut_bits: int) -> Iterator[tuple[bytes, bytes]]:
    """Shards of *entries* (ascending by path): pairs of first path and plain form.

    :raises SourceError: a path occurs twice.
    """
    batch: list[TabledEntry] = []
    size = 0
    last: bytes | None = None
    for entry, table in entries:
        if last is not None and entry.path <= last:
            # Such shards would never be read again; found now, nothing is committed.
            raise SourceError(f"{entry.path.decode('utf-8', 'replace')}: the source gave this path twice")
        last = entry.path
        more = encoded_bytes(entry)
        if batch and (size + more > bounds.SHARD_MAX_BYTES - 4096 or is_cut(entry.path, hash_key, cut_bits)):
            yield batch[0].entry.path, encode(batch)
            batch, size = [], 0
        batch.append(TabledEntry(entry, table))
        size += more
    if batch:
        yield batch[0].entry.path, encode(batch)


def encode(entries: Sequence[TabledEntry]) -> bytes:
    """The plain form of one shard; it gets a run table of its own, in order of first use."""
    own = RunTable()
    records = bytearray()
    heap = bytearray()
    for e, table in entries:
        what = e.path.decode("utf-8", "replace")
        extents = renumber_extents(e.extents, table, own, what)
        maps = renumber_maps(e.maps, table, own, what)
        records += RECORD.pack(
            e.kind, 0, len(e.path), len(e.target), len(e.extra), e.mode, e.uid, e.gid, e.size, e.mtime_ns,
            len(extents) // EXTENT.size, len(e.hashes) // bounds.BLOCK_HASH_BYTES, len(maps) // MAP_PAIR_BYTES, 0,
        )  # fmt: skip
        heap += b"".join((e.path, e.target, e.extra, extents, e.hashes, maps))
    return HEAD.pack(VERSION, len(own), len(entries)) + own.encode() + bytes(records) + bytes(heap)


def decode(raw: bytes, what: str) -> tuple[RunTable, list[Entry]]:
    """The entries of a shard and its run table.

    :raises FormatTooNew: a newer version. :raises Damaged: not well-formed, or not in path order.
    """
    if len(raw) < HEAD.size:
        raise Damaged(f"{what}: shorter than its head")
    version, runs, count = HEAD.unpack_from(raw)
    if version > VERSION:
        raise FormatTooNew(f"{what}: shard version {version}, this program knows {VERSION}")
    if version != VERSION:
        raise Damaged(f"{what}: impossible shard version {version}")
    record_at = HEAD.size + runs * 16
    at = record_at + count * RECORD.size
    if at > len(raw):
        raise Damaged(f"{what}: {len(raw)} bytes do not hold {count} entries")
    table = RunTable.decode(raw[HEAD.size :], runs)
    entries: list[Entry] = []

    # Written out: most of what reading a million small files costs is here.
    extent_bytes, hash_bytes, end, last = EXTENT.size, bounds.BLOCK_HASH_BYTES, len(raw), b""
    for i, fields in enumerate(RECORD.iter_unpack(raw[record_at:at])):
        kind, zero, path, target, extra, mode, uid, gid, size, mtime_ns, extents, hashes, maps, zeros = fields
        if zero or zeros:
            raise Damaged(f"{what}: entry {i} uses bits that are not defined")
        to_target = at + path
        to_extra = to_target + target
        to_extents = to_extra + extra
        to_hashes = to_extents + extents * extent_bytes
        to_maps = to_hashes + hashes * hash_bytes
        behind = to_maps + maps * MAP_PAIR_BYTES
        if behind > end:
            raise Damaged(f"{what}: ends inside an entry")
        name = raw[at:to_target]
        if entries and name <= last:
            raise Damaged(f"{what}: entries are not in path order")
        entries.append(
            Entry(
                name, kind, mode, uid, gid, mtime_ns, size, raw[to_target:to_extra], raw[to_extra:to_extents],
                raw[to_extents:to_hashes], raw[to_hashes:to_maps], raw[to_maps:behind],
            )
        )  # fmt: skip
        last, at = name, behind
    if at != len(raw):
        raise Damaged(f"{what}: {len(raw) - at} bytes behind the last entry")
    return table, entries
