"""Timeline histories: what a timeline descends from."""

import pytest

from mingus_engine.errors import Damaged
from mingus_engine.postgres.timelines import Step, path, shown


def test_a_timeline_without_history_stands_alone() -> None:
    assert path(1, None) == (Step(1, 0, None),)
    assert path(7, b"") == (Step(7, 0, None),)


def test_each_line_of_a_history_is_a_step() -> None:
    steps = path(4, b"1\t0/3000108\tno recovery target specified\n\n# note\n3\t1/A0\tbefore 2026-01-01\n")
    assert steps == (Step(1, 0, 0x3000108), Step(3, 0x3000108, 0x1000000A0), Step(4, 0x1000000A0, None))
    assert shown(steps) == "1 → 3 (from 0/3000108) → 4 (from 1/A0)"
    assert steps[0].holds(0x3000108)
    assert not steps[0].holds(0x3000109)


@pytest.mark.parametrize(
    "content",
    [b"x\n", b"1 0/1\n1 0/2\n", b"3 0/1\n", b"1\n", b"\xff\n", b"1 0/3\n2 0/2\n"],
    ids=["text", "twice", "itself", "no position", "bytes", "backwards"],
)
def test_what_is_no_history_is_refused(content: bytes) -> None:
    with pytest.raises(Damaged, match="line"):
        path(3, content)
