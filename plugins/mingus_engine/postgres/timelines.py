"""Timelines: which ones a timeline descends from, and where each of them was left (its ``.history`` file)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mingus_engine import lsn as lsns
from mingus_engine.errors import Damaged

_LINE = re.compile(r"\s*([0-9]+)\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s.*)?")


class Step(NamedTuple):
    """A timeline on the way to another one: it holds the log from ``begin`` up to ``end`` (LSNs).

    The last step of a path has no end (``None``).
    """

    timeline: int
    begin: int
    end: int | None

    def holds(self, lsn: int) -> bool:
        """Whether *lsn* is a position on this step; where it is left is one too."""
        return self.begin <= lsn and (self.end is None or lsn <= self.end)


def path(timeline: int, history: bytes | None, what: str = "timeline history") -> tuple[Step, ...]:
    """The steps that lead to *timeline*, oldest first; each line of *history* is an ancestor and where it was left.

    Source: PostgreSQL's ``readTimeLineHistory``. Without a history a timeline is taken to have no ancestors.

    :raises Damaged: not a history of that timeline.
    """
    left: list[tuple[int, int]] = []
    for number, line in enumerate((history or b"").decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise Damaged(f"{what}: line {number} names no timeline and position")
        ancestor, position = int(match[1]), lsns.parse(match[2])
        if ancestor >= timeline or (left and (ancestor <= left[-1][0] or position < left[-1][1])):
            raise Damaged(f"{what}: line {number} is out of order")
        left.append((ancestor, position))
    begins = [0, *(position for _, position in left)]
    steps = [Step(ancestor, begins[i], position) for i, (ancestor, position) in enumerate(left)]
    return (*steps, Step(timeline, begins[-1], None))


def shown(steps: Sequence[Step]) -> str:
    """``1 → 2 (from 0/3000000)``."""
    return " → ".join(f"{s.timeline} (from {lsns.text(s.begin)})" if s.begin else str(s.timeline) for s in steps)
