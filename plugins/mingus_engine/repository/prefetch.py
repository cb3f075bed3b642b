"""Fetching ranges of objects before they are asked for: what makes reading from a distant store fast.

A request to an object store takes some 30 ms however little it fetches, so whoever knows what it will read next says
so (``expect``): neighbours are merged into one request, several requests are under way at a time. What has come waits
in spool files without a name, as it was stored (sealed): memory holds only what is under way. Nothing depends on it:
what was not expected, does not fit into the bound, or failed, is fetched when it is taken.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mingus_engine import bounds
from mingus_engine.errors import MingusError
from mingus_engine.repository import spool
from mingus_engine.store.base import Store
from mingus_engine.store.unnamed import open_spool


class Range(NamedTuple):
    """Bytes ``start`` to ``end`` of the object ``name``."""

    name: str
    start: int
    end: int


@dataclass
class _Spool:
    """A file that holds what several requests brought; it goes when all of that was taken."""

    file: BinaryIO
    end: int = 0
    live: int = 0

    def __post_init__(self) -> None:
        # A reader that was given up half-way, or whose last ranges nobody took, has no end of its own.
        weakref.finalize(self, self.file.close)


@dataclass
class _Fetch:
    """One request. Its future gives the bytes, or nothing where they wait at ``position`` of ``spool``.

    :ivar wanted: how many expected ranges of it were not taken yet. :ivar readers: how many are being taken.
    """

    range: Range
    wanted: int
    spool: _Spool | None
    position: int
    future: Future[bytes | None] = field(init=False)
    readers: int = 0


class Prefetcher:
    """May be used by several threads. Does nothing ahead where objects are files of this machine.

    :param spool_path: where what was fetched waits; ``None`` = in memory.
    :ivar ahead: whether it fetches ahead. :ivar batch_bytes: how much of a large file is best planned together.
    """

    def __init__(
        self,
        store: Store,
        spool_path: Path | None = None,
        *,
        requests: int = bounds.PREFETCH_REQUESTS,
        max_bytes: int = 0,
    ) -> None:
        self._store, self._spool_path = store, spool_path
        self.ahead = not store.features.durable_local_path
        self._requests = requests
        if spool_path is None:
            self._max_bytes, self.batch_bytes = bounds.PREFETCH_MAX_BYTES, bounds.FETCH_BATCH_BYTES
        else:
            self._max_bytes, self.batch_bytes = bounds.PREFETCH_SPOOL_BYTES, bounds.PREFETCH_BATCH_BYTES
        self._max_bytes = max_bytes or self._max_bytes
        if not self.ahead:
            self.batch_bytes = bounds.FETCH_BATCH_BYTES
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._spool: _Spool | None = None
        self._fetches: dict[str, list[_Fetch]] = {}

    def expect(self, ranges: Iterable[Range]) -> None:
        """These will be taken soon, each once. Never waits, never raises."""
        if not self.ahead:
            return
        for merged, wanted in _merged(ranges):
            size = merged.end - merged.start
            with self._lock:
                if self._held_bytes + size > self._max_bytes:
                    return
                try:
                    fetch = _Fetch(merged, wanted, *self._place(size))
                except MingusError:
                    return  # no spool file can be made
                self._held_bytes += size
                self._pool = self._pool or ThreadPoolExecutor(self._requests, thread_name_prefix="mingus-prefetch")
                fetch.future = self._pool.submit(self._fetch, fetch)
                self._fetches.setdefault(merged.name, []).append(fetch)

    def take(self, name: str, start: int, length: int) -> memoryview:
        """The bytes, fetched ahead or now. :raises StoreError: :raises Damaged: the object is too short."""
        found = self.fetched(name, start, length)
        return memoryview(self._store.get_range(name, start, length)) if found is None else found

    def fetched(self, name: str, start: int, length: int) -> memoryview | None:
        """The bytes, where they were fetched ahead; ``None`` = they were not, or that failed."""
        fetch = self._begin(name, start, start + length) if self.ahead else None
        if fetch is None:
            return None
        try:
            return self._fetched(fetch, start - fetch.range.start, length)
        except (MingusError, OSError):
            return None  # maybe a neighbour's trouble, which is none of this range's
        finally:
            self._end(fetch)

    def _place(self, size: int) -> tuple[_Spool | None, int]:
        """Where *size* bytes will wait; the lock is held."""
        if self._spool_path is None:
            return None, 0
        if self._spool is None or self._spool.end >= bounds.PREFETCH_SPOOL_FILE_BYTES:
            self._spool = _Spool(open_spool(self._spool_path))
        position = self._spool.end
        self._spool.end += size
        self._spool.live += 1
        return self._spool, position

    def _fetch(self, fetch: _Fetch) -> bytes | None:
        wanted = fetch.range
        data = self._store.get_range(wanted.name, wanted.start, wanted.end - wanted.start)
        if fetch.spool is None:
            return data
        spool.write_at(fetch.spool.file, fetch.position, data)
        return None

    def _fetched(self, fetch: _Fetch, at: int, length: int) -> memoryview:
        data = fetch.future.result()
        if data is None and fetch.spool is not None:
            data, at = os.pread(fetch.spool.file.fileno(), length, fetch.position + at), 0
        found = memoryview(data or b"")[at : at + length]
        if len(found) != length:
            raise OSError(errno.EIO, "the spool lost what was written")
        return found

    def _begin(self, name: str, start: int, end: int) -> _Fetch | None:
        with self._lock:
            for fetch in self._fetches.get(name, ()):
                if fetch.range.start <= start and end <= fetch.range.end:
                    fetch.readers += 1
                    fetch.wanted -= 1
                    return fetch
        return None

    def _end(self, fetch: _Fetch) -> None:
        """One range of it was taken; after the last one its bytes are given back."""
        with self._lock:
            fetch.readers -= 1
            if fetch.wanted > 0 or fetch.readers or fetch not in (known := self._fetches.get(fetch.range.name, [])):
                return
            known.remove(fetch)
            if not known:
                del self._fetches[fetch.range.name]
            self._held_bytes -= fetch.range.end - fetch.range.start
            if fetch.spool is not None:
                fetch.spool.live -= 1
                if not fetch.spool.live:
                    fetch.spool.file.close()
                    if fetch.spool is self._spool:
                        self._spool = None


def _merged(ranges: Iterable[Range]) -> list[tuple[Range, int]]:
    """*ranges* with near neighbours joined, and how many each stands for."""
    found: list[tuple[Range, int]] = []
    for r in sorted(ranges):
        if found:
            last, wanted = found[-1]
            if (
                r.name == last.name
                and r.start - last.end <= bounds.FETCH_GAP_BYTES
                and max(r.end, last.end) - last.start <= bounds.FETCH_MAX_BYTES
            ):
                found[-1] = Range(r.name, last.start, max(r.end, last.end)), wanted + 1
                continue
        found.append((r, 1))
    return found
