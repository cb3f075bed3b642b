"""The bandwidth limit: how long transfers take by a clock of the test."""

import hashlib
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Cancelled, Damaged
from mingus_engine.store.faulty import FaultyStore
from mingus_engine.store.local import LocalStore
from mingus_engine.store.throttled import Bucket, ThrottledStore

RATE = 1_000_000


class Time:
    """A clock that only sleeping moves; how long it slept is how long a transfer took."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> bool:
        with self._lock:
            self.now_s += seconds
        return False


def build(root: Path) -> tuple[ThrottledStore, FaultyStore, Time]:
    clock = Time()
    counting = FaultyStore(LocalStore(root))
    return ThrottledStore(counting, RATE, sleep=clock.sleep, now=clock.now), counting, clock


def put(store: Any, name: str, data: bytes, body: Any = None) -> None:
    store.put(name, data if body is None else body, size=len(data), sha256=hashlib.sha256(data).digest())


BODIES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, path: data,
    "file in memory": lambda data, path: io.BytesIO(data),
    "file": lambda data, path: (path.write_bytes(data), path.open("rb"))[1],
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_put_takes_as_long_as_its_bytes(kind: str, tmp_path: Path) -> None:
    store, _, clock = build(tmp_path / "r")
    data = os.urandom(5 * RATE)
    body = BODIES[kind](data, tmp_path / "body")
    put(store, "packs/a", data, body)
    if kind == "file":
        body.close()
    assert clock.now_s == pytest.approx(5.0, abs=0.3)
    assert store.inner.get("packs/a") == data


def test_reads_take_as_long_as_their_bytes_and_come_in_small_steps(tmp_path: Path) -> None:
    store, counting, clock = build(tmp_path / "r")
    data = os.urandom(3 * RATE)
    put(counting, "packs/a", data)
    counting.calls.clear()
    assert store.get("packs/a") == data
    assert clock.now_s == pytest.approx(3.0, abs=0.3)
    assert len(counting.calls) > 10, "one request for all is a burst"
    assert store.get_range("packs/a", 1000, 2 * RATE) == data[1000 : 1000 + 2 * RATE]
    assert clock.now_s == pytest.approx(5.0, abs=0.3)


def test_many_small_reads_are_paid_for_too(tmp_path: Path) -> None:
    store, counting, clock = build(tmp_path / "r")
    put(counting, "packs/a", bytes(100_000))
    for _ in range(20):
        store.get_range("packs/a", 0, 100_000)
    assert clock.now_s == pytest.approx(2.0, abs=0.3)


def test_sent_and_fetched_bytes_share_one_limit_among_all_threads(tmp_path: Path) -> None:
    store, counting, clock = build(tmp_path / "r")
    data = os.urandom(RATE)
    put(counting, "packs/a", data)
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(put, store, f"packs/{number}", data) for number in range(3)]
        work += [pool.submit(store.get, "packs/a") for _ in range(3)]
        for done in work:
            done.result()
    # Sleeps of several threads add up on this clock: never less than the sum, which is what the limit promises.
    assert clock.now_s >= 6.0 - 0.3


@given(counts=st.lists(st.integers(0, 5 * RATE), max_size=30), pauses=st.lists(st.floats(0, 3), max_size=30))
def test_no_more_bytes_pass_than_the_rate_allows(counts: list[int], pauses: list[float]) -> None:
    clock = Time()
    bucket = Bucket(RATE, sleep=clock.sleep, now=clock.now)
    paid = 0
    for number, count in enumerate(counts):
        clock.now_s += pauses[number] if number < len(pauses) else 0.0
        bucket.pay(count)
        paid += count
        # A quarter of a second's worth may be saved up.
        assert paid <= RATE * (clock.now_s + 0.25) + 1


def test_time_without_transfers_is_not_saved_up() -> None:
    clock = Time()
    bucket = Bucket(RATE, sleep=clock.sleep, now=clock.now)
    clock.now_s = 1000.0
    bucket.pay(2 * RATE)
    assert clock.now_s == pytest.approx(1001.75)


@pytest.mark.timeout(20)
def test_a_wait_ends_when_the_job_is_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    store = ThrottledStore(LocalStore(tmp_path), 1, cancel=cancel)
    with pytest.raises(Cancelled):
        put(store, "x", bytes(1000))
    assert list(store.list("")) == []


def test_a_hostile_object_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    store, counting, _ = build(tmp_path / "r")
    put(counting, "x", bytes(1000))
    counting.calls.clear()
    with pytest.raises(Damaged, match="1000 bytes"):
        store.get("x", max_bytes=999)
    assert [call.operation for call in counting.calls] == ["stat"]


def test_objects_are_not_offered_to_be_read_in_place(tmp_path: Path) -> None:
    assert not ThrottledStore(LocalStore(tmp_path), RATE).features.durable_local_path


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bandwidth"):
        ThrottledStore(LocalStore(tmp_path), 0)
