"""Writing packs: workers share one open pack until it is full, then each has its own.

Small runs so make few objects, big runs keep locality (DESIGN §3). A full pack is finished and put by a thread of its
own, so that workers go on while a store is slow; the number of packs waiting bounds the spool.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mingus_engine import bounds
from mingus_engine.codec.blobs import Compressor
from mingus_engine.codec.containers import (
    HEADER_BYTES,
    LENGTH,
    PACK_MAGIC,
    BlobKind,
    Cipher,
    ContainerKind,
    Header,
)  # fmt: skip
from mingus_engine.codec.directories import BlobEntry, DirectoryBuilder, Segment
from mingus_engine.codec.entries import BlobRef
from mingus_engine.codec.sealing import SALT_BYTES, TAG_BYTES
from mingus_engine.repository import spool
from mingus_engine.repository.names import PackName
from mingus_engine.store.base import Store

# The directory must fit a blob; half of it leaves room for the largest single addition.
_DIRECTORY_FULL_BYTES = bounds.BLOB_PLAIN_MAX_BYTES // 2
# Packs finished but not yet in the store: two of 64 MiB hide the latency of a put without filling a disk.
_WAITING_PACKS = 2


class PackRef(NamedTuple):
    """A pack as manifests name it. ``size`` in bytes, ``sha256`` in hex."""

    run: str
    number: int
    size: int
    sha256: str
    putting_run: str = ""

    def name(self, source: str) -> PackName:
        """Its stored name in the repository the reference was read from."""
        return PackName(source, self.run, self.number, self.sha256, self.putting_run)


def pack_key(header: Header, run_key: bytes) -> bytes:
    """The key of the pack with this *header*."""
    return header.key(run_key, "pack")


class _OpenPack:
    """A pack in the making: positions are reserved under a lock, sealing and writing happen outside it."""

    def __init__(self, run: str, run_key: bytes, number: int, kind: ContainerKind, spool_path: Path) -> None:
        self.number = number
        header = Header(PACK_MAGIC, kind, number, run, os.urandom(SALT_BYTES))
        self.cipher = Cipher(header, pack_key(header, run_key))
        self.file = spool.open_spool(spool_path)
        spool.write_at(self.file, 0, header.encode())
        self._size = HEADER_BYTES
        self._directory = DirectoryBuilder()
        self._writing = 0
        self._condition = threading.Condition()

    def reserve(self, kind: BlobKind, sealed_bytes: int, plain_bytes: int, segments: Sequence[Segment]) -> int | None:
        """The position of a new blob, ``None`` when the pack is full."""
        with self._condition:
            directory = self._directory
            if len(directory) and (
                self._size + sealed_bytes + directory.encoded_bytes > bounds.PACK_MAX_BYTES
                or len(directory) >= bounds.PACK_MAX_BLOBS
                or directory.encoded_bytes > _DIRECTORY_FULL_BYTES
            ):
                return None
            position = self._size
            self._size += sealed_bytes
            directory.add(BlobEntry(kind, position, sealed_bytes, plain_bytes, tuple(segments)))
            self._writing += 1
            return position

    def write(self, position: int, sealed: bytes) -> None:
        """Fill a reserved place."""
        try:
            spool.write_at(self.file, position, sealed)
        finally:
            with self._condition:
                self._writing -= 1
                self._condition.notify_all()

    def finish(self, compressor: Compressor) -> tuple[int, bytes]:
        """Wait for the writers, append the directory; size and SHA-256 of the whole."""
        with self._condition:
            self._condition.wait_for(lambda: self._writing == 0)
        sealed = self.cipher.seal(BlobKind.DIRECTORY, self._size, compressor.plain_form(self._directory.encode()))
        spool.write_at(self.file, self._size, sealed + LENGTH.pack(len(sealed)))
        size = self._size + len(sealed) + LENGTH.size
        return size, spool.sha256_of(self.file, size)


@dataclass
class PackStatistics:
    """What a run stored, in bytes; guarded by the writer's lock."""

    plain_bytes: int = 0
    sealed_bytes: int = 0
    blobs: int = 0


