"""Worker threads over a bounded queue: what moves the bytes of a backup, and of a restore.

Hashing, zstd, AES and file I/O release the GIL, so threads in one process are enough (PERF.md).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from mingus_engine.errors import Cancelled

_POLL_S = 0.2

W = TypeVar("W")


class Crew(Generic[W]):
    """Runs pieces of work in several threads until the first failure, which ends all and is raised.

    :param make_worker: called once in each thread; gives what is called with each piece of work. Buffers and the like
        belong to the thread.
    :param release: called once for every piece of work that was taken from the iterator, done or not; never raises.
    """

    def __init__(
        self,
        name: str,
        make_worker: Callable[[], Callable[[W], None]],
        *,
        cancel: threading.Event,
        queue_items: int,
        release: Callable[[W], None] = lambda _: None,
    ) -> None:
        self._name, self._make_worker, self._cancel, self._release = name, make_worker, cancel, release
        # A list of one piece of work, or an empty one, which sends one thread home.
        self._queue: queue.Queue[list[W]] = queue.Queue(queue_items)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(self, works: Iterable[W], workers: int) -> None:
        """All of *works*, by *workers* threads; once.

        :raises BaseException: the first failure of *works* or of a worker. :raises Cancelled: asked to stop.
        """
        threads = [threading.Thread(target=self._work, name=f"mingus-{self._name}-{i}") for i in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for work in works:
                self._submit(work)
                if self._stop.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - threads must end before it goes on
            self._fail(error)
        finally:
            for _ in threads:
                self._queue.put([])  # there is room: a worker takes work out whatever happened
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _submit(self, work: W) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put([work], timeout=_POLL_S)
                return
            except queue.Full:
                if self._cancel.is_set():
                    self._fail(Cancelled("the job was cancelled; nothing was committed"))
        self._release(work)

    def _work(self) -> None:
        do: Callable[[W], None] | None = None
        try:
            do = self._make_worker()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
            self._fail(error)
        while taken := self._queue.get():
            try:
                if do is not None and not self._stop.is_set():
                    do(taken[0])
            except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
                self._fail(error)
            finally:
                self._release(taken[0])

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._stop.set()
