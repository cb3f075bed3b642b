"""What a new snapshot may build on: pure decisions, each with its reason (DESIGN §4 "Change detection").

Two questions. *Which snapshot is the parent?* The newest that may be one; there is none when the chain must begin anew
(a *fresh full*). *Which of its packs may be referred to?* What may not is stored again; there is no repack job.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mingus_engine import bounds
from mingus_engine import lsn as lsns

# A pack less than this full of bytes that are still needed is emptied: its rest is stored again.
LIVE_MIN_SHARE = 0.3


@dataclass(frozen=True)
class Candidate:
    """A snapshot that might become the parent.

    :param refuted: level of its newest proof from L1 on if that failed, else empty.
    :param same_hash_key: block hashes can be compared.
    """

    snapshot: str
    facts: Mapping[str, Any]
    written_at: datetime
    flagged: bool = False
    settled: bool = True
    refuted: str = ""
    same_hash_key: bool = True


class Gap(NamedTuple):
    """WAL that was declared lost: LSNs on a timeline."""

    timeline: int
    start: int
    end: int


@dataclass(frozen=True)
class Choice:
    """The parent, or ``None`` = a fresh full. ``reasons``: why not the newest, or why a fresh full."""

    parent: Candidate | None
    reasons: Sequence[str] = field(default_factory=tuple)


class Use(enum.Enum):
    """What may be done with a pack of the parent: refer to it; only read it; neither."""

    BUILD_ON = enum.auto()
    STORE_AGAIN = enum.auto()
    REFUSE = enum.auto()


def choose(
    candidates: Iterable[Candidate],
    facts: Mapping[str, Any],
    *,
    now: datetime,
    generation: timedelta,
    gaps: Sequence[Gap] = (),
) -> Choice:
    """The parent of a backup of the source that *facts* are of.

    :param candidates: newest first; looked at until one decides. :param facts: as in a manifest, and ``position``, the
        source's newest LSN. :param generation: how old a chain may become, counted from its full backup.
    """
    passed: list[str] = []
    for candidate in candidates:
        if why := cannot_be_parent(candidate, facts, now):
            passed.append(f"not on {candidate.snapshot}: {why}")
            continue
        begin_anew = fresh_full(candidate, facts, now=now, generation=generation, gaps=gaps)
        return Choice(None, [*passed, *begin_anew]) if begin_anew else Choice(candidate, passed)
    return Choice(None, [*passed, "there is no snapshot to build on"])


def cannot_be_parent(candidate: Candidate, facts: Mapping[str, Any], now: datetime) -> str:
    """Why *candidate* cannot be the parent although an older one may be; empty = it can."""
    if not candidate.settled:
        return "a cleaner has not settled it yet"
    if candidate.flagged:
        return "it is flagged"
    if candidate.refuted:
        return f"its newest proof ({candidate.refuted}) failed"
    if candidate.written_at > now + bounds.CLOCK_SKEW_MAX:
        return f"it is dated {candidate.written_at:%F %T}, after the present"
    if not candidate.same_hash_key:
        return "its block hashes have another key"
    theirs, ours = candidate.facts.get("system_id"), facts.get("system_id")
    return f"it is of cluster {theirs}, not {ours}" if theirs != ours else ""


def fresh_full(
    parent: Candidate, facts: Mapping[str, Any], *, now: datetime, generation: timedelta, gaps: Sequence[Gap] = ()
) -> list[str]:
    """Why nothing may be built on *parent* nor on anything older; empty = it may be."""
    then, reasons = parent.facts, []
    stop = lsns.parse(str(then["stop_lsn"]))
    if then["timeline"] != facts["timeline"]:
        reasons.append(f"timeline {then['timeline']} became {facts['timeline']}")
    elif int(facts["position"]) < stop:
        where = lsns.text(int(facts["position"]))
        reasons.append(f"the server is at {where}, before the end of {parent.snapshot}: it was restored")
    for what, old, new in (
        ("major version", _major(then), _major(facts)),
        ("data_checksums", then.get("data_checksums"), facts.get("data_checksums")),
        ("wal_level", then.get("settings", {}).get("wal_level"), facts.get("settings", {}).get("wal_level")),
    ):
        if old != new:
            reasons.append(f"{what} changed from {old} to {new}")
    reasons.extend(
        f"WAL from {lsns.text(gap.start)} to {lsns.text(gap.end)} was lost since {parent.snapshot}"
        for gap in gaps
        if gap.timeline == facts["timeline"] and gap.end > stop
    )
    started = generation_start(then)
    if now - started >= generation:
        reasons.append(f"the last fresh full is of {started:%F %T}, over {generation.days} days ago")
    return reasons


def generation_start(facts: Mapping[str, Any]) -> datetime:
    """When the full backup that a snapshot's chain began with was started."""
    begun = facts.get("backup", {}).get("generation", {}).get("started_at")
    return datetime.fromisoformat(str(begun or facts["started_at"]))


def reusable(
    name: str, *, planned: Container[str], refuted: bool = False, live: tuple[int, int] | None = None
) -> tuple[Use, str]:
    """What may be done with a pack of the parent, and why not more.

    :param name: its stored name. :param planned: what open plans want to delete. :param refuted: the newest proof from
        L1 on of a snapshot that holds the pack failed.
    :param live: bytes of it that the parent needs, and all it held when it was written; ``None`` = unknown.
    """
    if name in planned:
        return Use.REFUSE, "an open plan names it"
    if refuted:
        return Use.REFUSE, "verification of a snapshot that holds it failed"
    if live is not None and live[0] < live[1] * LIVE_MIN_SHARE:
        return Use.STORE_AGAIN, f"only {live[0]} of its {live[1]} bytes are needed"
    return Use.BUILD_ON, ""


def _major(facts: Mapping[str, Any]) -> int:
    return int(facts["server_version_number"]) // 10000
