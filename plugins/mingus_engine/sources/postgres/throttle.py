"""A limit of bytes per second over all threads."""

from __future__ import annotations

import threading
import time


class Throttle:
    """Spreads what is taken evenly; thread-safe. A rate of 0 does not limit.

    :param cancel: ends every wait.
    """

    def __init__(self, bytes_per_s: int, cancel: threading.Event) -> None:
        self._rate = bytes_per_s
        self._cancel = cancel
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until *count* bytes may be read."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(self._free_at, now)
            self._free_at = begin + count / self._rate
        if begin > now:
            self._cancel.wait(begin - now)
