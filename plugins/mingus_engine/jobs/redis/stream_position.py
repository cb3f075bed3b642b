"""Where the recording of a command stream goes on: a pure decision from what is stored and what the server has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mingus_engine.jobs.redis.stream_store import system_id
from mingus_engine.repository.log_index import LogIndex
from mingus_engine.sources.redis.choosing import LAG_MAX_BYTES
from mingus_engine.sources.redis.stream import Replication


@dataclass(frozen=True)
class Gap:
    """Commands that are stored nowhere and that the server does not have any more.

    :param start: where what is stored of *replid* ends. :param end: where recording began anew in *next_replid*.
    """

    replid: str
    start: int
    next_replid: str
    end: int
    why: str

    def as_dict(self) -> dict[str, object]:
        """JSON types. ``bytes`` only within one history: offsets of two cannot be compared."""
        return {
            "replid": self.replid, "from": self.start, "next_replid": self.next_replid, "to": self.end,
            "bytes": self.end - self.start if self.replid == self.next_replid else None, "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True)
class Position:
    """Go on at *offset* of the history *replid*.

    :param begins: nothing is stored right before: a snapshot is needed to begin a recovery with.
    :param gap: what was lost.
    """

    replid: str
    offset: int
    begins: bool = False
    gap: Gap | None = None


def position(
    index: LogIndex, server: Replication, snapshots: Mapping[str, Sequence[int]], last_replid: str = ""
) -> Position:
    """Where to go on: where what is stored ends, else at a snapshot that the server can still go on from,
    else about now.

    Of its own history the oldest such: moments between two snapshots can be restored then, too. Of the one before the
    newest: what follows it there must not be recorded again under another name.

    :param snapshots: history → offsets of its snapshots, ascending.
    :param last_replid: of the history that was recorded last; empty = nothing was.
    """
    histories = [replid for replid in (server.replid, server.replid2) if replid]
    why = ""
    for replid in histories:
        end = stored_to(index, replid)
        if end is not None:
            if not (trouble := server.trouble(replid, end)):
                return Position(replid, end)
            why = why or trouble
    last = server.replid if stored_to(index, server.replid) is not None else last_replid
    lost_from = stored_to(index, last) if last else None
    why = why or f"the server has another history ({server.replid[:8]}…)"
    # A little before the present: the snapshot to come may be read from a replica, which is a little behind.
    earliest = server.offset if server.backlog_start is None else server.backlog_start
    here = Position(server.replid, max(earliest, server.offset - LAG_MAX_BYTES), begins=True)
    for replid in histories:
        offsets = sorted(snapshots.get(replid, ()), reverse=replid != server.replid)
        for offset in offsets:
            if here.begins and not server.trouble(replid, offset):
                here = Position(replid, offset)
    if lost_from is None or (last == here.replid and lost_from >= here.offset):
        return here
    return replace(here, gap=Gap(last, lost_from, here.replid, here.offset, why))


def stored_to(index: LogIndex, replid: str) -> int | None:
    """Where what is stored of a history ends; ``None`` = nothing is."""
    stretches = index.timeline(system_id(replid), 1).stretches()
    return stretches[-1].end if stretches else None
