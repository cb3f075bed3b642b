"""Which chunks of files are stored already: in the parent's packs, in those of dead runs, and by this run itself.

What a pack holds stands in the directory at its end: of a snapshot of files, a segment is a chunk and its "hashes" are
the 32 bytes of the chunk's id (docs/FORMAT.md). Directories are read when the first chunk is asked for: a run that
finds nothing changed reads none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from mingus_engine import bounds
from mingus_engine.codec import directories
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.entries import BlobRef
from mingus_engine.repository import resume
from mingus_engine.repository.chunk_table import CHUNK_ID_BYTES, ChunkPlace, ChunkTable
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.stored import Place
from mingus_engine.repository.writer import UNUSABLE, WriteRun

# This run's own packs have no name before they are full: known by their numbers.
_OWN_FIRST = 1 << 31


class ChunkIndex:
    """See the module. May be used by several threads.

    :param since: runs that died before are too old to be used.
    :param max_bytes: of the temporary file. :param log: told what cannot be used.
    """

    def __init__(
        self,
        run: WriteRun,
        parent: ParentSnapshot | None,
        *,
        since: datetime,
        spool_path: Path,
        max_bytes: int = bounds.GIB,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run, self._parent, self._since, self._log = run, parent, since, log
        self._table = ChunkTable(spool_path, max_bytes)
        self._packs: list[PackRef] = []
        self._keys: dict[str, bytes] = {}
        self._loaded = threading.Event()
        self._lock = threading.Lock()

    @property
    def run_keys(self) -> Mapping[str, bytes]:
        """Keys of the other runs whose packs are known; complete after ``load``."""
        return self._keys

    def find(self, chunk: bytes) -> tuple[Place, PackRef | None] | None:
        """Where the chunk of this id lies (its offset is 0), and in which pack of another run; ``None`` = nowhere."""
        self.load()
        found = self._table.get(chunk)
        if found is None:
            return None
        pack = None if found.pack >= _OWN_FIRST else self._packs[found.pack]
        run, number = (self._run.run, found.pack - _OWN_FIRST) if pack is None else (pack.run, pack.number)
        blob = BlobRef(run, number, found.position, found.sealed_bytes)
        return Place(0, found.length, blob, found.offset), pack

    def stored(self, chunk: bytes, ref: BlobRef, offset: int, length: int) -> None:
        """This run has stored a chunk."""
        place = ChunkPlace(_OWN_FIRST + ref.pack, ref.position, ref.sealed_bytes, offset, length)
        self._table.add(chunk, place)

    def add(self, ref: PackRef, run_key: bytes, raw_directory: bytes, what: str) -> None:
        """Take in the directory of a pack. :raises Damaged: :raises FormatTooNew:"""
        found = [
            (s.hashes, ChunkPlace(len(self._packs), blob.position, blob.sealed_bytes, s.blob_offset, s.length))
            for blob in directories.decode(raw_directory, what)
            if blob.kind is BlobKind.DATA
            for s in blob.segments
            if len(s.hashes) == CHUNK_ID_BYTES and s.length
        ]
        if not found:
            return
        self._packs.append(ref)
        self._keys[ref.run] = run_key
        for chunk, place in found:
            self._table.add(chunk, place)

    def load(self) -> None:
        """Read the directories of the parent's packs and of those that dead runs left, once.

        A pack whose directory cannot be read is passed over: what it holds is stored again.
        """
        if self._loaded.is_set():
            return
        with self._lock:
            if self._loaded.is_set():
                return
            if self._parent is not None:
                self._add_parent(self._parent)
            resume.take_in(self, self._run, self._since)
            if self._table.full:
                self._log(f"the index of chunks is full with {self._table.count}: some will be stored again")
            self._loaded.set()

    def close(self) -> None:
        """Let go of the temporary file. Idempotent."""
        self._table.close()

    def _add_parent(self, parent: ParentSnapshot) -> None:
        for pack in parent.packs:
            if not parent.may_use(pack):
                continue
            name = str(pack.name(self._run.source))
            try:
                key = parent.run_keys[pack.run]
                self.add(pack, key, resume.read_directory(self._run.repository, name, pack.size, key), name)
            except (*UNUSABLE, KeyError) as error:
                self._log(f"the directory of {name} cannot be read: {error}")
