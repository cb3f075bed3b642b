"""What the demo says: lines with the time since the start, and one live line on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Console:
    """Writes to standard output; safe to use from several threads."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._live = ""
        self._terminal = sys.stdout.isatty()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._start

    def say(self, text: str = "") -> None:
        """A line that stays, with the time in front."""
        self._write(f"[{self.elapsed_s:5.1f} s] {text}")

    def plain(self, text: str) -> None:
        """Text that stays, as it is."""
        self._write(text)

    def live(self, text: str) -> None:
        """A line that the next one replaces; left out where output is no terminal."""
        if not self._terminal:
            return
        with self._lock:
            self._live = f"[{self.elapsed_s:5.1f} s] {text}"[:150]
            sys.stdout.write(f"\r\033[2K{self._live}")
            sys.stdout.flush()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say when a phase began and how long it took."""
        begin = time.monotonic()
        self.say(f"{name} …")
        yield
        self.say(f"{name}: done in {time.monotonic() - begin:.1f} s")

    def _write(self, text: str) -> None:
        with self._lock:
            sys.stdout.write(f"\r\033[2K{text}\n{self._live}" if self._live else f"{text}\n")
            sys.stdout.flush()

    def end_live(self) -> None:
        """Take the live line away."""
        if self._live:
            with self._lock:
                sys.stdout.write("\r\033[2K")
                self._live = ""
                sys.stdout.flush()
