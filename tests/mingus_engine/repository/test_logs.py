import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mingus_engine import bounds
from mingus_engine.codec.containers import ContainerKind
from mingus_engine.errors import BackupBroken, CommitRefused, Damaged, LogDiverged, StoreUnreachable
from mingus_engine.jobs.postgres import wal
from mingus_engine.repository import names, records
from mingus_engine.repository.logs import LogReader, LogWriter
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import TimelineHistory, WalPiece
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support import repositories as support
from tests.support.repositories import MadeRepository, wal_pieces

SEGMENT = support.WAL_SEGMENT_BYTES
START = 1 << 24


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


@pytest.fixture
def run(made: MadeRepository) -> Iterator[WriteRun]:
    with closing(support.begin(made)) as opened:
        yield opened


def content(made: MadeRepository, ref: LogRef) -> bytes:
    return b"".join(LogReader(made.repository, support.SOURCE, ref).chunks())


def puts(store: FaultyStore, prefix: str) -> int:
    return sum(c.operation == "put" and c.name.startswith(prefix) for c in store.calls)


def test_a_stream_becomes_a_container_per_segment_and_a_slice(made: MadeRepository, run: WriteRun) -> None:
    pieces = list(wal_pieces(START, 2 * SEGMENT + 12_345))
    refs = support.archive(made, run, pieces)
    assert [(r.start, r.end) for r in refs] == [
        (START, START + SEGMENT),
        (START + SEGMENT, START + 2 * SEGMENT),
        (START + 2 * SEGMENT, START + 2 * SEGMENT + 12_345),
    ]
    assert b"".join(content(made, r) for r in refs) == b"".join(p.data for p in pieces)
    directory = LogReader(made.repository, support.SOURCE, refs[-1]).directory()
    assert (directory.flush, directory.server_clock_us) == (pieces[-1].flush, pieces[-1].server_clock_us)
    assert wal.read_back(run, refs, START + 5, START + 2 * SEGMENT + 12_345) == 2 * SEGMENT + 12_345


def test_a_container_opens_without_any_manifest_in_another_process(made: MadeRepository, run: WriteRun) -> None:
    (ref,) = support.archive(made, run, wal_pieces(START, 1000))
    assert b"".join(LogReader(made.reopened(), support.SOURCE, ref).chunks())
    assert len(made.names(f"logs/{support.SOURCE}/keys/")) == 1


def test_the_log_key_is_there_before_the_first_container(made: MadeRepository) -> None:
    store = FaultyStore(made.store, [Fault("put", "raise", name=f"logs/{support.SOURCE}/7*")])
    with closing(support.begin(made, store=store)) as run, pytest.raises(StoreUnreachable):
        support.archive(made, run, wal_pieces(START, 1000))
    assert len(made.names(f"logs/{support.SOURCE}/keys/")) == 1


def test_the_same_range_with_the_same_bytes_is_a_success_without_a_put(made: MadeRepository, run: WriteRun) -> None:
    refs = support.archive(made, run, wal_pieces(START, SEGMENT + 99))
    store = FaultyStore(made.store)
    with closing(support.begin(made, store=store)) as again:
        assert support.archive(made, again, wal_pieces(START, SEGMENT + 99)) == refs
        assert puts(store, "logs/") == 0
        assert again.adopted == {run.run}


def test_other_bytes_under_the_same_range_are_refused(made: MadeRepository, run: WriteRun) -> None:
    (ref,) = support.archive(made, run, wal_pieces(START, 1000))
    with closing(support.begin(made)) as again, pytest.raises(LogDiverged, match="another log") as caught:
        support.archive(made, again, wal_pieces(START, 1000, seed="another cluster"))
    assert str(ref.name(support.SOURCE)) in caught.value.message


def test_a_planned_container_is_not_counted_as_there(made: MadeRepository, run: WriteRun) -> None:
    (ref,) = support.archive(made, run, wal_pieces(START, 1000))
    made.repository.put_record(records.PLAN, support.SOURCE, {"names": [str(ref.name(support.SOURCE))]}, {})
    with closing(support.begin(made)) as again:
        (new,) = support.archive(made, again, wal_pieces(START, 1000))
        assert new != ref
        assert new.run == again.run
        assert again.adopted == set()


def test_of_a_shipped_container_the_shipping_run_is_adopted(made: MadeRepository, tmp_path: Path) -> None:
    manifest = support.backed_up(made, support.small_source(), wal_pieces=wal_pieces(START, 1000))
    other = support.make_repository(tmp_path / "other", signer=made.repository.keys.signer)
    there = support.shipped(made, other, manifest)
    with closing(support.begin(other)) as again:
        (ref,) = support.archive(other, again, wal_pieces(START, 1000))
        assert ref.putting_run == there.put_by
        assert again.adopted == {there.put_by}


