import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine import bounds
from mingus_engine.codec.entries import Entry, RunTable
from mingus_engine.errors import Cancelled, SourceDenied, SourceError, StoreFull, StoreUnreachable
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.pipeline import Pipeline
from mingus_engine.repository import packs, resume
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.store.base import Store
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support import repositories as support
from tests.support.repositories import MadeItem, MadeRepository, MadeSource, noise

BLOCK = bounds.BLOCK_BYTES


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


class Running:
    """A pipeline and what it needs, of a run that never commits."""

    def __init__(self, made: MadeRepository, stack: ExitStack, store: Store | None = None) -> None:
        self.run: WriteRun = support.begin(made, store=store)
        stack.callback(self.run.close)
        self.table = RunTable([self.run.run])
        self.entries = EntrySorter(self.table, made.spool)
        stack.callback(self.entries.close)
        blocks = resume.stored_blocks(self.run)
        stack.callback(blocks.close)
        self.context = JobContext()
        self.pipeline = Pipeline(self.run, self.entries, self.table, blocks, self.context)

    def found(self) -> dict[bytes, Entry]:
        return {t.entry.path: t.entry for t in self.entries.drain()}


@pytest.fixture
def running(made: MadeRepository) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(made, stack)


def file(path: bytes, size: int) -> SourceFile:
    return SourceFile(path, FileKind.FILE, 0o600, size=size)


def items(path: bytes, content: bytes, step: int = 2 * BLOCK) -> list[MadeItem]:
    return list(MadeSource(files={path: content}, item_bytes=step).file_items(path))


def workers_alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mingus-worker")]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=8),
        st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 17, BLOCK - 1]), st.booleans()),
        max_size=6,
    ),
    st.integers(1, 4),
    st.sampled_from([BLOCK, 3 * BLOCK, bounds.SLAB_BYTES]),
)
def test_whatever_goes_in_is_restored(
    made: MadeRepository, shapes: dict[bytes, tuple[int, int, bool]], workers: int, step: int
) -> None:
    tree = MadeSource(
        files={
            path: (noise if random_bytes else lambda n, _: bytes(n))(blocks * BLOCK + more, path)
            for path, (blocks, more, random_bytes) in shapes.items()
        },
        item_bytes=step,
    )
    manifest = support.backed_up(made, tree, workers=workers)
    assert support.contents(made.repository, manifest) == tree.digests()


def test_entries_carry_what_the_source_said(made: MadeRepository) -> None:
    manifest = support.backed_up(made, support.small_source())
    reader = support.SnapshotReader(made.repository, manifest)
    found = {f.entry.path: f.entry for f in reader.files()}
    assert found[b"pg_tblspc/1"].target == b"/somewhere/else"
    assert found[b"base/1"].kind == FileKind.DIRECTORY
    small = found[b"base/1/small"]
    assert (small.mode, small.uid, small.gid, small.mtime_ns) == (0o640, 26, 27, 1_700_000_000_123_456_789)
    assert list(found) == sorted(found)


def test_items_of_files_may_interleave_and_finish_in_any_order(made: MadeRepository) -> None:
    with ExitStack() as stack:
        one = Running(made, stack)
        contents = {b"%d" % i: noise(7 * BLOCK + i, i) for i in range(5)}
        waiting = [items(path, content) for path, content in contents.items()]
        mixed = []
        chosen = random.Random(1)
        while waiting:
            queue = chosen.choice(waiting)
            mixed.append(queue.pop(0))
            waiting = [w for w in waiting if w]
        one.pipeline.process(iter(mixed), 4)
        assert {p: e.size for p, e in one.found().items()} == {p: len(c) for p, c in contents.items()}
        assert one.pipeline.counters.files == 5
        assert one.pipeline.counters.read_bytes == sum(map(len, contents.values()))
        assert all(item.released == 1 for item in mixed)


