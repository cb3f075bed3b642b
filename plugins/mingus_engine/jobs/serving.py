"""What services have in common: they end in order when they are asked to, and wait out what passes by itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mingus_engine.errors import MingusError
from mingus_engine.jobs.context import JobContext

_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 60.0


class Pauses:
    """Pauses that grow from failure to failure, until something went well."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def pause(self, error: MingusError, asked: threading.Event, context: JobContext) -> None:
        """Say what failed, and wait; ends early when *asked* to end."""
        longest = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2.0**self._in_a_row)
        self._in_a_row += 1
        pause = longest * (0.5 + random.random() / 2)  # noqa: S311 - only so that many do not come back at once
        context.log(f"{error.message}; again in {pause:.1f} s")
        asked.wait(pause)

    def over(self) -> None:
        """It works again."""
        self._in_a_row = 0


@contextmanager
def cut_off_after(cancel: threading.Event, seconds: float) -> Iterator[threading.Event]:
    """An event that is set *seconds* after *cancel*: what is under way then may still finish."""
    cut, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if cancel.is_set():
                if not done.wait(seconds):
                    cut.set()
                return

    watcher = threading.Thread(target=watch, name="mingus-stop", daemon=True)
    watcher.start()
    try:
        yield cut
    finally:
        done.set()
        watcher.join()
