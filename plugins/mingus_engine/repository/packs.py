"""Writing packs: workers share one open pack until it is full, then each has its own.

Small runs so make few objects, big runs keep locality (DESIGN §3). A full pack is finished and put by a thread of its
own, so that workers go on while a store is slow. There are never more data packs on the way, open or waiting, than
workers (two with one worker): that bounds the spool, and what a killed run stores again.
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
    OVERHEAD_BYTES,
    PACK_MAGIC,
    BlobKind,
    Cipher,
    ContainerKind,
    Header,
)  # fmt: skip
from mingus_engine.codec.directories import BlobEntry, DirectoryBuilder, Segment, directory_bytes
from mingus_engine.codec.entries import BlobRef
from mingus_engine.codec.sealing import SALT_BYTES, TAG_BYTES
from mingus_engine.errors import StoreError
from mingus_engine.repository import spool
from mingus_engine.repository.names import PackName
from mingus_engine.store.base import Store
from mingus_engine.store.unnamed import open_spool

# What blobs and the plain directory may take, so that the finished pack is within its bound.
_CONTENT_MAX_BYTES = bounds.PACK_MAX_BYTES - OVERHEAD_BYTES - LENGTH.size
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
        self.file = open_spool(spool_path)
        spool.write_at(self.file, 0, header.encode())
        self._size = HEADER_BYTES
        self._directory = DirectoryBuilder()
        self._writing = 0
        self._closed = False
        self._broken = False
        self._condition = threading.Condition()

    def append(self, kind: BlobKind, plain_form: bytes, plain_bytes: int, segments: Sequence[Segment]) -> int | None:
        """Seal a blob and write it; its position, ``None`` when the pack takes no more.

        :raises StoreFull: no space in the spool; the pack will never be put.
        """
        position = self._reserve(kind, len(plain_form) + TAG_BYTES, plain_bytes, segments)
        if position is None:
            return None
        written = False
        try:
            spool.write_at(self.file, position, self.cipher.seal(kind, position, plain_form))
            written = True
        finally:
            with self._condition:
                # The directory names this place: a pack with a hole there would be believed by a later run.
                self._broken = self._broken or not written
                self._writing -= 1
                self._condition.notify_all()
        return position

    def finish(self, compressor: Compressor) -> tuple[int, bytes]:
        """Wait for the writers, append the directory; size and SHA-256 of the whole.

        :raises StoreError: a blob of it could not be written.
        """
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: self._writing == 0)
        if self._broken:
            raise StoreError(f"pack {self.number} lacks a blob that could not be written to the spool")
        sealed = self.cipher.seal(BlobKind.DIRECTORY, self._size, compressor.plain_form(self._directory.encode()))
        spool.write_at(self.file, self._size, sealed + LENGTH.pack(len(sealed)))
        size = self._size + len(sealed) + LENGTH.size
        return size, spool.sha256_of(self.file, size)

    def _reserve(self, kind: BlobKind, sealed_bytes: int, plain_bytes: int, segments: Sequence[Segment]) -> int | None:
        entry_bytes = directory_bytes(segments)
        with self._condition:
            directory = self._directory
            if self._closed or (
                len(directory)
                and (
                    self._size + sealed_bytes + directory.encoded_bytes + entry_bytes > _CONTENT_MAX_BYTES
                    or len(directory) >= bounds.PACK_MAX_BLOBS
                    or directory.encoded_bytes > _DIRECTORY_FULL_BYTES
                )
            ):
                # Closed for good, also for a smaller blob of a worker that still holds this pack: the directory will
                # stand where it would, sealed with the same nonce.
                self._closed = True
                return None
            position = self._size
            self._size += sealed_bytes
            directory.add(BlobEntry(kind, position, sealed_bytes, plain_bytes, tuple(segments)))
            self._writing += 1
            return position


@dataclass
class PackStatistics:
    """What a run stored, in bytes; guarded by the writer's lock."""

    plain_bytes: int = 0
    sealed_bytes: int = 0
    blobs: int = 0


class PackWriter:
    """Appends blobs to the packs of one run. ``append`` may be called by any number of threads.

    :param level: zstd level. :param on_put: told of each pack that is in the store.
    :param workers: how many threads append.
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
        workers: int = bounds.WORKERS_DEFAULT,
        on_put: Callable[[PackRef], None] = lambda _: None,
    ) -> None:
        self._store, self._source, self._run, self._run_key = store, source, run, run_key
        self._spool_path, self._level, self._on_put = spool_path, level, on_put
        self._lock = threading.Lock()
        self._local = threading.local()
        self._current: dict[tuple[ContainerKind, int], _OpenPack] = {}
        self._own: set[ContainerKind] = set()
        self._next_number = 0
        self._waiting_max = min(_WAITING_PACKS, max(1, workers - 1))
        self._slots = threading.BoundedSemaphore(self._waiting_max)
        self._workers, self._waiting = workers, 0
        self._putter = ThreadPoolExecutor(1, thread_name_prefix="mingus-put")
        self._failure: BaseException | None = None
        self.refs: list[PackRef] = []
        self.statistics = PackStatistics()

    def append(
        self, kind: BlobKind, data: bytes | memoryview, segments: Sequence[Segment] = (), *, compress: bool = True
    ) -> BlobRef:
        """Compress, seal and append *data* (at most 4 MiB); where it lies.

        :param compress: not for data that is known not to become smaller.
        :raises StoreError: an earlier pack could not be put, or the spool is full.
        """
        plain_form = self._compressor().plain_form(data, compress=compress)
        sealed_bytes = len(plain_form) + TAG_BYTES
        container = ContainerKind.DATA if kind is BlobKind.DATA else ContainerKind.TREE
        while True:
            if self._failure is not None:
                raise self._failure
            key, pack = self._pack(container)
            position = pack.append(kind, plain_form, len(data), segments)
            if position is not None:
                break
            self._retire(key, pack)
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
        for _ in range(self._waiting_max):
            self._slots.acquire()
        for _ in range(self._waiting_max):
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
                others = [(k, p) for k, p in self._current.items() if k[0] == kind]
                if others and len(others) + self._waiting >= self._workers:
                    return others[0]
                # An abandoned number is never used again: a retry of this process would repeat a name.
                pack = _OpenPack(self._run, self._run_key, self._next_number, kind, self._spool_path)
                self._next_number += 1
                self._current[key] = pack
            return key, pack

    def _retire(self, key: tuple[ContainerKind, int], pack: _OpenPack) -> None:
        self._slots.acquire()  # before the pack makes room for a new one
        with self._lock:
            if self._current.get(key) is not pack:
                self._slots.release()
                return  # another worker was first
            del self._current[key]
            self._own.add(key[0])
            self._waiting += 1
        self._putter.submit(self._put, pack).add_done_callback(lambda future: self._done(future, pack))

    def _put(self, pack: _OpenPack) -> None:
        with pack.file:
            size, sha256 = pack.finish(self._compressor())
            ref = PackRef(self._run, pack.number, size, sha256.hex())
            self._store.put(str(ref.name(self._source)), pack.file, size=size, sha256=sha256)
        with self._lock:
            self.refs.append(ref)
        self._on_put(ref)

    def _done(self, future: Future[None], pack: _OpenPack) -> None:
        pack.file.close()
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failure = self._failure or error
        with self._lock:
            self._waiting -= 1
        self._slots.release()
