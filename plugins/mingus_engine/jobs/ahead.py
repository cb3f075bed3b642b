"""Reading ahead: a thread opens and checks the next bytes of a file while those before are worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.2


def ahead(make: Callable[[], Generator[T, None, None]], items: int) -> Generator[T, None, None]:
    """What ``make()`` gives, made by a thread of its own that is at most *items* ahead.

    The thread ends when this is exhausted or closed. What fails there is raised here.
    """
    made: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(items)
    gone = threading.Event()

    def put(whole: bool, item: T | BaseException | None) -> bool:
        while not gone.is_set():
            try:
                made.put((whole, item), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            with closing(make()) as source:
                for item in source:
                    if not put(True, item):
                        return
        except BaseException as error:  # noqa: BLE001 - raised by whoever reads
            put(False, error)
        else:
            put(False, None)

    thread = threading.Thread(target=work, name="mingus-ahead")
    thread.start()
    try:
        while True:
            whole, item = made.get()
            if isinstance(item, BaseException) and not whole:
                raise item
            if not whole:
                return
            yield item  # type: ignore[misc]
    finally:
        gone.set()
        thread.join()
