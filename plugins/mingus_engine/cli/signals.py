"""Ctrl-C, SIGTERM and a lost terminal: the first asks the job to stop and clean up, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping(cancel: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Set *cancel* at the first signal within the block, exit at the second.

    The handler runs between two instructions of the main thread, so it raises nothing: a clean-up is never cut short
    by it. A signal that the caller ignores (``nohup``) stays ignored.
    """

    def handle(number: int, _: FrameType | None) -> None:
        if cancel.is_set():
            os._exit(INTERRUPTED)
        cancel.set()
        # From another thread: this one may hold the lock of the stream that is written to.
        text = f"{signal.Signals(number).name}: stopping and cleaning up; once more to exit at once"
        threading.Thread(target=say, args=(text,), daemon=True).start()

    before = {number: signal.getsignal(number) for number in _ASKS_TO_STOP}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within :func:`stopping`: Ctrl-C raises ``KeyboardInterrupt`` again, so that it ends a prompt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
