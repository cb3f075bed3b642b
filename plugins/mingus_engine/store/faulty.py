"""A store that fails as told, for tests: at the nth call that fits, always the same way.

Rules are tried in order; the first that fits and is due acts. What a rule damages is damaged silently, as a disk or a
server would: ``put`` then reports success for other bytes, ``get`` returns them, a listing lacks an object.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from mingus_engine.errors import MingusError, StoreUnreachable
from mingus_engine.store import bodies
from mingus_engine.store.base import Body, Features, ObjectInfo, Store
from mingus_engine.store.wrapping import StoreWrapper

_Result = TypeVar("_Result")

Operation = Literal["put", "get", "get_range", "stat", "list", "delete", "now", "free_bytes"]
Action = Literal["raise", "raise_after", "truncate", "flip", "delay", "duplicate", "drop", "break", "die", "die_after"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    :param operation: which calls it is about.
    :param action: ``raise`` before anything is done, ``raise_after`` it was done (the answer was lost), ``truncate``
        or ``flip`` a bit of the bytes put or got, ``delay``, ``duplicate`` or ``drop`` a listed object, ``break`` a
        listing after it, ``die`` (SIGKILL to this process) before the call or ``die_after`` it.
    :param name: shell pattern of the object's name (listings: of the prefix).
    :param nth: the first fitting call that fails, from 1.
    :param times: how many from then on; ``None`` = all.
    :param error: what ``raise``, ``raise_after`` and ``break`` raise; default :class:`StoreUnreachable`.
    :param position: which byte is flipped, at which one the bytes end, which listed object; negative from the end.
    :param delay_s: how long ``delay`` waits, in seconds.
    """

    operation: Operation
    action: Action
    name: str = "*"
    nth: int = 1
    times: int | None = 1
    error: Callable[[], MingusError] | None = None
    position: int = -1
    delay_s: float = 0.0

    def raised(self, operation: str, name: str) -> MingusError:
        """The error to raise, a new one each time."""
        return self.error() if self.error else StoreUnreachable(f"injected: {operation} {name} failed")


@dataclass
class Call:
    """One call that reached the store, for tests that count them."""

    operation: str
    name: str


class FaultyStore(StoreWrapper):
    """A store that does what the faults say and otherwise passes every call on.

    :param die: ends this process; replaced in tests of this class itself.
    """

    def __init__(
        self,
        inner: Store,
        faults: Sequence[Fault] = (),
        *,
        sleep: Callable[[float], object] = time.sleep,
        die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL),
    ) -> None:
        super().__init__(inner)
        self._faults = list(faults)
        self._seen = [0] * len(self._faults)
        self._lock = threading.Lock()
        self._sleep = sleep
        self._die = die
        self.calls: list[Call] = []

    @property
    def features(self) -> Features:
        """Objects are not to be read in place: no fault would be met."""
        return Features(self.inner.features.put_proves_content, durable_local_path=False)

    def add(self, fault: Fault) -> None:
        """One more fault; its calls are counted from now."""
        with self._lock:
            self._faults.append(fault)
            self._seen.append(0)

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        fault = self._due("put", name)
        if fault is not None and fault.action in {"truncate", "flip"}:
            # The store inside is told the damaged bytes' own size and digest: it must take them for good.
            damaged = _damaged(b"".join(bodies.pieces(body, 0, size)), fault)
            self.inner.put(name, damaged, size=len(damaged), sha256=hashlib.sha256(damaged).digest())
            return
        self._around(fault, "put", name, lambda: self.inner.put(name, body, size=size, sha256=sha256))

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        fault = self._due("get", name)
        data = self._around(fault, "get", name, lambda: self.inner.get(name, max_bytes=max_bytes))
        return _damaged(data, fault)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        fault = self._due("get_range", name)
        data = self._around(fault, "get_range", name, lambda: self.inner.get_range(name, offset, length))
        return _damaged(data, fault)

    def stat(self, name: str) -> ObjectInfo:
        return self._around(self._due("stat", name), "stat", name, lambda: self.inner.stat(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        fault = self._due("list", prefix)
        entries = self._around(fault, "list", prefix, lambda: list(self.inner.list(prefix)))
        if fault is None or fault.action not in {"duplicate", "drop", "break"} or not entries:
            return iter(entries)
        position = fault.position % len(entries)
        if fault.action == "break":
            return _broken(entries[: position + 1], fault.raised("list", prefix))
        if fault.action == "duplicate":
            entries.insert(position, entries[position])
        else:
            del entries[position]
        return iter(entries)

    def delete(self, name: str) -> None:
        self._around(self._due("delete", name), "delete", name, lambda: self.inner.delete(name))

    def now(self) -> datetime:
        return self._around(self._due("now", ""), "now", "", self.inner.now)

    def free_bytes(self) -> int | None:
        return self._around(self._due("free_bytes", ""), "free_bytes", "", self.inner.free_bytes)

    def _due(self, operation: Operation, name: str) -> Fault | None:
        """The fault of this call; every fitting rule counts it."""
        with self._lock:
            self.calls.append(Call(operation, name))
            due = None
            for index, fault in enumerate(self._faults):
                if fault.operation != operation or not fnmatch.fnmatchcase(name, fault.name):
                    continue
                self._seen[index] += 1
                late = self._seen[index] - fault.nth
                if due is None and late >= 0 and (fault.times is None or late < fault.times):
                    due = fault
            return due

    def _around(self, fault: Fault | None, operation: str, name: str, call: Callable[[], _Result]) -> _Result:
        action = fault.action if fault else None
        if fault is not None and action == "raise":
            raise fault.raised(operation, name)
        if fault is not None and action == "delay":
            self._sleep(fault.delay_s)
        if action == "die":
            self._die()
        result = call()
        if action == "die_after":
            self._die()
        if fault is not None and action == "raise_after":
            raise fault.raised(operation, name)
        return result


def _damaged(data: bytes, fault: Fault | None) -> bytes:
    if fault is None or not data:
        return data
    if fault.action == "truncate":
        return data[: fault.position]
    if fault.action == "flip":
        changed = bytearray(data)
        changed[fault.position] ^= 1
        return bytes(changed)
    return data


def _broken(entries: Sequence[ObjectInfo], error: MingusError) -> Iterator[ObjectInfo]:
    yield from entries
    raise error
