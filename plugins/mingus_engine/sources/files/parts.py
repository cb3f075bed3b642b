"""A large file, or one with holes, in parts that fit into memory: cut into chunks, and hashed by blocks, although
neither ends where the other does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from mingus_engine import bounds
from mingus_engine.sources.files.chunking import CHUNK_MAX_BYTES, Cutter
from mingus_engine.sources.files.reading import data_ranges

#: Room for what the last part left (a chunk at most, and a block) and as much again.
BUFFER_BYTES = 2 * CHUNK_MAX_BYTES


class Blocks(NamedTuple):
    """Hashes of the blocks of a part, 16 bytes each, and whether each is what the parent has at the same offset."""

    hashes: bytes
    same: Sequence[bool]


#: Compares what a file has at an offset, whole blocks (the last one maybe cut by the file's end), with the parent.
Compare: TypeAlias = Callable[[int, memoryview], Blocks]
#: Gives a buffer of ``BUFFER_BYTES`` and what gives it back.
Take: TypeAlias = Callable[[], tuple[memoryview, Callable[[], None]]]


@dataclass
class Part:
    """Bytes ``offset`` to ``offset + length`` of a file. ``data`` is ``None`` for a hole, which is of whole blocks (but
    for the file's end).

    :param lengths: of the chunks that *data* consists of. :param hashed: whole blocks, beginning where those of the
        part before ended; not the same range as *data*. :param release: gives the buffer back; call it once.
    :param blocks: of *data* that was compared instead of being cut: no *lengths*, and nothing is *hashed*.
    """

    offset: int
    length: int
    data: memoryview | None
    lengths: list[int]
    hashed: memoryview | None
    release: Callable[[], None]
    blocks: Blocks | None = None


def parts(
    descriptor: int, size: int, blocks: int, cutter: Cutter, take: Take, *, compare: Compare | None = None
) -> Iterator[Part]:
    """The first *size* bytes of a file, as far as it has them.

    :param blocks: its ``st_blocks``.
    :param compare: of a file that was changed in place. From a buffer on of which most
        changed, the rest is cut, as everything is without it: it has probably moved.
    :raises OSError: it cannot be read.
    """
    at = 0
    for begin, end in data_ranges(descriptor, size, blocks):
        if begin > at:
            yield _hole(at, begin)
        at = begin
        if compare is not None:
            at = yield from _compared(descriptor, begin, end, compare, take)
            if at < 0:
                return  # it was made shorter
            compare = None if at < end else compare
        for part in _cut(descriptor, at, end, cutter, take) if at < end else ():
            at = part.offset + part.length
            yield part
        if at < end:
            return  # it was made shorter
    if at < size:
        yield _hole(at, size)


def _hole(begin: int, end: int) -> Part:
    return Part(begin, end - begin, None, [], None, lambda: None)


def _compared(descriptor: int, begin: int, end: int, compare: Compare, take: Take) -> Generator[Part, None, int]:
    """Parts with their blocks compared; up to where that went, -1 = the file ended."""
    at = begin
    while at < end:
        buffer, release = take()
        want = min(len(buffer), end - at)
        filled = _fill(descriptor, buffer, 0, want, at)
        found = compare(at, buffer[:filled])
        if filled == want and 2 * sum(found.same) < len(found.same):
            release()
            return at
        yield Part(at, filled, buffer[:filled], [], None, release, found)
        at += filled
        if filled < want:
            return -1
    return at


def _fill(descriptor: int, buffer: memoryview, filled: int, want: int, offset: int) -> int:
    """Read until *buffer*, which has *filled* bytes and begins at *offset* of the file, has *want*, or the file ends;
    how many it has.
    """
    while filled < want and (count := os.preadv(descriptor, [buffer[filled:want]], offset + filled)):
        filled += count
    return filled


def _cut(descriptor: int, begin: int, end: int, cutter: Cutter, take: Take) -> Iterator[Part]:
    cut = hashed = begin  # up to where it was cut, and hashed
    rest = b""  # what was read and is not cut, or not hashed
    while cut < end:
        base = min(cut, hashed)
        buffer, release = take()
        buffer[: len(rest)] = rest
        want = min(len(buffer), end - base)
        filled = _fill(descriptor, buffer, len(rest), want, base)
        if filled < want:
            end = base + filled
        complete = base + filled >= end
        lengths = list(cutter.lengths(buffer[cut - base : filled], complete=complete))
        behind_cut = cut + sum(lengths)
        behind_hashed = end if complete else (base + filled) // bounds.BLOCK_BYTES * bounds.BLOCK_BYTES
        rest = bytes(buffer[min(behind_cut, behind_hashed) - base : filled])
        yield Part(
            cut, behind_cut - cut, buffer[cut - base : behind_cut - base], lengths,
            buffer[hashed - base : behind_hashed - base], release,
        )  # fmt: skip
        if behind_cut == cut:
            return  # it ended where the last part did
        cut, hashed = behind_cut, behind_hashed
