"""Records: signed notes beside snapshots. One sealed, signed form; the kind is in the name.

The header is plain, because deletion and the judgement of snapshots must work without a key: what a plan names, which
run a fence is about, which snapshot a proof is for. The sealed body holds what only the owner may read (reports,
reasons).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingus_engine import ulids
from mingus_engine.codec import plainjson
from mingus_engine.repository import envelope, names

PROOF = "proof"
PLAN = "plan"
FENCE = "fence"
VERDICT = "verdict"
DONE = "done"
FLAG = "flag"
HOLD = "hold"
RELEASE = "release"
AUDIT = "audit"
KINDS = frozenset({PROOF, PLAN, FENCE, VERDICT, DONE, FLAG, HOLD, RELEASE, AUDIT, "probe"})
#: Records that are about a run carry its ULID in their name, so that a writer finds its fences by one prefix.
ABOUT_A_RUN = frozenset({FENCE, VERDICT})


@dataclass(frozen=True)
class Record:
    """One record, its signature verified. ``facts`` is the plain header; ``name`` where it lies."""

    name: names.RecordName
    facts: Mapping[str, Any]
    source_envelope: envelope.Envelope

    def text(self, key: str) -> str:
        """A text of the header. :raises Damaged: not there."""
        return self.source_envelope.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts of the header. :raises Damaged: not there."""
        values = envelope.typed(self.facts, key, list, str(self.name))
        return tuple(str(v) for v in values)


def header(kind: str, source: str, facts: Mapping[str, Any], *, run: str = "") -> dict[str, Any]:
    """The plain header of a new record.

    :param run: of a fence or verdict: the run it is about.
    """
    ulid = run if kind in ABOUT_A_RUN else ulids.new()
    return {**facts, "record": kind, "source": source, "ulid": ulid}


def decode(raw: bytes, name: names.RecordName, signing_public: bytes) -> Record:
    """Read and verify a record.

    :raises Damaged: changed, or not what its name says.
    """
    e = envelope.parse(raw, envelope.RECORD, str(name))
    e.verify(signing_public)
    if (e.text("source"), e.text("ulid"), e.text("record")) != (name.source, name.ulid, name.kind):
        envelope.mismatch(str(name))
    return Record(name, e.header, e)


def body(values: Mapping[str, Any]) -> bytes:
    """The plain bytes of a record's sealed body."""
    return plainjson.encode(dict(values))
