"""A limit on the bytes per second that a store sends and fetches together, shared by all threads.

A token bucket that goes into debt: who moves bytes pays for them and waits until the debt is gone, so that the average
holds whatever the sizes. Bodies are paid for as they are read to be sent, large objects are fetched in ranges: a limit
of 1 MB/s never means a burst of a whole pack.

Not counted: requests themselves, listings, and what a store reads back to prove a put. Counted twice: a body that an
unencrypted connection signs (the client library reads it once for that).
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import cast

from mingus_engine import bounds
from mingus_engine.errors import Cancelled, Damaged
from mingus_engine.store import bodies
from mingus_engine.store.base import Body, Features, Store
from mingus_engine.store.wrapping import StoreWrapper

# What is moved at once is a quarter of a second's worth, within these bounds: smaller costs requests and CPU, larger
# is a burst that others on the line feel.
_STEP_MIN_BYTES = 64 * bounds.KIB
_STEP_MAX_BYTES = 4 * bounds.MIB


class Bucket:
    """Tokens (bytes) that flow in at a fixed rate; at most a quarter of a second's worth is saved up.

    :param sleep: waits so many seconds; returns whether it was cancelled.
    :param now: seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        bytes_per_s: int,
        *,
        sleep: Callable[[float], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if bytes_per_s < 1:
            raise ValueError(f"a bandwidth limit must be at least 1 byte per second, not {bytes_per_s}")
        self._rate = bytes_per_s
        self._sleep = sleep
        self._now = now
        self._lock = threading.Lock()
        self._free_at = now()

    @property
    def step_bytes(self) -> int:
        """How much should be moved at once."""
        return min(_STEP_MAX_BYTES, max(_STEP_MIN_BYTES, self._rate // 4))

    def pay(self, count: int) -> None:
        """Pay for *count* bytes and wait until they were due.

        :raises Cancelled: the job was cancelled while waiting.
        """
        with self._lock:
            # Each payer queues behind those before: the lock is held for the sum, not for the wait.
            present = self._now()
            self._free_at = max(self._free_at, present - 0.25) + count / self._rate
            wait = self._free_at - present
        if wait > 0 and self._sleep(wait):
            raise Cancelled("the job was cancelled while it waited for bandwidth")


class PacedBody(io.RawIOBase):
    """A body whose bytes are paid for when they are read to be sent (:class:`mingus_engine.store.bodies.Paced`)."""

    def __init__(self, body: Body, bucket: Bucket) -> None:
        super().__init__()
        self._body = body
        self._bucket = bucket
        self._lock = threading.Lock()

    def peek_at(self, offset: int, length: int) -> bytes:
        with self._lock:  # a file in memory has one position for all readers
            return bytes(bodies.peek_at(self._body, offset, length))

    def take_at(self, offset: int, length: int) -> bytes:
        data = self.peek_at(offset, min(length, self._bucket.step_bytes))
        self._bucket.pay(len(data))
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only to tell the size: readers of this body bring their own position."""
        if (offset, whence) != (0, io.SEEK_END):
            raise io.UnsupportedOperation("a paced body has no position")
        if isinstance(self._body, bytes | bytearray | memoryview):
            return memoryview(self._body).nbytes
        return self._body.seek(0, io.SEEK_END)


class ThrottledStore(StoreWrapper):
    """A store whose transfers keep to *bytes_per_s*.

    :param cancel: when set, a wait ends with :class:`Cancelled`.
    """

    def __init__(
        self,
        inner: Store,
        bytes_per_s: int,
        *,
        cancel: threading.Event | None = None,
        sleep: Callable[[float], bool] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._bucket = Bucket(bytes_per_s, sleep=sleep or (cancel or threading.Event()).wait, now=now)

    @property
    def features(self) -> Features:
        """Objects are not to be read in place: that would go round the limit."""
        return Features(self.inner.features.put_proves_content, durable_local_path=False)

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        # A PacedBody is what bodies.py reads; to the type checker it is one more open file.
        self.inner.put(name, cast(Body, PacedBody(body, self._bucket)), size=size, sha256=sha256)

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        size = self.inner.stat(name).size
        if max_bytes is not None and size > max_bytes:
            raise Damaged(f"object {name} in {self.location} has {size} bytes, at most {max_bytes} are expected")
        return self.get_range(name, 0, size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        step = self._bucket.step_bytes
        if length <= step:
            data = self.inner.get_range(name, offset, length)
            self._bucket.pay(length)
            return data
        parts = []
        for start in range(offset, offset + length, step):
            parts.append(self.inner.get_range(name, start, min(step, offset + length - start)))
            self._bucket.pay(len(parts[-1]))
        return b"".join(parts)
