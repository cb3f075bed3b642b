"""Where archiving goes on: a pure decision from what is stored, what the slot holds and how the timelines went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.postgres.timelines import Step
from mingus_engine.repository.log_index import LogIndex, TimelineLogs


@dataclass(frozen=True)
class Gap:
    """Log of *timeline* from ``start`` to ``end`` that is stored nowhere and that the server does not have any more."""

    timeline: int
    start: int
    end: int
    why: str

    def as_dict(self) -> dict[str, object]:
        """JSON types."""
        return {
            "timeline": self.timeline, "from": lsns.text(self.start), "to": lsns.text(self.end),
            "bytes": self.end - self.start, "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True)
class Position:
    """Archiving goes on with *timeline* where its stored log ends (``stored_to``), or at a segment's start.

    :param begins: nothing of this timeline is stored right before: there is nothing to compare with.
    :param earlier: where the stored log before ``stored_to`` ends, when there is a hole between: to be tried first, for
        the server may still have what the slot does not hold.
    """

    timeline: int
    stored_to: int
    begins: bool = False
    earlier: Position | None = None

    def start(self, segment_bytes: int) -> int:
        """Where to receive from: a segment is stored whole when it ends, so it is received from its start."""
        return lsns.segment_start(self.stored_to, segment_bytes)


def position(index: LogIndex, system_id: int, steps: Sequence[Step], slot_restart: int, segment_bytes: int) -> Position:
    """Where to go on: contiguous with what the slot holds.

    Not with the newest that is stored: a full backup may have stored newer log while the archive was behind.

    :param steps: the way to the server's present timeline, oldest first.
    """
    way = _Way(index, system_id, steps, segment_bytes)
    at = next((i for i, step in enumerate(steps) if step.holds(slot_restart)), len(steps) - 1)
    here = way.onward(at, lsns.segment_start(max(slot_restart, steps[at].begin), segment_bytes))
    if not here.begins:
        return here
    before = way.before(here)
    if before is None or (before.timeline, before.stored_to) == (here.timeline, here.stored_to):
        return here
    return Position(here.timeline, here.stored_to, begins=True, earlier=before)


@dataclass(frozen=True)
class _Way:
    index: LogIndex
    system_id: int
    steps: Sequence[Step]
    segment_bytes: int

    def logs(self, step: Step) -> TimelineLogs:
        return self.index.timeline(self.system_id, step.timeline)

    def onward(self, at: int, lsn: int) -> Position:
        """From *lsn* on, over all that is stored without a hole, also into the next timelines."""
        step = self.steps[at]
        end = self.logs(step).covered_to(lsn)
        if step.end is not None and end >= step.end:
            return self.onward(at + 1, lsns.segment_start(step.end, self.segment_bytes))
        return Position(step.timeline, end, begins=end == lsn and self.logs(step).before(lsn) != lsn)

    def before(self, here: Position) -> Position | None:
        """Where the last log before *here* ends."""
        for at in reversed(range(len(self.steps))):
            step = self.steps[at]
            if step.timeline <= here.timeline:
                limit = here.stored_to if step.end is None else min(here.stored_to, step.end)
                found = self.logs(step).before(limit)
                if found is not None and (found > step.begin or at == 0):
                    return self.onward(at, found)
        return None
