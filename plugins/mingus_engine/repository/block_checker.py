"""Comparing what is read with the keyed hashes that were recorded when it was backed up."""

from __future__ import annotations

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.errors import Damaged

_UNKNOWN_HASH = bytes(bounds.BLOCK_HASH_BYTES)


class BlockChecker:
    """Hashes what is read, block by block, against the recorded keyed hashes; zero = unknown, authenticated only."""

    def __init__(self, hashes: bytes, start: int, size: int, key: bytes, what: str) -> None:
        self._hashes, self._key, self._what = hashes, key, what
        self._size, self._at, self._block = size, start, 0
        self._hasher: blake3 | None = None

    def update(self, data: memoryview | None, length: int) -> None:
        """The next *length* bytes. :raises Damaged: a block is not the recorded one."""
        done = 0 if data is None else self._whole_blocks(data)
        while done < length:
            step = min(length - done, bounds.BLOCK_BYTES - self._at % bounds.BLOCK_BYTES)
            piece = bytes(step) if data is None else data[done : done + step]
            done += step
            self._at += step
            ends = self._at % bounds.BLOCK_BYTES == 0 or self._at == self._size
            if self._hasher is None and ends:
                self._compare(blake3(piece, key=self._key).digest(length=bounds.BLOCK_HASH_BYTES))
                continue
            self._hasher = self._hasher or blake3(key=self._key)
            self._hasher.update(piece)
            if ends:
                self._compare(self._hasher.digest(length=bounds.BLOCK_HASH_BYTES))
                self._hasher = None

    def _whole_blocks(self, data: memoryview) -> int:
        """The usual case at one go: blocks that lie in *data* as a whole and are the recorded ones; their bytes."""
        size, block = bounds.BLOCK_HASH_BYTES, bounds.BLOCK_BYTES
        if self._hasher is not None or self._at % block:
            return 0
        end = len(data) if self._at + len(data) == self._size else len(data) // block * block
        digests = [
            blake3(data[at : min(at + block, end)], key=self._key).digest(length=size) for at in range(0, end, block)
        ]
        found = b"".join(digests)
        start = self._block * size
        if self._hashes[start : start + len(found)] != found:
            return 0  # one by one: a hash may be unknown, and an error names the block
        self._block += len(found) // size
        self._at += end
        return end

    def finish(self) -> None:
        """:raises Damaged: there are more hashes than blocks."""
        if self._block * bounds.BLOCK_HASH_BYTES != len(self._hashes):
            raise Damaged(f"{self._what}: {len(self._hashes)} bytes of hashes for {self._block} blocks")

    def _compare(self, found: bytes) -> None:
        at = self._block * bounds.BLOCK_HASH_BYTES
        expected = self._hashes[at : at + bounds.BLOCK_HASH_BYTES]
        self._block += 1
        if expected not in (_UNKNOWN_HASH, found):
            raise Damaged(f"{self._what}: the block before byte {self._at} is not the one that was backed up")
