"""Reading many small files: neighbours share blobs, so they are read together and each blob is opened once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.entries import Extent, decode_extents
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged
from mingus_engine.repository.block_checker import BlockChecker
from mingus_engine.repository.reader import SnapshotReader

# Of the files that are read together: their contents are in memory at once.
_TOGETHER_BYTES = bounds.MIB
_TOGETHER_FILES = 256


class Piece(NamedTuple):
    """Bytes of a file from ``offset``; ``data`` is ``None`` for a hole of ``length``."""

    offset: int
    data: memoryview | None
    length: int


def together(files: Iterable[TabledEntry]) -> Iterator[list[TabledEntry]]:
    """*files*, in order, in groups for :func:`contents`; one with a map of its own, or a large one, is alone."""
    group: list[TabledEntry] = []
    size = 0
    for file in files:
        alone = bool(file.entry.maps) or file.entry.size > _TOGETHER_BYTES
        if group and (
            alone
            or size + file.entry.size > _TOGETHER_BYTES
            or len(group) >= _TOGETHER_FILES
            or file.table is not group[0].table
        ):
            yield group
            group, size = [], 0
        if alone:
            yield [file]
            continue
        group.append(file)
        size += file.entry.size
    if group:
        yield group


def contents(reader: SnapshotReader, group: list[TabledEntry]) -> Iterator[tuple[TabledEntry, list[Piece]]]:
    """Each file of a *group* of small files with all of its content, in order.

    :raises Damaged: anything of one is missing or changed, or does not add up to its size; those before were given.
    """
    names = [file.entry.path.decode("utf-8", "replace") for file in group]
    extents = [decode_extents(file.entry.extents, name) for file, name in zip(group, names, strict=True)]
    fetched = reader.fetch([e for found in extents for e in found], group[0].table, names[0])
    for file, name, found in zip(group, names, extents, strict=True):
        yield file, _checked(reader, file, name, found, fetched)


def _checked(
    reader: SnapshotReader,
    file: TabledEntry,
    name: str,
    extents: list[Extent],
    fetched: Iterator[tuple[Extent, memoryview | None]],
) -> list[Piece]:
    size, at = file.entry.size, 0
    if len(extents) == 1 and size <= bounds.BLOCK_BYTES:  # nearly all of them: one block
        extent, data = next(fetched)
        if data is not None and len(data) == size and extent.offset == 0:
            digest = blake3(data, key=reader.body.hash_key).digest(length=bounds.BLOCK_HASH_BYTES)
            if digest == file.entry.hashes:
                return [Piece(0, data, size)]
        fetched = iter([(extent, data)])  # a hole, a hash that is not known, or damage, which is named
    checker = BlockChecker(file.entry.hashes, 0, size, reader.body.hash_key, name)
    pieces = []
    for _ in extents:
        extent, data = next(fetched)
        if extent.offset != at:
            raise Damaged(f"{name}: extent at {extent.offset} where {at} was expected")
        at += extent.length
        checker.update(data, extent.length)
        pieces.append(Piece(extent.offset, data, extent.length))
    checker.finish()
    if at != size:
        raise Damaged(f"{name}: extents cover {at} of {size} bytes")
    return pieces
