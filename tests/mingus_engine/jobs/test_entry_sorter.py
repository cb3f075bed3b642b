import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine.codec.entries import Entry, Extent, RunTable, decode_extents, encode_extents
from mingus_engine.errors import StoreFull
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.repository import spool

RUNS = [f"01ARZ3NDEKTSV4RRFFQ69G5FA{c}" for c in "ABC"]


def entry(path: bytes, run: int = 0, size: int = 1) -> Entry:
    extents = encode_extents([Extent(0, 1, run, 1, 64, 30, 0)])
    return Entry(path=path, kind=1, mode=0, uid=0, gid=0, mtime_ns=0, size=size, extents=extents)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.binary(min_size=1, max_size=10), max_size=60), st.integers(0, 3000), st.randoms())
def test_entries_come_out_in_path_order_however_little_is_held(tmp_path: Path, paths: set[bytes], held: int, r) -> None:  # type: ignore[no-untyped-def]
    table = RunTable(RUNS)
    shuffled = sorted(paths)
    r.shuffle(shuffled)
    with closing(EntrySorter(table, tmp_path, held_max_bytes=held)) as sorter:
        for i, path in enumerate(shuffled):
            sorter.add(entry(path, i % 3, i))
        drained = list(sorter.drain())
    assert [t.entry.path for t in drained] == sorted(paths)
    assert sorter.count == len(paths)
    for tabled in drained:
        (extent,) = decode_extents(tabled.entry.extents, "x")
        assert tabled.table.run(extent.run, "x") == RUNS[tabled.entry.size % 3], "each run number with its own table"


def test_entries_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    with closing(EntrySorter(RunTable(RUNS), tmp_path, held_max_bytes=5_000)) as sorter:

        def add(worker: int) -> None:
            for i in range(300):
                sorter.add(entry(b"%d/%03d" % (worker, i)))

        threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        paths = [t.entry.path for t in sorter.drain()]
    assert paths == sorted(b"%d/%03d" % (w, i) for w in range(4) for i in range(300))


def test_what_is_spooled_is_sealed_and_has_no_name(tmp_path: Path) -> None:
    with closing(EntrySorter(RunTable(RUNS), tmp_path, held_max_bytes=0)) as sorter:
        for i in range(50):
            sorter.add(entry(b"confidential-%d" % i))
        assert sorter._file is not None
        sorter._file.seek(0)
        raw = sorter._file.read()
        assert len(raw) > 50 * 50
        assert b"confidential" not in raw
        assert list(tmp_path.iterdir()) == []
        assert len(list(sorter.drain())) == 50
    sorter.close()


def test_a_full_spool_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, position: int, data: bytes) -> None:
        raise StoreFull("no space in the spool")

    monkeypatch.setattr(spool, "write_at", full)
    with closing(EntrySorter(RunTable(RUNS), tmp_path, held_max_bytes=0)) as sorter, pytest.raises(StoreFull):
        sorter.add(entry(b"a"))
