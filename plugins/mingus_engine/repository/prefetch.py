"""Fetching ranges of objects before they are asked for: what makes reading from a distant store fast.

A request to an object store takes some 30 ms however little it fetches, so whoever knows what it will read next says
so (``expect``): neighbours are merged into one request, several requests are under way at a time. Nothing depends on
it: what was not expected, does not fit into the bound, or failed, is fetched when it is taken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from mingus_engine import bounds
from mingus_engine.errors import MingusError
from mingus_engine.store.base import Store


class Range(NamedTuple):
    """Bytes ``start`` to ``end`` of the object ``name``."""

    name: str
    start: int
    end: int


@dataclass
class _Fetch:
    """One request. ``wanted``: how many expected ranges of it were not taken yet."""

    range: Range
    future: Future[bytes]
    wanted: int


class Prefetcher:
    """May be used by several threads. Does nothing ahead where objects are files of this machine.

    :ivar batch_bytes: how much of a large file is best planned together.
    """

    def __init__(
        self,
        store: Store,
        *,
        requests: int = bounds.PREFETCH_REQUESTS,
        max_bytes: int = bounds.PREFETCH_MAX_BYTES,
    ) -> None:
        self._store = store
        self._enabled = not store.features.durable_local_path
        self._requests, self._max_bytes = requests, max_bytes
        self.batch_bytes = bounds.PREFETCH_BATCH_BYTES if self._enabled else bounds.FETCH_BATCH_BYTES
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._fetches: dict[str, list[_Fetch]] = {}

    def expect(self, ranges: Iterable[Range]) -> None:
        """These will be taken soon, each once. Never waits."""
        if not self._enabled:
            return
        for merged, wanted in _merged(ranges):
            size = merged.end - merged.start
            with self._lock:
                if self._held_bytes + size > self._max_bytes:
                    return
                self._held_bytes += size
                self._pool = self._pool or ThreadPoolExecutor(self._requests, thread_name_prefix="mingus-prefetch")
                future = self._pool.submit(self._store.get_range, merged.name, merged.start, size)
                self._fetches.setdefault(merged.name, []).append(_Fetch(merged, future, wanted))

    def take(self, name: str, start: int, length: int) -> memoryview:
        """The bytes, fetched ahead or now. :raises StoreError: :raises Damaged: the object is too short."""
        fetch = self._find(name, start, start + length) if self._enabled else None
        if fetch is not None:
            try:
                return memoryview(fetch.future.result())[start - fetch.range.start :][:length]
            except MingusError:
                pass  # a neighbour's trouble is none of this range's: ask for it alone
        return memoryview(self._store.get_range(name, start, length))

    def _find(self, name: str, start: int, end: int) -> _Fetch | None:
        with self._lock:
            fetches = self._fetches.get(name, [])
            for i, fetch in enumerate(fetches):
                if fetch.range.start <= start and end <= fetch.range.end:
                    fetch.wanted -= 1
                    if not fetch.wanted:
                        del fetches[i]
                        self._held_bytes -= fetch.range.end - fetch.range.start
                        if not fetches:
                            del self._fetches[name]
                    return fetch
        return None


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
