"""Putting entries into path order with bounded memory: sorted runs go to a spool file, sealed under a key that is
never stored.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mingus_engine import bounds
from mingus_engine.codec import shards
from mingus_engine.codec.entries import Entry, RunTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.repository import spool
from mingus_engine.store.unnamed import open_spool

# Entries held before a run is written out: a cluster of 20,000 files stays in memory, a million do not.
_HELD_MAX_BYTES = 8 * bounds.MIB
_CHUNK_BYTES = 128 * bounds.KIB


class EntrySorter:
    """``add`` from any thread, then ``drain`` once."""

    def __init__(self, table: RunTable, spool_path: Path, held_max_bytes: int = _HELD_MAX_BYTES) -> None:
        self._table, self._spool_path, self._held_max = table, spool_path, held_max_bytes
        self._lock = threading.Lock()
        self._held: list[Entry] = []
        self._held_bytes = 0
        self._file: BinaryIO | None = None
        self._aead = AESGCM(os.urandom(32))
        self._end = 0
        self._runs: list[list[tuple[int, int]]] = []
        self.count = 0

    def add(self, entry: Entry) -> None:
        """Take one entry. :raises StoreFull: no space in the spool."""
        with self._lock:
            self._held.append(entry)
            self._held_bytes += shards.encoded_bytes(entry)
            self.count += 1
            if self._held_bytes > self._held_max:
                self._spill()

    def drain(self) -> Iterator[TabledEntry]:
        """All entries, ascending by path."""
        self._held.sort(key=lambda e: e.path)
        held = (TabledEntry(e, self._table) for e in self._held)
        yield from heapq.merge(held, *map(self._read, self._runs), key=lambda t: t.entry.path)

    def close(self) -> None:
        """Let go of the spool file. Idempotent."""
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        self._held.sort(key=lambda e: e.path)
        self._file = self._file or open_spool(self._spool_path)
        chunks, batch, size = [], [], 0
        for entry in self._held:
            batch.append(TabledEntry(entry, self._table))
            size += shards.encoded_bytes(entry)
            if size >= _CHUNK_BYTES:
                chunks.append(self._write(batch))
                batch, size = [], 0
        if batch:
            chunks.append(self._write(batch))
        self._runs.append(chunks)
        self._held, self._held_bytes = [], 0

    def _write(self, batch: list[TabledEntry]) -> tuple[int, int]:
        # The position never repeats in this file, so it serves as the nonce of its own key.
        position = self._end
        sealed = self._aead.encrypt(position.to_bytes(12, "little"), shards.encode(batch), None)
        if self._file is not None:
            spool.write_at(self._file, position, sealed)
        self._end += len(sealed)
        return position, len(sealed)

    def _read(self, chunks: list[tuple[int, int]]) -> Iterator[TabledEntry]:
        for position, length in chunks:
            if self._file is None:
                return
            sealed = os.pread(self._file.fileno(), length, position)
            raw = self._aead.decrypt(position.to_bytes(12, "little"), sealed, None)
            table, found = shards.decode(raw, "spooled entries")
            for entry in found:
                yield TabledEntry(entry, table)
