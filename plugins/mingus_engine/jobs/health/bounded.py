"""Many looks at once, each for a bounded time: what hangs is left behind and does not stop the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from mingus_engine.errors import Cancelled

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_POLL_S = 0.2


class TimedOut(Exception):
    """No answer within the time."""


class Looks(Generic[K, V]):
    """Runs looks in daemon threads. One that hangs keeps its thread, which ends with the process; another thread takes
    its place, so at most as many threads as looks are made.
    """

    def __init__(self, looks: Mapping[K, Callable[[], V]], *, workers: int, timeout_s: float) -> None:
        self._waiting: queue.SimpleQueue[tuple[K, Callable[[], V]]] = queue.SimpleQueue()
        for item in looks.items():
            self._waiting.put(item)
        self._keys, self._timeout_s = list(looks), timeout_s
        self._workers = min(workers, len(self._keys))
        self._lock = threading.Lock()
        self._running: dict[K, float] = {}
        self._outcomes: dict[K, V | Exception] = {}

    def run(self, cancel: threading.Event) -> dict[K, V | Exception]:
        """What each look returned or raised, in the order of the looks; :class:`TimedOut` where it did not end in time.

        :raises Cancelled: *cancel* was set.
        """
        for _ in range(self._workers):
            self._start()
        while True:
            with self._lock:
                now = time.monotonic()
                late = [key for key, since in self._running.items() if now - since > self._timeout_s]
                for key in late:
                    del self._running[key]
                    self._outcomes[key] = TimedOut(f"no answer within {self._timeout_s:.0f} s")
                if len(self._outcomes) == len(self._keys):
                    return {key: self._outcomes[key] for key in self._keys}
            for _ in late:
                self._start()
            if cancel.wait(_POLL_S if late or self._running else _POLL_S / 10):
                raise Cancelled("the health check was stopped")

    def _start(self) -> None:
        threading.Thread(target=self._work, name="mingus-health", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                key, look = self._waiting.get_nowait()
            except queue.Empty:
                return
            with self._lock:
                self._running[key] = time.monotonic()
            outcome: V | Exception
            try:
                outcome = look()
            except Exception as error:  # noqa: BLE001 - handed to who asked
                outcome = error
            with self._lock:
                if self._running.pop(key, None) is None:
                    return  # it was given up, and another thread took this one's place
                self._outcomes[key] = outcome
