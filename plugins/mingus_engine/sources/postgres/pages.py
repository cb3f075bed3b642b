"""Page checksums of PostgreSQL, computed with numpy over whole slabs.

Source: ``storage/checksum_impl.h`` and ``bufpage.h``. A page is 64 rows of 32 words; each column is an FNV-1a-like
chain over its rows, so one numpy call advances the same row of every page at once. Two things make that near memory
speed (``benchmarks/page_checksum.py``): rows are gathered as opaque 128-byte items, eight rows a call (numpy would
otherwise start an inner loop of 32 words per page), and the chain then runs over contiguous memory. The data are never
written to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mingus_engine.bounds import PAGE_BYTES, SLAB_BYTES

Words = NDArray[np.uint32]

_LANES = 32
_ROWS = PAGE_BYTES // 4 // _LANES
_ROW_ITEM = np.dtype(f"V{_LANES * 4}")
# Eight rows of a slab's 512 pages are 512 KiB: they stay in a core's second-level cache.
_GATHERED_ROWS = 8
_PRIME = np.uint32(16777619)
_SHIFT = np.uint32(17)
_NO_CHECKSUM = np.uint32(0xFFFF0000)
# Initial values of the 32 chains: random numbers fixed in checksum_impl.h.
_OFFSETS: Words = np.array(
    [
        *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
        *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
        *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
        *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
    ],
    dtype=np.uint32,
)


@dataclass(frozen=True, slots=True)
class BadPage:
    """A page whose checksum does not match.

    :param index: counts pages in the data given. :param lsn: what the page's header says.
    """

    index: int
    lsn: int


class PageVerifier:
    """Verifies pages. Holds about 0.8 MiB of scratch memory, so it belongs to one thread."""

    def __init__(self, max_bytes: int = SLAB_BYTES) -> None:
        self._pages = max_bytes // PAGE_BYTES
        words = self._pages * _LANES
        self._start: Words = np.tile(_OFFSETS, self._pages)
        self._chain: Words = np.empty(words, np.uint32)
        self._high: Words = np.empty(words, np.uint32)
        self._gathered = np.empty(_GATHERED_ROWS * self._pages, _ROW_ITEM)

    def bad_pages(self, data: memoryview, first_block: int) -> list[BadPage]:
        """The pages of *data* that are neither new (all zero) nor have the right checksum, in order.

        :param data: at most the size given to the constructor; a partial page at the end is not looked at.
        :param first_block: number of the first page in its relation fork, counted across segments.
        """
        count = len(data) // PAGE_BYTES
        if not count:
            return []
        words: Words = np.frombuffer(data[: count * PAGE_BYTES], dtype="<u4").reshape(count, PAGE_BYTES // 4)
        expected = self._checksums(words, first_block)
        stored = words[:, 2] & np.uint32(0xFFFF)
        wrong = np.flatnonzero(stored != expected)
        if not len(wrong):
            return []
        # pd_upper (bytes 14, 15) is 0 in a new page, which has no checksum; the server accepts it if all of it is zero.
        return [
            BadPage(int(i), int(words[i, 0]) << 32 | int(words[i, 1]))
            for i in wrong
            if words[i, 3] >> np.uint32(16) != 0 or words[i].any()
        ]

    def _checksums(self, words: Words, first_block: int) -> Words:
        count = len(words)
        size = count * _LANES
        chain, high = self._chain[:size], self._high[:size]
        gathered = self._gathered[: _GATHERED_ROWS * count].reshape(_GATHERED_ROWS, count)
        rows = [row.view(np.uint32) for row in gathered]
        columns = words.view(_ROW_ITEM).T
        xor, shift, multiply = np.bitwise_xor, np.right_shift, np.multiply
        np.copyto(chain, self._start[:size])
        for first in range(0, _ROWS, _GATHERED_ROWS):
            np.copyto(gathered, columns[first : first + _GATHERED_ROWS])
            if first == 0:
                # The checksum is computed with its own field, the low half of the third word, as zero.
                rows[0].reshape(count, _LANES)[:, 2] &= _NO_CHECKSUM
            for row in rows:
                xor(chain, row, chain)
                _round(chain, high, xor, shift, multiply)
        for _ in range(2):  # two rounds of zeros mix the last row in
            _round(chain, high, xor, shift, multiply)
        folded = np.bitwise_xor.reduce(chain.reshape(count, _LANES), axis=1)
        folded ^= np.arange(first_block, first_block + count, dtype=np.uint64).astype(np.uint32)
        result: Words = folded % np.uint32(65535) + np.uint32(1)
        return result


def _round(
    chain: Words, high: Words, xor: Callable[..., Any], shift: Callable[..., Any], multiply: Callable[..., Any]
) -> None:
    shift(chain, _SHIFT, high)
    multiply(chain, _PRIME, chain)
    xor(chain, high, chain)
