"""Slices, containers, samples and histories of command streams, in a repository without a server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mingus_engine.errors import Damaged, LogMissing
from mingus_engine.jobs.redis import stream_store
from mingus_engine.jobs.redis.stored_stream import Step, StoredStream, put_history
from mingus_engine.jobs.redis.stream_store import StreamDestination, StreamStore
from mingus_engine.jobs.stored_logs import EPOCH_2000
from mingus_engine.repository import runs, state
from mingus_engine.sources.redis.stream import Sample
from tests.support.repositories import SOURCE, MadeRepository, begin, make_repository

A, B = "0a" * 20, "1b" * 20
PING = b"*1\r\n$4\r\nPING\r\n"


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return make_repository(tmp_path)


def destination(made: MadeRepository, replid: str = A) -> StreamDestination:
    return StreamDestination(begin(made, kind=runs.LOG), replid, made.spool, 1, {})


def opened(made: MadeRepository) -> StoredStream:
    return StoredStream(made.repository, SOURCE, state.look(made.repository, SOURCE))


def content(stored: StoredStream, replid: str, start: int, end: int) -> bytes:
    return b"".join(stored.chunks(stored.path(replid).pieces(start, end)))


def store(made: MadeRepository, replid: str, start: int, data: bytes) -> None:
    one = StreamStore(destination(made, replid), start, lambda _: None)
    one.take(data)
    one.finish()


def test_slices_and_the_container_that_stands_for_them_hold_the_same(made: MadeRepository) -> None:
    told: list[int] = []
    one = StreamStore(destination(made), 1000, told.append)
    for part in (b"first", b"second", b"third"):
        one.take(part)
        assert one.slice()
        assert not one.slice()
    one.take(b"fourth")
    one.finish()
    assert told == [1005, 1011, 1016, 1022]
    stored = opened(made)
    assert content(stored, A, 1000, 1022) == b"firstsecondthirdfourth"
    assert content(stored, A, 1003, 1012) == b"stsecondt"
    needed = stored.index.timeline(stream_store.system_id(A), 1).needed()
    assert [(log.name.start, log.name.end) for log in needed] == [(1000, 1022)]


def test_a_large_stream_is_cut_into_containers(made: MadeRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_store, "CONTAINER_BYTES", 1000)
    one = StreamStore(destination(made), 0, lambda _: None)
    for _ in range(10):
        one.take(b"x" * 300)
    one.finish()
    assert one.containers == 3
    assert content(opened(made), A, 0, 3000) == b"x" * 3000


def test_pings_alone_are_idleness(made: MadeRepository) -> None:
    one = StreamStore(destination(made), 0, lambda _: None)
    one.take(PING * 3)
    assert one.idle
    one.take(b"*1")
    assert not one.idle
    one.slice()
    assert one.idle
    one.close()


def test_samples_tell_the_moment_before_and_after(made: MadeRepository) -> None:
    one = StreamStore(destination(made), 0, lambda _: None)
    for n in range(1, 9):
        one.take(b"x" * 10)
        one.sampled(Sample(n * 1_000_000, n * 10))
        if n % 2 == 0:
            one.slice() if n < 6 else one.finish()
    stored = opened(made)
    pieces = stored.path(A).pieces(0, 80)

    def around(seconds: float) -> tuple[int | None, int | None]:
        before, after = stored.sample_before(pieces, int(seconds * 1_000_000))
        return before and before.flush, after and after.flush

    assert [around(s) for s in (0.5, 1, 1.5, 4, 4.9, 5, 7.5, 8, 99)] == [
        (None, 10), (10, 20), (10, 20), (40, 50), (40, 50), (50, 60), (70, 80), (80, None), (80, None),
    ]  # fmt: skip
    newest = stored.newest_sample(pieces)
    assert newest is not None
    assert (newest.at, newest.flush) == (EPOCH_2000 + timedelta(seconds=8), 80)


def test_a_path_leads_through_the_histories_that_follow_each_other(made: MadeRepository) -> None:
    store(made, A, 0, b"a" * 100)
    to = destination(made, B)
    assert put_history(to, opened(made), A, 60)
    assert not put_history(to, opened(made), A, 50)
    assert put_history(to, opened(made), A, 80)  # who knows better counts
    store(made, B, 70, b"b" * 100)
    stored = opened(made)
    path = stored.path(B)
    assert path.steps == [Step(A, 80), Step(B)]
    assert path.covered_to(10) == 170
    assert content(stored, B, 0, 170) == b"a" * 80 + b"b" * 90
    assert path.holds(A, 80)
    assert not path.holds(A, 81)
    assert stored.path(A).covered_to(0) == 100


def test_a_hole_is_the_end_of_what_is_covered(made: MadeRepository) -> None:
    store(made, A, 0, b"a" * 100)
    store(made, A, 150, b"a" * 100)
    path = opened(made).path(A)
    assert path.covered_to(0) == 100
    assert path.covered_to(120) == 120
    assert path.covered_to(200) == 250
    with pytest.raises(LogMissing, match="missing from 100 to 250"):
        path.pieces(0, 250)


def read_all(made: MadeRepository) -> None:
    stored = opened(made)
    pieces = stored.path(A).pieces(0, 260)
    stored.newest_sample(pieces)
    list(stored.chunks(pieces))


def flips(raw: bytes) -> Iterator[int]:
    yield from range(0, len(raw), max(1, len(raw) // 40))


def test_a_flipped_bit_anywhere_in_a_container_is_found(made: MadeRepository) -> None:
    one = StreamStore(destination(made), 0, lambda _: None)
    one.take(b"some commands" * 20)
    one.sampled(Sample(1, 1))
    one.finish()
    (name,) = (name for name in made.names(f"logs/{SOURCE}/") if "keys" not in name)
    raw = made.path(name).read_bytes()
    for at in flips(raw):
        made.path(name).write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(Damaged):
            read_all(made)
