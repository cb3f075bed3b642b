"""The log on the way to a timeline: how far it reaches, and which files it makes."""

import pytest

from mingus_engine.errors import LogMissing
from mingus_engine.postgres.timelines import Step, path
from mingus_engine.repository.log_index import StoredLog, index
from mingus_engine.repository.names import LogName
from mingus_engine.repository.wal_path import WalPath

SEGMENT = 1 << 20
SHA = "0" * 64


def at(segment: float) -> int:
    return int(segment * SEGMENT)


def made(steps: tuple[Step, ...], **logs: list[tuple[float, float]]) -> WalPath:
    """``t1=[(3, 4), …]``: containers of timeline 1, in segments."""
    found = index(
        StoredLog(LogName("ledger", f"7/{timeline[1:]}/00000000", at(a), at(b), SHA), 100)
        for timeline, ranges in logs.items()
        for a, b in ranges
    )
    return WalPath(found, 7, steps, SEGMENT)


def files(wal: WalPath, start: float, end: float) -> list[tuple[str, float]]:
    return [(file.name[4:8] + file.name[-2:], file.length / SEGMENT) for file in wal.files(at(start), at(end))]


ALONE = (Step(1, 0, None),)
PROMOTED = (Step(1, 0, at(4.5)), Step(2, at(4.5), None))


def test_one_timeline_is_covered_to_its_first_gap() -> None:
    wal = made(ALONE, t1=[(3, 4), (4, 5), (6, 7)])
    assert wal.covered_to(at(3)) == at(5)
    assert wal.covered_to(at(6)) == at(7)
    assert wal.covered_to(at(5.5)) == at(5.5)
    assert files(wal, 3.25, 5) == [("000103", 1), ("000104", 1)]
    with pytest.raises(LogMissing, match="from 0/500000 to 0/600000"):
        list(wal.files(at(3), at(7)))


def test_slices_make_one_file_and_a_whole_segment_replaces_them() -> None:
    wal = made(ALONE, t1=[(3, 3.25), (3.25, 3.5), (3.5, 3.75)])
    assert wal.covered_to(at(3)) == at(3.75)
    (file,) = wal.files(at(3), at(3.6))
    assert file.length == at(0.6)
    assert [(p.start, p.end) for p in file.pieces] == [
        (at(3), at(3.25)), (at(3.25), at(3.5)), (at(3.5), at(3.6)),
    ]  # fmt: skip
    whole = made(ALONE, t1=[(3, 3.25), (3.25, 3.5), (3, 4)])
    assert len(next(whole.files(at(3), at(4))).pieces) == 1


def test_a_path_goes_over_to_the_new_timeline_in_the_middle_of_a_segment() -> None:
    wal = made(PROMOTED, t1=[(3, 4), (4, 4.5), (4.5, 4.8)], t2=[(4, 5), (5, 5.5)])
    assert wal.covered_to(at(3)) == at(5.5)
    assert files(wal, 3, 5.5) == [("000103", 1), ("000204", 1), ("000205", 0.5)]
    # Before the switch the old timeline's file is what a server finds.
    assert files(wal, 3, 4.25) == [("000103", 1), ("000104", 0.25)]


def test_the_end_of_the_old_timeline_is_taken_from_the_new_ones_copy() -> None:
    wal = made(PROMOTED, t1=[(3, 4)], t2=[(4, 5)])
    assert wal.covered_to(at(3)) == at(5)
    assert files(wal, 3, 5) == [("000103", 1), ("000204", 1)]
    # … and the other way about.
    wal = made(PROMOTED, t1=[(3, 4), (4, 4.5)], t2=[(4.5, 5)])
    assert wal.covered_to(at(3)) == at(5)
    (_, file) = wal.files(at(3), at(5))
    assert [p.log.name.lineage for p in file.pieces] == ["7/1/00000000", "7/2/00000000"]


def test_a_copy_does_not_bridge_a_gap_before_its_segment() -> None:
    wal = made(PROMOTED, t1=[(3, 3.5)], t2=[(4, 5)])
    assert wal.covered_to(at(3)) == at(3.5)
    with pytest.raises(LogMissing):
        wal.pieces(at(3), at(5))


def test_two_promotions_in_one_segment_are_followed() -> None:
    steps = path(3, b"1 0/420000\n2 0/480000\n")
    wal = made(steps, t1=[(3, 4)], t3=[(4, 5)])
    assert wal.covered_to(at(3)) == at(5)
    assert files(wal, 3, 5) == [("000103", 1), ("000304", 1)]


def test_the_old_timeline_ends_where_its_own_log_does() -> None:
    wal = made(ALONE, t1=[(3, 4), (4, 4.8)], t2=[(4, 6)])
    assert wal.covered_to(at(3)) == at(4.8)


def test_a_switch_at_a_segments_boundary_needs_no_copy() -> None:
    wal = made((Step(1, 0, at(4)), Step(2, at(4), None)), t1=[(3, 4)], t2=[(4, 5)])
    assert files(wal, 3, 5) == [("000103", 1), ("000204", 1)]
