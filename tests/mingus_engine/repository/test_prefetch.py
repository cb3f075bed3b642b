"""Fetching ahead: the same bytes in fewer requests, within a bound, and never in the way."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.bounds import FETCH_GAP_BYTES, FETCH_MAX_BYTES, KIB, MIB
from mingus_engine.errors import Damaged
from mingus_engine.jobs import integrity
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository.prefetch import Prefetcher, Range
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.store.base import Features
from tests.support import repositories as support
from tests.support.memory_store import MemoryStore
from tests.support.processes import wait_until
from tests.support.repositories import MadeSource, noise


class CountingStore(MemoryStore):
    """Remembers what was fetched; ``gate`` holds requests back."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.requests: list[tuple[str, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_a_time = self.most_at_a_time = 0
        self._lock = threading.Lock()

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._lock:
            self.requests.append((name, offset, length))
            self.at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            self.gate.wait(20)
            return super().get_range(name, offset, length)
        finally:
            with self._lock:
                self.at_a_time -= 1


CONTENT = noise(16 * MIB, "prefetch")


def store() -> CountingStore:
    return CountingStore({"a": CONTENT, "b": CONTENT[::-1]})


@pytest.mark.parametrize("spooled", [False, True])
def test_neighbours_are_one_request(spooled: bool, tmp_path: Path) -> None:
    inner = store()
    ahead = Prefetcher(inner, tmp_path if spooled else None)
    ranges = [Range("a", i * 1000, i * 1000 + 700) for i in range(50)]
    ahead.expect(reversed(ranges))
    assert [bytes(ahead.take("a", r.start, 700)) for r in ranges] == [CONTENT[r.start : r.end] for r in ranges]
    assert inner.requests == [("a", 0, 49_700)]


def test_far_ranges_and_large_ones_are_requests_of_their_own() -> None:
    inner = store()
    far = 10 + FETCH_GAP_BYTES + 1
    Prefetcher(inner).expect([Range("a", 0, 10), Range("a", far, far + 10), Range("b", 0, 10)])
    wait_until(lambda: len(inner.requests) == 3, "three requests")
    inner = store()
    Prefetcher(inner).expect([Range("a", 0, FETCH_MAX_BYTES), Range("a", FETCH_MAX_BYTES, FETCH_MAX_BYTES + 1)])
    wait_until(lambda: len(inner.requests) == 2, "two requests")


def test_several_requests_are_under_way_at_a_time_and_no_more() -> None:
    inner = store()
    inner.gate.clear()
    ahead = Prefetcher(inner, requests=3)
    ahead.expect(Range("a", i * MIB, i * MIB + 1) for i in range(8))
    wait_until(lambda: inner.at_a_time == 3, "three at a time")
    inner.gate.set()
    wait_until(lambda: len(inner.requests) == 8, "all")
    assert inner.most_at_a_time == 3


def test_what_does_not_fit_is_fetched_when_it_is_taken() -> None:
    inner = store()
    ahead = Prefetcher(inner, max_bytes=100 * KIB)
    ahead.expect([Range("a", 0, 80 * KIB), Range("b", 0, 80 * KIB)])
    wait_until(lambda: inner.requests == [("a", 0, 80 * KIB)], "the one that fits")
    assert ahead.take("b", 0, 80 * KIB) == CONTENT[::-1][: 80 * KIB]
    assert ahead.take("a", 0, 80 * KIB) == CONTENT[: 80 * KIB]
    ahead.expect([Range("b", MIB, MIB + 80 * KIB)])  # there is room again
    wait_until(lambda: inner.requests[-1] == ("b", MIB, 80 * KIB), "the next")


def test_the_spool_leaves_nothing_and_is_given_back(tmp_path: Path) -> None:
    inner = store()
    before = len(list(Path("/proc/self/fd").iterdir()))
    ahead = Prefetcher(inner, tmp_path)
    ranges = [Range("a", i * MIB, i * MIB + 2000) for i in range(10)]
    for _ in range(3):
        ahead.expect(ranges)
        wait_until(lambda: inner.at_a_time == 0, "all has come")
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
        assert not any(tmp_path.iterdir()), "it has no name"
        for r in ranges:
            assert ahead.take("a", r.start, 2000) == CONTENT[r.start : r.end]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(inner.requests) == 30


