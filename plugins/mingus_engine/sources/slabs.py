"""Buffers for a stream: a bounded pool of slabs that travel to the workers and come back.

Small files share a slab, so that a thousand of them do not hold a thousand slabs; a slab comes back when every item
on it was released.
"""

from __future__ import annotations

import threading

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import Cancelled
from mingus_engine.sources.base import SourceFile
from mingus_engine.sources.buffers import allocate_slab

_POLL_S = 0.5


class Slab:
    """One buffer. ``used`` bytes at its beginning are given to items; the filler holds one reference."""

    __slots__ = ("_lock", "_pool", "_references", "data", "used")

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._references = 0
        self.data = allocate_slab()
        self.used = 0

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return SLAB_BYTES - self.used

    def hold(self) -> None:
        """One reference more."""
        with self._lock:
            self._references += 1

    def drop(self) -> None:
        """One reference less; the last one gives the slab back."""
        with self._lock:
            self._references -= 1
            last = not self._references
        if last:
            self._pool.give_back(self)


class SlabPool:
    """At most *count* slabs, made when first needed."""

    def __init__(self, count: int, cancel: threading.Event) -> None:
        self._left = count
        self._cancel = cancel
        self._free: list[Slab] = []
        self._changed = threading.Condition()

    def take(self) -> Slab:
        """An empty slab, held once; waits until one is there.

        :raises Cancelled: while waiting.
        """
        with self._changed:
            while not self._free and not self._left:
                if self._cancel.is_set():
                    raise Cancelled("the backup was cancelled")
                self._changed.wait(_POLL_S)
            if self._free:
                slab = self._free.pop()
            else:
                self._left -= 1
                slab = Slab(self)
        slab.used = 0
        slab.hold()
        return slab

    def give_back(self, slab: Slab) -> None:
        """For :class:`Slab`."""
        with self._changed:
            self._free.append(slab)
            self._changed.notify()


class SlabItem:
    """An item whose bytes are there already; see ``sources.base.Item``."""

    __slots__ = ("_data", "_slab", "file", "last", "length", "offset")

    def __init__(self, file: SourceFile, offset: int, data: memoryview, slab: Slab | None, *, last: bool) -> None:
        self.file = file
        self.offset = offset
        self.length = len(data)
        self.last = last
        self._data = data
        self._slab = slab
        if slab is not None:
            slab.hold()

    def read(self, scratch: memoryview) -> memoryview | None:  # noqa: ARG002 - the contract's signature
        """The bytes; valid until ``release``."""
        return self._data

    def release(self) -> None:
        """Give the memory back to the stream; idempotent."""
        slab, self._slab = self._slab, None
        if slab is not None:
            self._data = self._data[:0]
            slab.drop()
