"""What of the write-ahead log is stored: overlaps, gaps, clusters and timelines kept apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import LogMissing
from mingus_engine.repository.log_index import LogIndex, Range, StoredLog, TimelineLogs, index
from mingus_engine.repository.names import LogName

SHA = "0" * 64


def stored(start: int, end: int, *, system_id: int = 7, timeline: int = 1, sha256: str = SHA) -> StoredLog:
    return StoredLog(LogName("ledger", f"{system_id}/{timeline}/{start >> 32:08X}", start, end, sha256), end - start)


def of(*ranges: tuple[int, int]) -> TimelineLogs:
    return index([stored(*r) for r in ranges]).timeline(7, 1)


def ranges(logs: list[StoredLog]) -> list[tuple[int, int]]:
    return [(log.name.start, log.name.end) for log in logs]


def test_slices_and_the_whole_segment_are_one_stretch() -> None:
    logs = of((16, 20), (20, 24), (16, 32), (0, 16))
    assert logs.stretches() == [Range(0, 32)]
    assert ranges(logs.covering(0, 32)) == [(0, 16), (16, 32)]
    assert ranges(logs.covering(18, 22)) == [(16, 32)]
    assert logs.covered_to(5) == 32
    assert logs.covered_to(32) == 32
    assert logs.covered_to(33) == 33


def test_a_gap_is_named() -> None:
    logs = of((0, 16), (32, 48))
    assert logs.stretches() == [Range(0, 16), Range(32, 48)]
    with pytest.raises(LogMissing, match=r"timeline 1 is missing from 0/10 to 0/20"):
        logs.covering(0, 48)
    with pytest.raises(LogMissing, match=r"from 0/30 to 0/40"):
        logs.covering(32, 64)


def test_clusters_and_timelines_are_kept_apart() -> None:
    found = index([
        stored(0, 16), stored(16, 32, timeline=2), stored(16, 32, system_id=8),
        StoredLog(LogName("ledger", "7/2/history", 0, 41, SHA), 200),
    ])  # fmt: skip
    assert found.timeline(7, 1).stretches() == [Range(0, 16)]
    assert found.timeline(7, 2).stretches() == [Range(16, 32)]
    assert found.timeline(8, 1).stretches() == [Range(16, 32)]
    assert set(found.histories) == {(7, 2)}
    assert LogIndex({}, {}).timeline(7, 1).stretches() == []


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda t: (t[0], t[0] + t[1])), max_size=12),
    st.integers(0, 60),
    st.integers(0, 30),
)
def test_covering_agrees_with_bytes(found: list[tuple[int, int]], start: int, length: int) -> None:
    covered = {byte for a, b in found for byte in range(a, b)}
    logs, wanted = of(*found), set(range(start, start + length))
    assert {byte for a, b in logs.stretches() for byte in range(a, b)} == covered
    if wanted <= covered:
        chosen = logs.covering(start, start + length)
        assert wanted <= {byte for a, b in ranges(chosen) for byte in range(a, b)}
        assert ranges(chosen) == sorted(ranges(chosen))
    else:
        with pytest.raises(LogMissing):
            logs.covering(start, start + length)