def test_a_file_over_the_span_is_mapped_in_blobs_and_restores(
    made: MadeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAP_SPAN_BYTES", 5 * BLOCK)  # items of three blocks cross its bounds
    for size in (5 * BLOCK, 5 * BLOCK + 1, 10 * BLOCK, 23 * BLOCK + 17):
        tree = MadeSource(files={b"big": noise(size, size)}, item_bytes=3 * BLOCK)
        manifest = support.backed_up(made, tree)
        (entry,) = [f.entry for f in support.SnapshotReader(made.repository, manifest).files()]
        assert len(list(entry.map_locations())) == (-(-size // (5 * BLOCK)) if size > 5 * BLOCK else 0)
        assert support.contents(made.reopened(), manifest) == tree.digests()


def test_a_vanished_file_is_left_out_and_counted(running: Running) -> None:
    gone = items(b"gone", bytes(5 * BLOCK))
    gone[1].reading = lambda: None
    running.pipeline.process(iter([*gone, *items(b"kept", b"x")]), 3)
    assert set(running.found()) == {b"kept"}
    assert running.pipeline.counters.vanished == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_that_shrinks_while_it_is_read_is_cut_where_reading_ended(running: Running, order: int) -> None:
    content = noise(8 * BLOCK, 1)
    pieces = items(b"f", content)
    pieces[1].reading = lambda: content[2 * BLOCK : 2 * BLOCK + 1000]
    pieces[2].reading = lambda: b""
    running.pipeline.process(iter(pieces[:-1][::order] + pieces[-1:]), 2)
    entry = running.found()[b"f"]
    assert entry.size == 2 * BLOCK + 1000, "what was read behind the end is not shown as its content"
    assert len(entry.hashes) == 3 * 16


def test_a_file_that_shrank_to_nothing_is_empty(running: Running) -> None:
    pieces = items(b"f", bytes(4 * BLOCK))
    for piece in pieces:
        piece.reading = lambda: b""
    running.pipeline.process(iter(pieces), 2)
    entry = running.found()[b"f"]
    assert (entry.size, entry.extents, entry.hashes, entry.maps) == (0, b"", b"", b"")


def test_a_reading_error_ends_the_job_with_that_error(running: Running) -> None:
    def denied() -> bytes:
        raise SourceDenied("f: permission denied")

    pieces = [p for i in range(40) for p in items(b"%d" % i, bytes(2 * BLOCK))]
    pieces[7].reading = denied
    with pytest.raises(SourceDenied, match="f: permission"):
        running.pipeline.process(iter(pieces), 3)
    assert workers_alive() == []


def test_an_error_of_the_sources_iterator_ends_the_job(running: Running) -> None:
    def broken() -> Iterator[MadeItem]:
        yield from items(b"f", bytes(BLOCK))
        raise SourceError("the connection was cut")

    with pytest.raises(SourceError, match="cut"):
        running.pipeline.process(broken(), 3)
    assert workers_alive() == []


def test_a_failing_worker_stops_the_others_soon_and_lets_go_of_what_waited(running: Running) -> None:
    def endless() -> Iterator[MadeItem]:
        for i in range(10**6):
            (item,) = items(b"%d" % i, b"x")
            taken.append(item)
            if i == 5:
                item.reading = fail
            yield item

    def fail() -> bytes:
        raise StoreFull("no space")

    taken: list[MadeItem] = []
    with pytest.raises(StoreFull):
        running.pipeline.process(endless(), 3)
    assert workers_alive() == []
    assert len(taken) < 1000
    assert sum(not item.released for item in taken) <= 1


def test_only_the_first_of_many_failures_is_told(running: Running) -> None:
    together = threading.Barrier(3)

    def fail() -> bytes:
        together.wait()
        raise SourceError("one of three")

    pieces = [item for i in range(3) for item in items(b"%d" % i, b"x")]
    for piece in pieces:
        piece.reading = fail
    with pytest.raises(SourceError, match="one of three"):
        running.pipeline.process(iter(pieces), 3)


def test_a_store_that_fails_ends_the_job(made: MadeRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 2 * BLOCK)
    store = FaultyStore(made.store, [Fault("put", "raise", name="packs/*", nth=2, times=None)])
    with ExitStack() as stack:
        one = Running(made, stack, store)
        pieces = [p for i in range(60) for p in items(b"%d" % i, noise(BLOCK, i))]
        with pytest.raises(StoreUnreachable):
            one.pipeline.process(iter(pieces), 2)
    assert workers_alive() == []


def test_a_cancelled_job_ends_although_its_workers_are_stuck_behind_a_full_queue(running: Running) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> bytes:
        entered.set()
        assert go_on.wait(60)
        return b"x"

    def cancelling() -> Iterator[MadeItem]:
        for i in range(10**6):
            (item,) = items(b"%d" % i, b"x")
            if i == 0:
                item.reading = slow
            if i == 5:
                assert entered.wait(60)
                running.context.cancel.set()
                go_on.set()
            yield item

    with pytest.raises(Cancelled):
        running.pipeline.process(cancelling(), 1)
    assert workers_alive() == []


@pytest.mark.parametrize(("offset", "length", "last"), [(1000, BLOCK, True), (0, 1000, False)])
def test_items_that_are_not_in_whole_blocks_are_refused(running: Running, offset: int, length: int, last: bool) -> None:
    item = MadeItem(file(b"f", 10**6), offset, length, last, lambda at, n: bytes(n))
    with pytest.raises(SourceError, match="whole blocks"):
        running.pipeline.process(iter([item]), 1)


def test_blobs_are_of_the_size_that_compresses_best(running: Running) -> None:
    running.pipeline.process(iter(items(b"f", noise(17 * BLOCK, 1), bounds.SLAB_BYTES)), 1)
    assert running.run.packs.statistics.blobs == -(-17 * BLOCK // bounds.BLOB_PLAIN_BYTES)


def test_progress_goes_up_to_everything_that_was_read(made: MadeRepository) -> None:
    with ExitStack() as stack:
        one = Running(made, stack)
        seen: list[int] = []
        one.context.on_progress = lambda p: seen.append(p.done_bytes)
        one.pipeline.process(iter(items(b"f", bytes(9 * BLOCK))), 1)
        assert seen == sorted(seen)
        assert seen[-1] == 9 * BLOCK
