"""What a new snapshot may build on: pure decisions, each with its reason (DESIGN §4 "Change detection").

Two questions. *Which snapshot is the parent?* The newest that may be one; there is none when the chain must begin anew
(a *fresh full*). *Which of its packs may be referred to?* What may not is stored again; there is no repack job.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from mingus_engine import bounds

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


class Rules(Protocol):
    """What a kind of source adds to the rules below. Facts are as in a manifest, and what the source gave for now."""

    def foreign(self, then: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """Why a snapshot with the facts *then* is of something else than the source now; empty = it is not."""

    def begin_anew(self, parent: Candidate, facts: Mapping[str, Any]) -> list[str]:
        """Why nothing may be built on *parent* nor on anything older; empty = it may be."""


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
    rules: Rules,
) -> Choice:
    """The parent of a backup of the source that *facts* are of.

    :param candidates: newest first; looked at until one decides.
    :param generation: how old a chain may become, counted from its full backup.
    """
    passed: list[str] = []
    for candidate in candidates:
        if why := cannot_be_parent(candidate, now) or rules.foreign(candidate.facts, facts):
            passed.append(f"not on {candidate.snapshot}: {why}")
            continue
        begin_anew = [*rules.begin_anew(candidate, facts), *too_old(candidate, now, generation)]
        return Choice(None, [*passed, *begin_anew]) if begin_anew else Choice(candidate, passed)
    return Choice(None, [*passed, "there is no snapshot to build on"])


def cannot_be_parent(candidate: Candidate, now: datetime) -> str:
    """Why *candidate* cannot be the parent although an older one may be; empty = it can."""
    if not candidate.settled:
        return "a cleaner has not settled it yet"
    if candidate.flagged:
        return "it is flagged"
    if candidate.refuted:
        return f"its newest proof ({candidate.refuted}) failed"
    if candidate.written_at > now + bounds.CLOCK_SKEW_MAX:
        return f"it is dated {candidate.written_at:%F %T}, after the present"
    return "" if candidate.same_hash_key else "its block hashes have another key"


def too_old(parent: Candidate, now: datetime, generation: timedelta) -> list[str]:
    """Why the chain that *parent* is the end of has become too long; empty = it has not."""
    started = generation_start(parent.facts)
    if now - started < generation:
        return []
    return [f"the last fresh full is of {started:%F %T}, over {generation.days} days ago"]


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
