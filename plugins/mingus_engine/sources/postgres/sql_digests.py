"""Digests of what a backup over SQL stored of large files, for the next one to compare with.

SHA-256 of each 64 KiB, cut to 16 bytes, in order; zeros = unknown. They are of the bytes that are stored, so who finds
the same digest on the server knows that the stored bytes are the server's.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from mingus_engine.bounds import BLOCK_BYTES, PAGE_BYTES, SLAB_BYTES
from mingus_engine.sources.base import SourceFile, Stretch
from mingus_engine.sources.postgres.low_level import MadeFile, made_file

DIGESTS = b"mingus-origin/sha256/"
DIGEST_BYTES = 16
# Digests of a file are one item; PostgreSQL's own files have at most 1 GiB.
DIGESTED_MAX_BYTES = SLAB_BYTES // DIGEST_BYTES * BLOCK_BYTES
#: The LSN in a page's header, two numbers.
LSN = struct.Struct("<II")


class Digests:
    """Digests of files, as these are read in any order by any thread."""

    def __init__(self) -> None:
        self._ready: deque[MadeFile] = deque()

    def ready(self) -> Iterator[MadeFile]:
        """Files of digests that are complete; each is given once."""
        while self._ready:
            yield self._ready.popleft()

    def add(self, file: MadeFile) -> None:
        """A file of digests is complete."""
        self._ready.append(file)


class FileDigests:
    """Those of one file.

    :param unclear: whether the LSN of a page says nothing about its age; then digests are kept only of blocks with such
        a page. ``None``: of all.
    """

    def __init__(self, file: SourceFile, digests: Digests, unclear: Callable[[int], bool] | None = None) -> None:
        self._file, self._digests, self._unclear = file, digests, unclear
        self._lock = threading.Lock()
        self._parts = bytearray(-(-file.size // BLOCK_BYTES) * DIGEST_BYTES)
        self._left = file.size

    def take(self, offset: int, stretches: Sequence[Stretch], old: bytes = b"") -> None:
        """An item of the file from *offset* is stored as *stretches*; what was taken over had the digests *old*.

        Of a file that became shorter meanwhile the digests never get complete: there are none.
        """
        end = offset + sum(stretch.length for stretch in stretches)
        for stretch in stretches:
            behind = stretch.offset + stretch.length
            for at in range(-(-stretch.offset // BLOCK_BYTES) * BLOCK_BYTES, behind, BLOCK_BYTES):
                until = min(at + BLOCK_BYTES, end)
                if until > behind:  # partly from elsewhere
                    break
                place = at // BLOCK_BYTES * DIGEST_BYTES
                if stretch.data is None:
                    part = old[place : place + DIGEST_BYTES]
                else:
                    part = self._digest(stretch.data[at - stretch.offset : until - stretch.offset])
                if part:
                    with self._lock:
                        self._parts[place : place + DIGEST_BYTES] = part
        with self._lock:
            self._left -= end - offset
            complete = not self._left
        if complete and any(self._parts):
            self._digests.add(made_file(DIGESTS + self._file.path, bytes(self._parts)))

    def _digest(self, block: memoryview) -> bytes:
        if self._unclear is not None:
            stamps = (LSN.unpack_from(block, at) for at in range(0, len(block) - LSN.size + 1, PAGE_BYTES))
            if not any(self._unclear(high << 32 | low) for high, low in stamps):
                return b""
        return hashlib.sha256(block).digest()[:DIGEST_BYTES]
