"""Segments and slices on their way into a repository, with made-up log."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mingus_engine import bounds
from mingus_engine.errors import BackupBroken, LogDiverged
from mingus_engine.jobs.postgres.wal_segments import Destination, SegmentStore, Tail
from mingus_engine.repository import log_index, logs
from mingus_engine.sources.postgres.archiving import Sample
from tests.support import repositories as support
from tests.support.repositories import MadeRepository, wal_pieces

START, SEGMENT = 1 << 24, bounds.MIB


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


@pytest.fixture
def to(made: MadeRepository) -> Iterator[Destination]:
    with closing(support.begin(made)) as run:
        yield Destination(run, support.SYSTEM_ID, SEGMENT, made.spool, 1, 160003)


def store_of(to: Destination, *, stored_to: int = START, start: int = START, tail: Tail | None = None) -> SegmentStore:
    return SegmentStore(to, 1, start=start, stored_to=stored_to, tail=tail, on_segment=lambda _: None)


def feed(store: SegmentStore, length: int, *, seed: str = "wal") -> bytes:
    data = b""
    for piece in wal_pieces(store.position, length, seed=seed):
        store.take(piece.start, piece.data)
        data += piece.data
    return data


def contents(made: MadeRepository) -> list[tuple[int, int, bytes, int]]:
    """Start, end, log and sampled position of each container."""
    found = log_index.list_logs(made.repository, support.SOURCE).timeline(support.SYSTEM_ID, 1).logs
    readers = [
        (log.name, logs.LogReader(made.repository, support.SOURCE, logs.reference(made.repository, *log)))
        for log in found
    ]
    return [(n.start, n.end, b"".join(r.chunks()), r.directory().flush) for n, r in readers]


def test_slices_at_odd_places_are_the_bytes_between_them(made: MadeRepository, to: Destination) -> None:
    store, data, cuts = store_of(to), b"", [1, 255 * 1024, 256 * 1024, 256 * 1024 + 1, 700_001, 700_002]
    with closing(store):
        at = 0
        for cut in cuts:
            data += feed(store, cut - at)
            assert store.slice()
            assert not store.slice()  # nothing is new
            at = cut
        data += feed(store, SEGMENT - at)
    ends = [0, *cuts]
    expected = {(START + a, START + b, data[a:b]) for a, b in zip(ends, cuts, strict=False)}
    expected.add((START, START + SEGMENT, data))
    assert {found[:3] for found in contents(made)} == expected
    assert (store.slices, store.segments, store.stored_bytes) == (len(cuts), 1, SEGMENT)


def test_a_sample_waits_for_the_container_that_reaches_it(made: MadeRepository, to: Destination) -> None:
    with closing(store_of(to)) as store:
        store.sampled(Sample(5, START + 600_000))
        feed(store, 500_000)
        store.slice()
        assert store.sample == Sample()
        feed(store, 100_000)
        store.slice()
        assert store.sample == Sample(5, START + 600_000)
    assert [flush for *_, flush in contents(made)] == [0, START + 600_000]


def test_what_is_stored_is_compared_and_not_stored_twice(made: MadeRepository, to: Destination) -> None:
    with closing(store_of(to)) as store:
        data = feed(store, 600_000)
        store.slice()
    tail = Tail(START + 500_000, data[500_000:], "the slice")
    with closing(store_of(to, stored_to=START + 600_000, tail=tail)) as store:
        feed(store, 600_000)
        assert not store.slice()
    for wrong in ("another", "again another"):
        with (
            closing(store_of(to, stored_to=START + 600_000, tail=tail)) as store,
            pytest.raises(LogDiverged, match="the slice"),
        ):
            feed(store, SEGMENT, seed=wrong)
    assert len(contents(made)) == 1


def test_log_that_does_not_follow_is_refused(to: Destination) -> None:
    with closing(store_of(to)) as store, pytest.raises(BackupBroken, match="jumped"):
        store.take(START + 8, memoryview(b"x"))


def test_a_refreshed_end_holds_the_newer_sample(made: MadeRepository, to: Destination) -> None:
    with closing(store_of(to)) as store:
        feed(store, 600_000)
        store.slice()
        for clock in (1, 2):
            store.sampled(Sample(clock, START + 600_000))
            assert store.refresh()
        assert store.sample == Sample(2, START + 600_000)
    assert len(contents(made)) == 3
    assert {end for _, end, *_ in contents(made)} == {START + 600_000}


def test_memory_does_not_grow_with_the_segment(made: MadeRepository, to: Destination) -> None:
    large = Destination(to.run, to.system_id, 64 * bounds.MIB, to.spool_path, 1, 160003)
    with closing(store_of(large)) as store:
        feed(store, 2 * bounds.MIB)
        tracemalloc.start()
        try:
            for piece in wal_pieces(store.position, 40 * bounds.MIB):
                store.take(piece.start, piece.data)
            store.slice()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * bounds.MIB
