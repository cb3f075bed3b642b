"""Which failures are tried again, how often, and how long between."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import (
    Cancelled,
    Damaged,
    MingusError,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore
from mingus_engine.store.retrying import BASE_S, WAIT_MAX_S, RetryingStore


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now_s += seconds
        return False


def build(root: Path, *faults: Fault, **options: Any) -> tuple[RetryingStore, FaultyStore, Time]:
    clock = Time()
    plain = LocalStore(root)
    for name in ("packs/a", "packs/b", "packs/c"):
        put(plain, name)
    faulty = FaultyStore(plain, faults)
    values = {"attempts": 4, "sleep": clock.sleep, "now": clock.now, "chance": lambda: 0.5, **options}
    return RetryingStore(faulty, **values), faulty, clock


def put(store: Any, name: str, data: bytes = b"data") -> None:
    store.put(name, data, size=len(data), sha256=hashlib.sha256(data).digest())


CALLS: dict[str, Callable[[Any], object]] = {
    "put": lambda store: put(store, "packs/new"),
    "get": lambda store: store.get("packs/a"),
    "get_range": lambda store: store.get_range("packs/a", 0, 2),
    "stat": lambda store: store.stat("packs/a").size,
    "list": lambda store: [entry.name for entry in store.list("packs/")],
    "delete": lambda store: store.delete("packs/a"),
    "now": lambda store: bool(store.now()),
    "free_bytes": lambda store: bool(store.free_bytes()),
}


@pytest.mark.parametrize("operation", CALLS)
def test_every_call_is_tried_again_until_it_succeeds(operation: Any, tmp_path: Path) -> None:
    wanted = CALLS[operation](
        LocalStore(tmp_path / "undisturbed") if operation in {"now", "put"} else build(tmp_path)[0]
    )
    store, faulty, clock = build(tmp_path / "r", Fault(operation, "raise", times=3))
    assert CALLS[operation](store) == wanted
    assert [call.operation for call in faulty.calls] == [operation] * 4
    assert clock.waits == [BASE_S / 2, BASE_S, BASE_S * 2]


@pytest.mark.parametrize("operation", CALLS)
def test_after_the_last_try_the_error_says_how_often(operation: Any, tmp_path: Path) -> None:
    store, faulty, _ = build(tmp_path, Fault(operation, "raise", times=None))
    with pytest.raises(StoreUnreachable, match=r"injected.*\(tried 4 times in 1\.8 s\)"):
        CALLS[operation](store)
    assert len(faulty.calls) == 4


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("error", [StoreDenied, StoreFull, StoreError, ObjectMissing, Damaged, Cancelled])
def test_what_will_not_pass_is_not_tried_again(operation: Any, error: type[MingusError], tmp_path: Path) -> None:
    store, faulty, clock = build(tmp_path, Fault(operation, "raise", error=lambda: error("for good")))
    with pytest.raises(error, match=r"^for good$"):
        CALLS[operation](store)
    assert len(faulty.calls) == 1
    assert clock.waits == []


def test_a_put_whose_answer_was_lost_succeeds_when_it_is_tried_again(tmp_path: Path) -> None:
    store, faulty, _ = build(tmp_path, Fault("put", "raise_after"))
    put(store, "packs/new")
    assert len(faulty.calls) == 2
    assert store.get("packs/new") == b"data"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_listing_that_breaks_goes_on_where_it_was(position: int, tmp_path: Path) -> None:
    store, faulty, _ = build(tmp_path, Fault("list", "break", position=position))
    assert [entry.name for entry in store.list("")] == ["packs/a", "packs/b", "packs/c"]
    assert len(faulty.calls) == 2


def test_a_listing_that_breaks_for_good_is_an_error_not_a_short_one(tmp_path: Path) -> None:
    store, faulty, _ = build(tmp_path, Fault("list", "break", position=0, times=None))
    listing = store.list("")
    assert next(listing).name == "packs/a"
    with pytest.raises(StoreUnreachable, match="tried 4 times"):
        list(listing)
    assert len(faulty.calls) == 4


def test_no_try_begins_after_the_deadline(tmp_path: Path) -> None:
    store, faulty, clock = build(
        tmp_path, Fault("get", "raise", times=None), attempts=1000, deadline_s=60.0, chance=lambda: 0.999
    )
    with pytest.raises(StoreUnreachable, match="tried"):
        store.get("packs/a")
    assert sum(clock.waits) <= 60.0
    assert 60.0 - sum(clock.waits) < WAIT_MAX_S
    assert max(clock.waits) <= WAIT_MAX_S
    assert len(faulty.calls) == len(clock.waits) + 1


@given(chance=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 40))
def test_a_wait_is_jittered_between_nothing_and_its_bound(chance: float, failures: int) -> None:
    class Failing:
        left = failures

        def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
            Failing.left -= 1
            if Failing.left >= 0:
                raise StoreUnreachable("not now")
            return b""

    clock = Time()
    store = RetryingStore(
        Failing(),  # type: ignore[arg-type]
        attempts=100,
        deadline_s=1e9,
        sleep=clock.sleep,
        now=clock.now,
        chance=lambda: chance,
    )
    store.get("x")
    assert len(clock.waits) == failures
    for number, wait in enumerate(clock.waits):
        assert wait == pytest.approx(chance * min(WAIT_MAX_S, BASE_S * 2**number))


@pytest.mark.timeout(20)
def test_a_wait_ends_when_the_job_is_cancelled(tmp_path: Path) -> None:
    cancel = threading.Event()
    store, _, _ = build(
        tmp_path, Fault("get", "raise", times=None), sleep=None, cancel=cancel, chance=lambda: 1e3, deadline_s=1e9
    )
    failed: list[BaseException] = []

    def work() -> None:
        try:
            store.get("packs/a")
        except MingusError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    cancel.set()
    thread.join(10)
    assert [type(error) for error in failed] == [Cancelled]


def test_attempts_of_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attempts"):
        RetryingStore(LocalStore(tmp_path), attempts=0)
