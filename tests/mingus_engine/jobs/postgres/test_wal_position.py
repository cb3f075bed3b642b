"""Where archiving goes on, decided from listings alone."""

from __future__ import annotations

import pytest

from mingus_engine.jobs.postgres.wal_position import Position, position
from mingus_engine.postgres.timelines import Step
from mingus_engine.repository import log_index, names
from mingus_engine.repository.log_index import LogIndex, StoredLog

SYSTEM, SEGMENT = 7, 0x100
ONE = (Step(1, 0, None),)
# Timeline 2 left timeline 1 within the segment 0x500, timeline 3 left 2 at the end of a segment.
TWO = (Step(1, 0, 0x530), Step(2, 0x530, None))
THREE = (Step(1, 0, 0x530), Step(2, 0x530, 0x700), Step(3, 0x700, None))


def stored(*ranges: tuple[int, int, int]) -> LogIndex:
    """An index of (timeline, start, end)."""
    return log_index.index(
        StoredLog(names.LogName("s", names.wal_lineage(SYSTEM, timeline, start), start, end, f"{start:064x}"), 1)
        for timeline, start, end in ranges
    )


@pytest.mark.parametrize(
    ("steps", "ranges", "restart", "expected"),
    [
        # nothing is stored: from the start of the segment that the slot holds
        (ONE, [], 0x333, Position(1, 0x300, begins=True)),
        # the end of what is stored, in the middle of a segment or where one ends
        (ONE, [(1, 0x200, 0x300), (1, 0x300, 0x340)], 0x2FF, Position(1, 0x340)),
        (ONE, [(1, 0x200, 0x300)], 0x2FF, Position(1, 0x300)),
        # a new slot further on, the log before it ends where its segment begins
        (ONE, [(1, 0x200, 0x300)], 0x333, Position(1, 0x300)),
        # a full backup stored newer log: the hole before it is filled
        (ONE, [(1, 0x200, 0x300), (1, 0x600, 0x720)], 0x2FF, Position(1, 0x300)),
        # a hole before what the slot holds: the server may still have it
        (ONE, [(1, 0x200, 0x340)], 0x555, Position(1, 0x500, begins=True, earlier=Position(1, 0x340))),
        # only newer log is stored
        (ONE, [(1, 0x600, 0x700)], 0x333, Position(1, 0x300, begins=True)),
        # across a promotion: first the rest of the old timeline ...
        (TWO, [(1, 0x400, 0x520)], 0x4FF, Position(1, 0x520)),
        # ... then the new one from the start of the segment that holds the switch
        (TWO, [(1, 0x400, 0x530)], 0x4FF, Position(2, 0x500, begins=True)),
        (TWO, [(1, 0x400, 0x530), (2, 0x500, 0x580)], 0x4FF, Position(2, 0x580)),
        # the old primary went on after the switch: that is not the way
        (TWO, [(1, 0x400, 0x600)], 0x4FF, Position(2, 0x500, begins=True)),
        # the slot of a new primary was made after the switch; the old timeline's end may still be there
        (TWO, [(1, 0x400, 0x520)], 0x777, Position(2, 0x700, begins=True, earlier=Position(1, 0x520))),
        (
            TWO,
            [(1, 0x400, 0x530)],
            0x777,
            Position(2, 0x700, begins=True, earlier=Position(2, 0x500, begins=True)),
        ),
        # two promotions at once, the second one where a segment ends
        (THREE, [(1, 0x400, 0x530), (2, 0x500, 0x700)], 0x4FF, Position(3, 0x700, begins=True)),
        (THREE, [(1, 0x400, 0x530), (2, 0x500, 0x700), (3, 0x700, 0x710)], 0x4FF, Position(3, 0x710)),
    ],
)
def test_archiving_goes_on_contiguous_with_what_the_slot_holds(
    steps: tuple[Step, ...], ranges: list[tuple[int, int, int]], restart: int, expected: Position
) -> None:
    assert position(stored(*ranges), SYSTEM, steps, restart, SEGMENT) == expected


def test_log_of_another_cluster_is_not_ours() -> None:
    index = stored((1, 0x200, 0x300))
    assert position(index, SYSTEM + 1, ONE, 0x2FF, SEGMENT) == Position(1, 0x200, begins=True)
