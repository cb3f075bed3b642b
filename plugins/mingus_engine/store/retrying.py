"""Tries again what failed for a passing reason: exponential backoff with full jitter.

Only errors that are ``transient`` are tried again; whatever else happens is the caller's at once. Every call of a store
is idempotent, so that a try whose answer was lost may simply be made again.
Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from mingus_engine.errors import Cancelled, MingusError
from mingus_engine.store.base import Body, ObjectInfo, Store, checked_prefix
from mingus_engine.store.wrapping import StoreWrapper

_Result = TypeVar("_Result")

# The wait before the second try is up to this long, then twice, four times, … as long.
BASE_S = 0.5
# A service that restarts is back within a minute; waiting longer between tries only delays noticing it.
WAIT_MAX_S = 30.0
# After this a job fails and its task is tried again by the scheduler, which people can see.
DEADLINE_S = 600.0


class RetryingStore(StoreWrapper):
    """A store whose calls are tried up to *attempts* times.

    :param deadline_s: no try begins later than this after the first.
    :param cancel: when set, a wait ends with :class:`Cancelled`.
    :param sleep: waits so many seconds; returns whether it was cancelled. Default: waits on *cancel*.
    :param now: seconds of a clock that only goes forward.
    :param chance: a number in ``[0, 1)``.
    """

    def __init__(
        self,
        inner: Store,
        *,
        attempts: int,
        deadline_s: float = DEADLINE_S,
        cancel: threading.Event | None = None,
        sleep: Callable[[float], bool] | None = None,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        self._attempts = attempts
        self._deadline_s = deadline_s
        self._sleep = sleep or (cancel or threading.Event()).wait
        self._now = now
        self._chance = chance

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        self._try(lambda: self.inner.put(name, body, size=size, sha256=sha256))

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        return self._try(lambda: self.inner.get(name, max_bytes=max_bytes))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._try(lambda: self.inner.get_range(name, offset, length))

    def stat(self, name: str) -> ObjectInfo:
        return self._try(lambda: self.inner.stat(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """A listing that breaks off is begun again, and goes on after the last name that was given out."""
        checked_prefix(prefix)
        last = failed_at = ""
        tries = _Tries(self)
        while True:
            try:
                for entry in self.inner.list(prefix):
                    if entry.name > last:
                        last = entry.name
                        yield entry
                return
            except MingusError as error:
                if last != failed_at:  # it got on since the last failure: a long listing is many calls, not one
                    tries, failed_at = _Tries(self), last
                tries.failed(error)

    def delete(self, name: str) -> None:
        self._try(lambda: self.inner.delete(name))

    def now(self) -> datetime:
        return self._try(self.inner.now)

    def free_bytes(self) -> int | None:
        return self._try(self.inner.free_bytes)

    def _try(self, call: Callable[[], _Result]) -> _Result:
        tries = _Tries(self)
        while True:
            try:
                return call()
            except MingusError as error:
                tries.failed(error)


class _Tries:
    """The tries of one call."""

    def __init__(self, store: RetryingStore) -> None:
        self._store = store
        self._began = store._now()
        self._failures = 0

    def failed(self, error: MingusError) -> None:
        """Wait for the next try.

        :raises MingusError: *error*, when there is none; told how often it was tried.
        :raises Cancelled: the job was cancelled.
        """
        store = self._store
        if not error.transient or isinstance(error, Cancelled):
            raise error
        self._failures += 1
        wait = store._chance() * min(WAIT_MAX_S, BASE_S * 2 ** (self._failures - 1))
        elapsed = store._now() - self._began
        if self._failures >= store._attempts or elapsed + wait > store._deadline_s:
            if self._failures == 1:
                raise error
            raise type(error)(
                f"{error.message} (tried {self._failures} times in {elapsed:.1f} s)", hint=error.hint
            ) from error
        if store._sleep(wait):
            raise Cancelled(f"the job was cancelled while it waited to try again: {error.message}") from error
