"""Chunk id → where the chunk lies: a hash table in memory, and from some size on in a file without a name, so that
memory does not grow with it.

Open addressing with linear probing, 52 bytes a slot, doubled when it is two thirds full. Nothing readable rests on the
disk: ids are keyed hashes. Read and written by the page, not mapped: what is mapped would count as the engine's memory.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from mingus_engine import bounds
from mingus_engine.repository import spool
from mingus_engine.store.unnamed import open_spool

#: Bytes of an id: keyed BLAKE3 of the chunk.
CHUNK_ID_BYTES = 32
# Id, number of the pack + 1 (0 = empty), position, sealed length, offset in the blob, length.
_SLOT = struct.Struct("<32sIIIII")
_SLOTS_AT_FIRST = 1 << 14
_PROBED = 8
# 13.6 MB for 170,000 chunks. In a file each look is a system call, at which a thread lets go of the interpreter.
_MEMORY_SLOTS = 1 << 18
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
        self._space = _space(self._slots, spool_path)
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
        self._space.close()

    def _find(self, chunk: bytes) -> tuple[int, ChunkPlace | None]:
        slot = int.from_bytes(chunk[:8], "little") % self._slots
        while True:
            count = min(_PROBED, self._slots - slot)
            raw = self._space.read(slot * _SLOT.size, count * _SLOT.size)
            for known, pack, position, sealed, offset, length in _SLOT.iter_unpack(raw):
                if not pack:
                    return slot, None
                if known == chunk:
                    return slot, ChunkPlace(pack - 1, position, sealed, offset, length)
                slot += 1
            slot %= self._slots

    def _write(self, slot: int, chunk: bytes, p: ChunkPlace) -> None:
        raw = _SLOT.pack(chunk, p.pack + 1, p.position, p.sealed_bytes, p.offset, p.length)
        self._space.write(slot * _SLOT.size, raw)

    def _grow(self) -> bool:
        if self.full or 2 * self._slots * _SLOT.size > self._max_bytes:
            self.full = True
            return False
        old, slots = self._space, self._slots
        self._space, self._slots = _space(2 * slots, self._spool_path), 2 * slots
        with closing(old):
            for chunk, place in _slots(old, slots):
                self._write(self._find(chunk)[0], chunk, place)
        return True


class _Space(Protocol):
    """Bytes, zero at first."""

    def read(self, at: int, length: int) -> bytes: ...
    def write(self, at: int, data: bytes) -> None: ...
    def close(self) -> None: ...


class _Memory:
    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self._bytes[at : at + length])

    def write(self, at: int, data: bytes) -> None:
        self._bytes[at : at + len(data)] = data

    def close(self) -> None:
        self._bytes = bytearray()


class _File:
    def __init__(self, size: int, spool_path: Path) -> None:
        self._file = open_spool(spool_path)
        self._file.truncate(size)

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, at)

    def write(self, at: int, data: bytes) -> None:
        spool.write_at(self._file, at, data)

    def close(self) -> None:
        self._file.close()


def _space(slots: int, spool_path: Path) -> _Space:
    size = slots * _SLOT.size
    return _Memory(size) if slots <= _MEMORY_SLOTS else _File(size, spool_path)


def _slots(space: _Space, slots: int) -> Iterator[tuple[bytes, ChunkPlace]]:
    for at in range(0, slots, _READ_SLOTS):
        raw = space.read(at * _SLOT.size, min(_READ_SLOTS, slots - at) * _SLOT.size)
        for chunk, pack, position, sealed, offset, length in _SLOT.iter_unpack(raw):
            if pack:
                yield chunk, ChunkPlace(pack - 1, position, sealed, offset, length)
