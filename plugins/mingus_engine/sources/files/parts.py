"""A large file, or one with holes, in parts that fit into memory: cut into chunks, and hashed by blocks, although
neither ends where the other does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mingus_engine import bounds
from mingus_engine.sources.files.chunking import CHUNK_MAX_BYTES, Cutter
from mingus_engine.sources.files.reading import data_ranges

#: Room for what the last part left (a chunk at most, and a block) and as much again.
BUFFER_BYTES = 2 * CHUNK_MAX_BYTES


@dataclass
class Part:
    """Bytes ``offset`` to ``offset + length`` of a file. ``data`` is ``None`` for a hole, which is of whole blocks (but
    for the file's end).

    :param lengths: of the chunks that *data* consists of. :param hashed: whole blocks, beginning where those of the
        part before ended; not the same range as *data*. :param release: gives the buffer back; call it once.
    """

    offset: int
    length: int
    data: memoryview | None
    lengths: list[int]
    hashed: memoryview | None
    release: Callable[[], None]


def parts(
    descriptor: int, size: int, blocks: int, cutter: Cutter, take: Callable[[], tuple[memoryview, Callable[[], None]]]
) -> Iterator[Part]:
    """The first *size* bytes of a file, as far as it has them.

    :param blocks: its ``st_blocks``. :param take: gives a buffer of ``BUFFER_BYTES`` and what gives it back.
    :raises OSError: it cannot be read.
    """
    at = 0
    for begin, end in data_ranges(descriptor, size, blocks):
        if begin > at:
            yield _hole(at, begin)
        at = begin
        for part in _cut(descriptor, begin, end, cutter, take):
            at = part.offset + part.length
            yield part
        if at < end:
            return  # it was made shorter
    if at < size:
        yield _hole(at, size)


def _hole(begin: int, end: int) -> Part:
    return Part(begin, end - begin, None, [], None, lambda: None)


def _cut(
    descriptor: int, begin: int, end: int, cutter: Cutter, take: Callable[[], tuple[memoryview, Callable[[], None]]]
) -> Iterator[Part]:
    cut = hashed = begin  # up to where it was cut, and hashed
    rest = b""  # what was read and is not cut, or not hashed
    while cut < end:
        base = min(cut, hashed)
        buffer, release = take()
        buffer[: len(rest)] = rest
        filled = len(rest)
        want = min(len(buffer), end - base)
        while filled < want and (count := os.preadv(descriptor, [buffer[filled:want]], base + filled)):
            filled += count
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
