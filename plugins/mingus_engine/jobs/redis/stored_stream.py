"""The command stream in a repository: histories, the way from one to the next, samples of the clock.

Each replication id is a lineage of its own (``names.wal_lineage(first 16 hex digits, 1, offset)``). A server that was
promoted goes on under a new id and shares the old history up to an offset: a ``history`` container of the new lineage
says so, as a ``.history`` file does for a timeline of PostgreSQL.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mingus_engine.codec.containers import ContainerKind
from mingus_engine.errors import Damaged, LogMissing
from mingus_engine.jobs.redis.stream_store import StreamDestination, system_id
from mingus_engine.jobs.stored_logs import Sample, StoredLogs, named, time_of
from mingus_engine.repository import names
from mingus_engine.repository.log_index import LogIndex, StoredLog
from mingus_engine.repository.logs import LogWriter
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.state import SourceState
from mingus_engine.repository.wal_path import Piece

_HISTORY_MAX_BYTES = 1 << 16
_STEPS_MAX = 1000


@dataclass(frozen=True)
class Step:
    """A history, and up to which offset the next one shares it; ``None`` = it is the last."""

    replid: str
    until: int | None = None


@dataclass(frozen=True)
class StreamPath:
    """The steps to a history, oldest first, over what is stored."""

    index: LogIndex
    steps: Sequence[Step]

    @property
    def replid(self) -> str:
        """Where it leads."""
        return self.steps[-1].replid

    def holds(self, replid: str, offset: int) -> bool:
        """Whether a snapshot at *offset* of *replid* lies on it."""
        return any(s.replid == replid and (s.until is None or offset <= s.until) for s in self.steps)

    def covered_to(self, start: int) -> int:
        """The first offset from *start* on that is not stored."""
        return max((piece.end for piece in self._pieces(start, None)), default=start)

    def pieces(self, start: int, end: int) -> list[Piece]:
        """What holds every byte from *start* to *end*, in order, without overlap.

        :raises LogMissing: there is a gap; it is named.
        """
        found = self._pieces(start, end)
        reached = found[-1].end if found else start
        if reached < end:
            raise LogMissing(f"the command stream of {self.replid[:8]}… is missing from {reached} to {end}")
        return found

    def _pieces(self, start: int, end: int | None) -> list[Piece]:
        at, found = start, []
        for step in self.steps:
            logs = self.index.timeline(system_id(step.replid), 1)
            limits = [x for x in (logs.covered_to(at), step.until, end) if x is not None]
            upto = min(limits)
            if upto <= at:
                continue
            for log in logs.covering(at, upto):
                behind = min(log.name.end, upto)
                found.append(Piece(log, at, behind))
                at = behind
        return found


class StoredStream(StoredLogs):
    """The command streams of one source in one open repository. Thread-safe."""

    def __init__(self, repository: Repository, source: str, seen: SourceState) -> None:
        super().__init__(repository, source, seen)
        self._planned = seen.planned

    def path(self, replid: str) -> StreamPath:
        """The way to a history.

        :raises DamagedLog: a history on it is not whole.
        """
        steps = [Step(replid)]
        while (before := self.follows(steps[0].replid)) is not None and len(steps) < _STEPS_MAX:
            if any(step.replid == before.replid for step in steps):
                break
            steps.insert(0, before)
        return StreamPath(self.index, steps)

    def follows(self, replid: str) -> Step | None:
        """The history that *replid* shares the beginning of; several readers may have noted how far.

        :raises DamagedLog: a history is not whole.
        """
        found: Step | None = None
        for log in self.histories(replid):
            values = _history(self.content(log, _HISTORY_MAX_BYTES), replid, log)
            until = int(values["until"])
            if found is None or until > (found.until or 0):
                found = Step(str(values["follows"]), until)
        return found

    def histories(self, replid: str) -> list[StoredLog]:
        """The containers that say what *replid* follows."""
        prefix = f"logs/{self.source}/{names.history_lineage(system_id(replid), 1)}/"
        listed = [(names.log(i.name), i) for i in self.repository.store.list(prefix) if i.name not in self._planned]
        found = (StoredLog(name, info.size) for name, info in listed if name is not None)
        return [log for log in found if str(log.name) not in self.damaged]

    def samples(self, piece: Piece) -> list[tuple[int, int]]:
        """Offset and clock (µs since 2000) of each sample of a piece, ascending. :raises DamagedLog:"""
        with named(piece.log):
            raw = self.directory(piece.log).facts.get("samples", ())
            try:
                found = sorted((int(offset), int(clock)) for offset, clock in raw)
            except (TypeError, ValueError):
                raise Damaged(f"{piece.log.name}: its samples are not well-formed") from None
        return [sample for sample in found if piece.start <= sample[0] <= piece.end]

    def newest_sample(self, pieces: Sequence[Piece]) -> Sample | None:
        """The newest of *pieces*; ``None`` = unknown."""
        for piece in reversed(pieces):
            if found := self.samples(piece):
                offset, clock = max(found, key=lambda sample: sample[1])
                return Sample(time_of(clock, str(piece.log.name)), offset)
        return None

    def oldest_sample(self, pieces: Sequence[Piece]) -> Sample | None:
        """The oldest of *pieces*; ``None`` = unknown."""
        for piece in pieces:
            if found := self.samples(piece):
                offset, clock = min(found, key=lambda sample: sample[1])
                return Sample(time_of(clock, str(piece.log.name)), offset)
        return None

    def sample_before(self, pieces: Sequence[Piece], clock_us: int) -> tuple[Sample | None, Sample | None]:
        """The newest sample not after a moment, and the oldest after it; ``None`` = there is none."""
        before: Sample | None = None
        low, high = 0, len(pieces)
        # The first piece whose first sample is later; pieces without any are passed over.
        while low < high:
            middle = (low + high) // 2
            at = next((i for i in range(middle, high) if self.samples(pieces[i])), None)
            if at is None or min(clock for _, clock in self.samples(pieces[at])) > clock_us:
                high = middle
            else:
                low = at + 1
        for piece in reversed(pieces[:low]):
            found = sorted(self.samples(piece), key=lambda sample: sample[1])
            number = bisect.bisect_right([clock for _, clock in found], clock_us)
            if number:
                before = Sample(time_of(found[number - 1][1], str(piece.log.name)), found[number - 1][0])
                if number < len(found):
                    return before, Sample(time_of(found[number][1], str(piece.log.name)), found[number][0])
                break
        return before, self.oldest_sample(pieces[low:])


def put_history(to: StreamDestination, stored: StoredStream, follows: str, until: int) -> bool:
    """Note that the history of *to* shares *follows* up to *until*; whether that was not known yet.

    :raises StoreError: it could not be stored.
    """
    known = stored.follows(to.replid)
    if known is not None and known.replid == follows and (known.until or 0) >= until:
        return False
    content = json.dumps({"replid": to.replid, "follows": follows, "until": until}).encode()
    # Another length than those that are there: two of one name could not differ.
    taken = {log.name.end for log in stored.histories(to.replid)}
    while len(content) in taken:
        content += b" "
    writer = LogWriter(
        to.run, ContainerKind.HISTORY, names.history_lineage(system_id(to.replid), 1), 0,
        spool_path=to.spool_path, level=to.level,
    )  # fmt: skip
    try:
        writer.append(content)
        writer.put(server_clock_us=0, flush=0, facts={"replid": to.replid, "follows": follows, "until": until})
    finally:
        writer.close()
    return True


def _history(raw: bytes, replid: str, log: StoredLog) -> Mapping[str, Any]:
    with named(log):
        try:
            values = json.loads(raw)
            if values["replid"] == replid and isinstance(values["follows"], str) and int(values["until"]) >= 0:
                return dict(values)
        except (ValueError, TypeError, KeyError):
            pass
        raise Damaged(f"{log.name}: is not the history of {replid}")
