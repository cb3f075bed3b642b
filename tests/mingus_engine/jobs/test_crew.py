"""Threads over a queue: nobody waits for ever, everything taken is released once, the first failure is raised."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mingus_engine.errors import Cancelled, SourceError, StoreError
from mingus_engine.jobs.crew import Crew

pytestmark = pytest.mark.timeout(30)


class Works:
    """Numbers to be done; counts what was taken and what was released."""

    def __init__(self, count: int, fail_at: int = -1) -> None:
        self.count, self.fail_at = count, fail_at
        self.taken = 0
        self.released: Counter[int] = Counter()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            if number == self.fail_at:
                raise SourceError("the source broke")
            self.taken += 1
            yield number

    def crew(
        self, make_worker: Callable[[], Callable[[int], None]], cancel: threading.Event | None = None
    ) -> Crew[int]:
        return Crew(
            "test", make_worker, cancel=cancel or threading.Event(), queue_items=2,
            release=lambda number: self.released.update([number]),
        )  # fmt: skip

    def all_released_once(self) -> bool:
        return self.released == Counter(range(self.taken))


def test_everything_is_done_once() -> None:
    works, done, lock = Works(100), Counter(), threading.Lock()

    def do(number: int) -> None:
        with lock:
            done.update([number])

    works.crew(lambda: do).run(works, 3)
    assert done == Counter(range(100))
    assert works.all_released_once()


def test_a_worker_is_made_in_each_thread() -> None:
    makers = set()

    def make() -> Callable[[int], None]:
        makers.add(threading.current_thread().name)
        return lambda _: None

    Works(1).crew(make).run([1], 3)
    assert makers == {"mingus-test-0", "mingus-test-1", "mingus-test-2"}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_cannot_be_made_are_a_failure_and_no_wait(workers: int) -> None:
    def make() -> Callable[[int], None]:
        raise MemoryError("no slab")

    works = Works(100)
    with pytest.raises(MemoryError, match="no slab"):
        works.crew(make).run(works, workers)
    assert works.taken < 100
    assert works.all_released_once()


def test_the_first_failure_ends_the_work() -> None:
    def do(number: int) -> None:
        if number == 5:
            raise StoreError("the store broke")

    works = Works(1000)
    with pytest.raises(StoreError, match="the store broke"):
        works.crew(lambda: do).run(works, 2)
    assert works.taken < 1000
    assert works.all_released_once()


def test_a_failure_of_the_iterator_is_raised_after_the_threads_ended() -> None:
    works = Works(10, fail_at=7)
    before = threading.active_count()
    with pytest.raises(SourceError):
        works.crew(lambda: lambda _: None).run(works, 2)
    assert threading.active_count() == before
    assert works.all_released_once()


def test_a_cancel_is_noticed_while_the_queue_is_full() -> None:
    cancel, works = threading.Event(), Works(100)
    blocked = threading.Event()

    def do(_: int) -> None:
        blocked.set()
        cancel.wait(20)
        # As a worker that waits for a slow store: it ends some time after the cancel.
        threading.Event().wait(0.5)

    def press() -> None:
        blocked.wait(20)
        cancel.set()

    threading.Thread(target=press).start()
    with pytest.raises(Cancelled):
        works.crew(lambda: do, cancel).run(works, 1)
    assert works.taken < 100
    assert works.all_released_once()
