"""How the extents of a file are fetched: what lies near each other in a pack comes by one read (DESIGN §5 "Restore
plans"), in batches whose bytes fit into memory.

In a fresh full backup the extents of a file follow each other in one pack. After many increments neighbours in the file
lie in many packs, but in each of them beside what that increment stored before and after: so a batch sorts its blobs by
pack, and reads each stretch once, although the file is written in its own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mingus_engine import bounds
from mingus_engine.codec.entries import Extent


class Read(NamedTuple):
    """Bytes ``start`` to ``end`` of a pack; ``run`` is an index of the extents' run table."""

    run: int
    pack: int
    start: int
    end: int


@dataclass(frozen=True)
class Batch:
    """Extents in file order, and the reads that hold their blobs.

    :param read_of: for each extent the index of its read; -1 = a hole.
    :param uses: for each read how many extents it serves.
    """

    extents: Sequence[Extent]
    reads: Sequence[Read]
    read_of: Sequence[int]
    uses: Sequence[int]

    @property
    def read_bytes(self) -> int:
        """Of all reads together."""
        return sum(read.end - read.start for read in self.reads)


def batches(extents: Iterable[Extent], max_bytes: int = bounds.FETCH_BATCH_BYTES) -> Iterator[Batch]:
    """*extents* in order, cut where their blobs are more than *max_bytes*.

    What is read besides the blobs, because it lies between them, is at most as much again.
    """
    held: list[Extent] = []
    blobs: set[Read] = set()
    size = 0
    for e in extents:
        if not e.hole and (blob := _blob(e)) not in blobs:
            if blobs and size + e.sealed_bytes > max_bytes:
                yield _batch(held, blobs, size)
                held, blobs, size = [], set(), 0
            blobs.add(blob)
            size += e.sealed_bytes
        held.append(e)
    if held:
        yield _batch(held, blobs, size)


def _blob(e: Extent) -> Read:
    return Read(e.run, e.pack, e.position, e.position + e.sealed_bytes)


def _batch(extents: Sequence[Extent], blobs: Iterable[Read], size: int) -> Batch:
    ordered = sorted(blobs)
    reads = _merged(ordered, bounds.FETCH_GAP_BYTES)
    if sum(r.end - r.start for r in reads) > 2 * size:
        reads = _merged(ordered, 0)
    index: dict[tuple[int, int, int], int] = {}
    at = 0
    for blob in ordered:
        while (reads[at].run, reads[at].pack) != (blob.run, blob.pack) or reads[at].end < blob.end:
            at += 1
        index[blob[:3]] = at
    read_of = [-1 if e.hole else index[e.run, e.pack, e.position] for e in extents]
    uses = [0] * len(reads)
    for number in read_of:
        if number >= 0:
            uses[number] += 1
    return Batch(extents, reads, read_of, uses)


def _merged(blobs: Iterable[Read], gap: int) -> list[Read]:
    found: list[Read] = []
    for blob in blobs:
        last = found[-1] if found else None
        if (
            last is not None
            and (last.run, last.pack) == (blob.run, blob.pack)
            and blob.start - last.end <= gap
            and max(blob.end, last.end) - last.start <= bounds.FETCH_MAX_BYTES
        ):
            found[-1] = last._replace(end=max(last.end, blob.end))
        else:
            found.append(blob)
    return found
