"""Chunk id → where the chunk lies: a hash table in a file without a name, so that memory does not grow with it.

Open addressing with linear probing, 52 bytes a slot, doubled when it is two thirds full. Nothing readable rests on the
disk: ids are keyed hashes. Read and written by the page, not mapped: what is mapped would count as the engine's memory.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mingus_engine import bounds
from mingus_engine.repository import spool
from mingus_engine.store.unnamed import open_spool

#: Bytes of an id: keyed BLAKE3 of the chunk.
CHUNK_ID_BYTES = 32
# Id, number of the pack + 1 (0 = empty), position, sealed length, offset in the blob, length.
_SLOT = struct.Struct("<32sIIIII")
_SLOTS_AT_FIRST = 1 << 14
_PROBED = 8
_READ_SLOTS = 1 << 14


class ChunkPlace(NamedTuple):
    """``length`` bytes at ``offset`` of the blob at ``position`` of a pack, given by its number among those known."""

    pack: int
    position: int
    sealed_bytes: int
    offset: int
    length: int


class ChunkTable:
    """See the module. May be used by several threads.

    :param max_bytes: when it would grow over this it takes nothing more. :ivar full: that this has happened.
    :raises StoreFull: no space in the spool.
    """

    def __init__(self, spool_path: Path, max_bytes: int = bounds.GIB) -> None:
        self._spool_path, self._max_bytes = spool_path, max_bytes
        self._slots = _SLOTS_AT_FIRST
        self._file = open_spool(spool_path)
        self._file.truncate(self._slots * _SLOT.size)
        self._lock = threading.Lock()
        self.count = 0
        self.full = False

    def get(self, chunk: bytes) -> ChunkPlace | None:
        """Where the chunk of this id lies; ``None`` = not known."""
        with self._lock:
            _, found = self._find(chunk)
        return found

    def add(self, chunk: bytes, place: ChunkPlace) -> None:
        """Remember *place*; what is known of the id already stays."""
        with self._lock:
            if 3 * self.count >= 2 * self._slots and not self._grow():
                return
            slot, found = self._find(chunk)
            if found is None:
                self._write(slot, chunk, place)
                self.count += 1

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()

    def _find(self, chunk: bytes) -> tuple[int, ChunkPlace | None]:
        slot = int.from_bytes(chunk[:8], "little") % self._slots
        while True:
            count = min(_PROBED, self._slots - slot)
            raw = os.pread(self._file.fileno(), count * _SLOT.size, slot * _SLOT.size)
            for known, pack, position, sealed, offset, length in _SLOT.iter_unpack(raw):
                if not pack:
                    return slot, None
                if known == chunk:
                    return slot, ChunkPlace(pack - 1, position, sealed, offset, length)
                slot += 1
            slot %= self._slots

    def _write(self, slot: int, chunk: bytes, p: ChunkPlace) -> None:
        raw = _SLOT.pack(chunk, p.pack + 1, p.position, p.sealed_bytes, p.offset, p.length)
        spool.write_at(self._file, slot * _SLOT.size, raw)

    def _grow(self) -> bool:
        if self.full or 2 * self._slots * _SLOT.size > self._max_bytes:
            self.full = True
            return False
        old, slots = self._file, self._slots
        self._file = open_spool(self._spool_path)
        self._slots = 2 * slots
        self._file.truncate(self._slots * _SLOT.size)
        with old:
            for chunk, place in _slots(old.fileno(), slots):
                self._write(self._find(chunk)[0], chunk, place)
        return True


def _slots(descriptor: int, slots: int) -> Iterator[tuple[bytes, ChunkPlace]]:
    for at in range(0, slots, _READ_SLOTS):
        raw = os.pread(descriptor, min(_READ_SLOTS, slots - at) * _SLOT.size, at * _SLOT.size)
        for chunk, pack, position, sealed, offset, length in _SLOT.iter_unpack(raw):
            if pack:
                yield chunk, ChunkPlace(pack - 1, position, sealed, offset, length)
