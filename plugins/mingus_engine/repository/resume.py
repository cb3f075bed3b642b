"""Resuming: what dead runs of a source already stored, as a parent for the next one.

The packs of runs without ``.end`` carry directories that say which blocks of which files they hold, with keyed
hashes. They go into a temporary SQLite table (paths only as keyed hashes: nothing readable rests on a disk), so
memory does not grow with what a dead run left. A retry so stores again at most the packs that were still open.
"""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime
from typing import Protocol

from blake3 import blake3

from mingus_engine import bounds, ulids
from mingus_engine.codec import directories
from mingus_engine.codec.blobs import Decompressor
from mingus_engine.codec.containers import (
    HEADER_BYTES,
    LENGTH,
    PACK_MAGIC,
    BlobKind,
    Cipher,
    Header,
    directory_span,
)
from mingus_engine.codec.entries import BlobRef
from mingus_engine.repository import envelope, names, runs, state
from mingus_engine.repository.packs import PackRef, pack_key
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.stored import Place, StoredBlock
from mingus_engine.repository.writer import UNUSABLE, WriteRun, open_runs

_SCHEMA = """
CREATE TABLE block (path BLOB, offset INTEGER, hash BLOB, pack INTEGER, position INTEGER, sealed INTEGER,
                    blob_offset INTEGER, length INTEGER, PRIMARY KEY (path, offset)) WITHOUT ROWID;
"""


class StoredBlocks:
    """Blocks of dead runs, by file and offset. ``get`` may be called by any thread."""

    def __init__(self, hash_key: bytes) -> None:
        self._hash_key = hash_key
        # An empty name is a temporary database on disk that SQLite removes by itself, with a small cache.
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA cache_size=-4096")
        self._db.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._packs: list[PackRef] = []
        self._by_number: dict[tuple[str, int], PackRef] = {}
        self.run_keys: dict[str, bytes] = {}
        self._empty = True

    def __bool__(self) -> bool:
        return not self._empty

    def get(self, path: bytes, offset: int, length: int) -> dict[int, StoredBlock]:
        """The stored blocks of *path* that begin in the range, by file offset."""
        if self._empty:
            return {}
        with self._lock:
            rows = self._db.execute(
                "SELECT offset, hash, pack, position, sealed, blob_offset, length FROM block"
                " WHERE path = ? AND offset >= ? AND offset < ?",
                (self._path(path), offset, offset + length),
            ).fetchall()
        return {
            at: StoredBlock(h, n, (Place(at, n, self._blob(p, position, sealed), inside),))
            for at, h, p, position, sealed, inside, n in rows
        }

    def _blob(self, pack: int, position: int, sealed_bytes: int) -> BlobRef:
        return BlobRef(self._packs[pack].run, self._packs[pack].number, position, sealed_bytes)

    def pack(self, run: str, number: int) -> PackRef:
        """The pack a block was found in."""
        return self._by_number[run, number]

    def add(self, ref: PackRef, run_key: bytes, raw_directory: bytes, what: str) -> None:
        """Take in the directory of one pack. :raises Damaged: :raises FormatTooNew: nothing of it was taken."""
        index = len(self._packs)
        rows = []
        for blob in directories.decode(raw_directory, what):
            if blob.kind is not BlobKind.DATA:
                continue
            for s in blob.segments:
                for i in range(len(s.hashes) // bounds.BLOCK_HASH_BYTES):
                    h = s.hashes[i * bounds.BLOCK_HASH_BYTES : (i + 1) * bounds.BLOCK_HASH_BYTES]
                    inside = i * bounds.BLOCK_BYTES
                    n = min(bounds.BLOCK_BYTES, s.length - inside)
                    place = (index, blob.position, blob.sealed_bytes, s.blob_offset + inside, n)
                    rows.append((self._path(s.path), s.file_offset + inside, h, *place))
        self._packs.append(ref)
        self._by_number[ref.run, ref.number] = ref
        self.run_keys[ref.run] = run_key
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO block VALUES (?,?,?,?,?,?,?,?)", rows)
        self._empty = self._empty and not rows

    def close(self) -> None:
        """Remove the table. Idempotent."""
        self._db.close()

    def _path(self, path: bytes) -> bytes:
        return blake3(path, key=self._hash_key).digest(length=16)


class Taker(Protocol):
    """What takes in the directories of packs."""

    def add(self, ref: PackRef, run_key: bytes, raw_directory: bytes, what: str) -> None:
        """Take in the directory of one pack. :raises Damaged: :raises FormatTooNew: nothing of it was taken."""


def stored_blocks(run: WriteRun, since: datetime | None = None) -> StoredBlocks:
    """The blocks that dead runs of the source left; see :func:`take_in`."""
    blocks = StoredBlocks(run.keys.hash_key)
    take_in(blocks, run, since)
    return blocks


def take_in(taker: Taker, run: WriteRun, since: datetime | None = None) -> None:
    """What dead runs of the source left that may be built on: not planned, not fenced, with this source's hash key.

    :param since: runs that were started before are too old.
    A pack or start that is damaged is passed over: what it held is stored again.
    """
    for dead in open_runs(run.repository, run.source):
        too_old = since is not None and ulids.made_at(dead) < since
        if dead == run.run or too_old or state.fences_on(run.repository, run.source, dead):
            continue
        try:
            start = names.RunName(run.source, dead, "start")
            if run.repository.get_run(start).text("kind") != runs.WRITE:
                continue
            keys = run.repository.run_keys(start)
        except UNUSABLE:
            continue
        if keys.hash_key != run.keys.hash_key:
            continue
        _add_packs(taker, run, dead, keys.run_key)


def _add_packs(taker: Taker, run: WriteRun, dead: str, run_key: bytes) -> None:
    for info in run.repository.store.list(f"packs/{run.source}/{dead}/"):
        name = names.pack(info.name)
        if name is None or name.putting_run or info.name in run.state.planned:
            continue
        try:
            raw = read_directory(run.repository, info.name, info.size, run_key)
            taker.add(PackRef(dead, name.number, info.size, name.sha256), run_key, raw, info.name)
        except UNUSABLE:
            continue


def read_directory(repository: Repository, name: str, size: int, run_key: bytes) -> bytes:
    """The plain directory of a pack of *size* bytes. :raises Damaged: changed or cut."""
    store = repository.store
    header = Header.decode(store.get_range(name, 0, HEADER_BYTES), PACK_MAGIC, name)
    parsed = names.pack(name)
    if parsed is None or (header.run, header.number) != (parsed.run, parsed.number):
        envelope.mismatch(name)
    at, length = directory_span(size, store.get_range(name, size - LENGTH.size, LENGTH.size), name)
    cipher = Cipher(header, pack_key(header, run_key))
    plain = cipher.open(BlobKind.DIRECTORY, at, store.get_range(name, at, length), name)
    return Decompressor().data(plain, name)