@pytest.mark.parametrize("gap_at", [1000, SEGMENT], ids=["inside a segment", "between two segments"])
def test_a_gap_in_the_stream_breaks_the_backup_and_confirms_nothing_behind_it(
    made: MadeRepository, run: WriteRun, gap_at: int
) -> None:
    confirmed: list[int] = []
    stream = [*wal_pieces(START, gap_at), *wal_pieces(START + gap_at + SEGMENT, 2 * SEGMENT)]
    with pytest.raises(BackupBroken, match="jumped"):
        wal.archive(
            run, stream, system_id=1, segment_bytes=SEGMENT, spool_path=made.spool, level=1, on_stored=confirmed.append
        )
    assert all(lsn <= START + gap_at for lsn in confirmed)


def test_going_back_in_the_stream_breaks_the_backup(made: MadeRepository, run: WriteRun) -> None:
    with pytest.raises(BackupBroken, match="jumped"):
        support.archive(made, run, [*wal_pieces(START, 2000), *wal_pieces(START + 1000, 1000)])


def test_a_new_timeline_goes_to_its_own_lineage(made: MadeRepository, run: WriteRun) -> None:
    switch = START + 5000
    history = TimelineHistory(2, "00000002.history", b"1\t0/1001388\tpromoted\n")
    old, new = list(wal_pieces(START, 5000)), list(wal_pieces(switch, 3000, timeline=2))
    refs = support.archive(made, run, [*old, history, *new])
    by_timeline = {r.lineage.split("/")[1]: r for r in refs if not r.lineage.endswith("history")}
    assert content(made, by_timeline["1"]) == b"".join(p.data for p in old)
    assert content(made, by_timeline["2"]) == b"".join(p.data for p in new)
    (kept,) = [r for r in refs if r.lineage.endswith("history")]
    assert content(made, kept) == history.content


def test_a_piece_across_the_4_gib_border_of_lineages_is_cut_there(made: MadeRepository, run: WriteRun) -> None:
    refs = support.archive(made, run, wal_pieces((1 << 32) - SEGMENT, SEGMENT + 10, piece_bytes=999_000))
    assert [r.lineage.split("/")[2] for r in refs] == ["00000000", "00000001"]


def test_wal_that_is_missing_is_told_before_the_commit(made: MadeRepository, run: WriteRun) -> None:
    refs = support.archive(made, run, wal_pieces(START, 2 * SEGMENT))
    with pytest.raises(BackupBroken, match="needs it up to"):
        wal.read_back(run, refs[1:], START, START + 2 * SEGMENT)
    with pytest.raises(BackupBroken, match="needs it up to"):
        wal.read_back(run, refs, START, START + 2 * SEGMENT + 1)


def test_a_fenced_run_confirms_nothing_to_the_server(made: MadeRepository, run: WriteRun) -> None:
    made.repository.put_record(records.FENCE, support.SOURCE, {"plan": "x"}, {}, run=run.run)
    confirmed: list[int] = []
    with pytest.raises(CommitRefused, match=run.run):
        wal.archive(
            run, wal_pieces(START, SEGMENT), system_id=1, segment_bytes=SEGMENT, spool_path=made.spool, level=1,
            on_stored=confirmed.append,
        )  # fmt: skip
    assert confirmed == []


def test_confirmations_follow_the_puts(made: MadeRepository) -> None:
    store = FaultyStore(made.store)
    stored: list[tuple[int, int]] = []
    with closing(support.begin(made, store=store)) as run:
        wal.archive(
            run, wal_pieces(START, 2 * SEGMENT + 7), system_id=1, segment_bytes=SEGMENT, spool_path=made.spool, level=1,
            on_stored=lambda lsn: stored.append((lsn, puts(store, "logs/ledger/1/"))),
        )  # fmt: skip
    assert stored == [(START + SEGMENT, 1), (START + 2 * SEGMENT, 2), (START + 2 * SEGMENT + 7, 3)]


def test_an_empty_stream_stores_nothing(made: MadeRepository, run: WriteRun) -> None:
    assert support.archive(made, run, []) == []
    assert support.archive(made, run, [WalPiece(1, START, memoryview(b""), 1, START)]) == []
    assert made.names("logs/") == []


def test_a_segment_of_256_mib_passes_in_little_memory(made: MadeRepository, run: WriteRun) -> None:
    piece = memoryview(support.noise(4096, 0) * 32)
    log = LogWriter(run, ContainerKind.WAL, names.wal_lineage(1, 1, 0), 0, spool_path=made.spool, level=1)
    tracemalloc.start()
    with closing(log):
        for _ in range(256 * bounds.MIB // len(piece)):
            log.append(piece)
        ref = log.put(server_clock_us=0, flush=0, facts={})
    length = sum(map(len, LogReader(made.repository, support.SOURCE, ref).chunks()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == ref.end == 256 * bounds.MIB
    assert peak < 8 * bounds.MIB


def test_a_damaged_last_chunk_is_not_given_out(made: MadeRepository, run: WriteRun) -> None:
    (ref,) = support.archive(made, run, wal_pieces(START, 700_000))
    reader = LogReader(made.repository, support.SOURCE, ref)
    directory = reader.directory()
    reader._directory = type(directory)(**{**directory.__dict__, "digest": "0" * 64})
    given = []
    with pytest.raises(Damaged, match="digest"):
        given.extend(reader.chunks())
    assert len(list(LogReader(made.repository, support.SOURCE, ref).chunks())) == 3