class PackWriter:
    """Appends blobs to the packs of one run. ``append`` may be called by any number of threads.

    :param level: zstd level. :param on_put: told of each pack that is in the store.
    """

    def __init__(
        self,
        store: Store,
        source: str,
        run: str,
        run_key: bytes,
        *,
        spool_path: Path,
        level: int,
        on_put: Callable[[PackRef], None] = lambda _: None,
    ) -> None:
        self._store, self._source, self._run, self._run_key = store, source, run, run_key
        self._spool_path, self._level, self._on_put = spool_path, level, on_put
        self._lock = threading.Lock()
        self._local = threading.local()
        self._current: dict[tuple[ContainerKind, int], _OpenPack] = {}
        self._own: set[ContainerKind] = set()
        self._next_number = 0
        self._slots = threading.BoundedSemaphore(_WAITING_PACKS)
        self._putter = ThreadPoolExecutor(1, thread_name_prefix="mingus-put")
        self._failure: BaseException | None = None
        self.refs: list[PackRef] = []
        self.statistics = PackStatistics()

    def append(self, kind: BlobKind, data: bytes | memoryview, segments: Sequence[Segment] = ()) -> BlobRef:
        """Compress, seal and append *data* (at most 4 MiB); where it lies.

        :raises StoreError: an earlier pack could not be put, or the spool is full.
        """
        plain_form = self._compressor().plain_form(data)
        sealed_bytes = len(plain_form) + TAG_BYTES
        container = ContainerKind.DATA if kind is BlobKind.DATA else ContainerKind.TREE
        while True:
            if self._failure is not None:
                raise self._failure
            key, pack = self._pack(container)
            position = pack.reserve(kind, sealed_bytes, len(data), segments)
            if position is not None:
                break
            self._retire(key, pack)
        pack.write(position, pack.cipher.seal(kind, position, plain_form))
        with self._lock:
            self.statistics.plain_bytes += len(data)
            self.statistics.sealed_bytes += sealed_bytes
            self.statistics.blobs += 1
        return BlobRef(self._run, pack.number, position, sealed_bytes)

    def flush(self) -> None:
        """Finish and put every open pack; afterwards all that was appended is stored.

        :raises StoreError: something could not be put.
        """
        with self._lock:
            open_packs = list(self._current.items())
        for key, pack in open_packs:
            self._retire(key, pack)
        for _ in range(_WAITING_PACKS):
            self._slots.acquire()
        for _ in range(_WAITING_PACKS):
            self._slots.release()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Let go of threads and spool files; what is open is abandoned. Idempotent."""
        self._putter.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for pack in self._current.values():
                pack.file.close()
            self._current.clear()

    def _compressor(self) -> Compressor:
        found: Compressor | None = getattr(self._local, "compressor", None)
        if found is None:
            found = self._local.compressor = Compressor(self._level)
        return found

    def _pack(self, kind: ContainerKind) -> tuple[tuple[ContainerKind, int], _OpenPack]:
        with self._lock:
            key = (kind, threading.get_ident() if kind in self._own else 0)
            pack = self._current.get(key)
            if pack is None:
                # An abandoned number is never used again: a retry of this process would repeat a name.
                pack = _OpenPack(self._run, self._run_key, self._next_number, kind, self._spool_path)
                self._next_number += 1
                self._current[key] = pack
            return key, pack

    def _retire(self, key: tuple[ContainerKind, int], pack: _OpenPack) -> None:
        with self._lock:
            if self._current.get(key) is not pack:
                return  # another worker was first
            del self._current[key]
            self._own.add(key[0])
        self._slots.acquire()
        self._putter.submit(self._put, pack).add_done_callback(self._done)

    def _put(self, pack: _OpenPack) -> None:
        with pack.file:
            size, sha256 = pack.finish(self._compressor())
            ref = PackRef(self._run, pack.number, size, sha256.hex())
            self._store.put(str(ref.name(self._source)), pack.file, size=size, sha256=sha256)
        with self._lock:
            self.refs.append(ref)
        self._on_put(ref)

    def _done(self, future: Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failure = self._failure or error
        self._slots.release()