def test_a_spool_that_cannot_be_made_costs_only_speed(tmp_path: Path) -> None:
    inner = store()
    (tmp_path / "spool").write_text("a file")
    ahead = Prefetcher(inner, tmp_path / "spool")
    ahead.expect([Range("a", 0, 500)])
    assert ahead.take("a", 0, 500) == CONTENT[:500]


def test_what_is_taken_by_many_threads_at_once_is_right(tmp_path: Path) -> None:
    inner = store()
    ahead = Prefetcher(inner, tmp_path)
    ranges = [Range("a", i * 5000, i * 5000 + 4000) for i in range(400)]

    def take(r: Range) -> bool:
        return ahead.take("a", r.start, 4000) == CONTENT[r.start : r.end]

    for _ in range(3):
        ahead.expect(ranges)
        with ThreadPoolExecutor(8) as pool:
            # Some are taken again, which was not expected.
            assert all(pool.map(take, [*ranges, *ranges[::7]]))


def test_the_trouble_of_a_neighbour_is_not_shared() -> None:
    inner = CountingStore({"a": CONTENT[:1000]})
    ahead = Prefetcher(inner)
    ahead.expect([Range("a", 0, 500), Range("a", 600, 1100)])
    assert ahead.take("a", 0, 500) == CONTENT[:500]
    with pytest.raises(Damaged):
        ahead.take("a", 600, 500)


def test_a_disk_is_not_asked_ahead() -> None:
    inner = store()
    inner.features = Features(put_proves_content=True, durable_local_path=True)
    ahead = Prefetcher(inner)
    ahead.expect([Range("a", 0, 500)])
    assert ahead.take("a", 0, 500) == CONTENT[:500]
    assert inner.requests == [("a", 0, 500)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3000), st.integers(1, 1200)), max_size=20),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3000), st.integers(1, 1200)), max_size=10),
)
def test_the_bytes_are_always_those_of_the_object(
    expected: list[tuple[str, int, int]], others: list[tuple[str, int, int]]
) -> None:
    objects = {"a": CONTENT[:4200], "b": CONTENT[4200:8400]}
    ahead = Prefetcher(MemoryStore(objects), max_bytes=5000)
    ahead.expect(Range(name, start, start + length) for name, start, length in expected)
    for name, start, length in [*expected, *others, *expected]:
        assert ahead.take(name, start, length) == objects[name][start : start + length]


class DistantStore(MemoryStore):
    """Each request takes a while; counts them."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.requests = 0

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.requests += 1
        time.sleep(0.001)
        return super().get_range(name, offset, length)


def test_a_snapshot_of_small_files_is_read_in_few_requests(tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    tree = MadeSource(files={b"base/%d" % i: noise(300 + i, i) for i in range(500)})
    manifest = support.backed_up(made, tree, cut_bits=6)
    distant = DistantStore(MemoryStore.copy_of(made.store).objects)
    repository = Repository("distant", distant, made.repository.config, made.repository.keys)
    reader = SnapshotReader(repository, manifest)
    check = integrity.readable(reader, JobContext())
    assert check.ok, check.detail
    assert "500 files" in check.detail
    assert distant.requests < 100, "not one request a file"
    assert support.contents(repository, manifest) == support.contents(made.repository, manifest)


def test_a_file_that_nobody_expected_is_read_in_few_requests(tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    manifest = support.backed_up(made, MadeSource(files={b"large": noise(6 * MIB, "large")}))
    distant = DistantStore(MemoryStore.copy_of(made.store).objects)
    reader = SnapshotReader(Repository("distant", distant, made.repository.config, made.repository.keys), manifest)
    (file,) = reader.files()
    before = distant.requests
    assert sum(length for _, _, length in reader.data(file)) == 6 * MIB
    assert distant.requests - before < 6, "not one request a blob"
