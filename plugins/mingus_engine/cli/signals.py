"""Ctrl-C, SIGTERM and a lost terminal: the first asks the job to stop and clean up, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130
_SAY_S = 0.5
_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping(cancel: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Set *cancel* at the first signal within the block, exit at the second.

    Signals are obeyed by a thread of their own, which the interpreter's C handler wakes through a pipe. In the main
    thread, a handler could wait for a lock that this very thread holds (the one inside *cancel* while it waits for
    bandwidth), and one that comes just before a system call would not run until that call ends. It raises nothing, so
    a clean-up is never cut short. A signal that the caller ignores (``nohup``) stays ignored.
    """
    received, wake = os.pipe()
    os.set_blocking(wake, False)

    def obey() -> None:
        with open(received, "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            while number := pipe.read(1):
                if number[0] not in _ASKS_TO_STOP:
                    continue
                if cancel.is_set():
                    os._exit(INTERRUPTED)
                text = f"{signal.Signals(number[0]).name}: stopping and cleaning up; once more to exit at once"
                # Said first, for the process may be gone soon; but nobody may read it, and then it blocks.
                saying = threading.Thread(target=say, args=(text,), daemon=True)
                saying.start()
                saying.join(_SAY_S)
                cancel.set()

    threading.Thread(target=obey, name="mingus-signals", daemon=True).start()
    before = {number: signal.getsignal(number) for number in _ASKS_TO_STOP}
    woken = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(wake)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within :func:`stopping`: Ctrl-C raises ``KeyboardInterrupt`` again, so that it ends a prompt."""
    before, woken = signal.signal(signal.SIGINT, signal.default_int_handler), signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, before)
