"""What a snapshot refers to besides what its own run stored, and how much of each pack it needs."""

from __future__ import annotations

import threading
from collections import Counter

from blake3 import blake3

from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.entries import BlobRef, RunTable
from mingus_engine.repository.manifests import ShardRef
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.stored import KnownRuns
from mingus_engine.repository.writer import WriteRun


class Referring:
    """See the module. Every method may be called by any thread.

    :ivar adopted: packs of other runs that something refers to. :ivar reused_bytes: what was not stored again.
    :ivar live: bytes of files that lie in each pack (run, number).
    """

    def __init__(self, run: WriteRun, table: RunTable, parent: ParentSnapshot | None) -> None:
        self._run, self._table, self._parent = run, table, parent
        self._lock = threading.Lock()
        self.adopted: dict[PackRef, bytes] = {}
        self.live: Counter[tuple[str, int]] = Counter()
        self.reused_bytes = 0

    def find_span(self, path: bytes, number: int, blob: bytes, hashes: bytes) -> tuple[BlobRef | None, BlobRef | None]:
        """A ``file_map.FindSpan``: what did not change of the map of a large file is referred to."""
        if self._parent is None:
            return None, None
        found = self._parent.same_span(path, number, blob, hashes)
        for ref in found:
            if ref is not None:
                self.adopt(self._parent.pack(ref.run, ref.pack), self._parent)
        return found

    def put_shard(self, first_path: bytes, raw: bytes) -> ShardRef:
        """Store a shard, or refer to the parent's if it is the same."""
        digest = blake3(raw, key=self._run.keys.hash_key).digest()
        known = self._parent.same_shard(first_path, digest) if self._parent is not None else None
        if known is None or self._parent is None:
            return ShardRef(first_path, self._run.packs.append(BlobKind.SHARD, raw), digest)
        self.adopt(self._parent.pack(known.blob.run, known.blob.pack), self._parent)
        return known

    def adopt(self, pack: PackRef, source: KnownRuns) -> None:
        """Something of *pack* is referred to."""
        with self._lock:
            self.adopted[pack] = source.run_keys[pack.run]
