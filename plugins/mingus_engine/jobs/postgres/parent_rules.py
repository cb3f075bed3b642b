"""What an increment of PostgreSQL may not be built on, besides the general rules (``repository.reusable``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mingus_engine import lsn as lsns
from mingus_engine.errors import Damaged
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository.records import Record
from mingus_engine.repository.reusable import Candidate


class Gap(NamedTuple):
    """WAL that was declared lost: LSNs on a timeline."""

    timeline: int
    start: int
    end: int


class PostgresRules:
    """A fresh full after another timeline, version, checksum state, ``wal_level``, a server put back in time, lost log.

    :param gaps: WAL that was declared lost. Facts of now have ``position``, the server's newest LSN.
    """

    def __init__(self, gaps: Sequence[Gap] = ()) -> None:
        self._gaps = gaps

    def foreign(self, then: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """See :class:`Rules`."""
        theirs, ours = then.get("system_id"), facts.get("system_id")
        return f"it is of cluster {theirs}, not {ours}" if theirs != ours else ""

    def begin_anew(self, parent: Candidate, facts: Mapping[str, Any]) -> list[str]:
        """See :class:`Rules`."""
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
            for gap in self._gaps
            if gap.timeline == facts["timeline"] and gap.end > stop
        )
        return reasons


def declared_gaps(audits: Iterable[Record], context: JobContext) -> list[Gap]:
    """WAL that was declared lost (``jobs.postgres.wal_session``), of the audit records *audits*."""
    found = []
    for record in audits:
        if record.facts.get("event") != "wal gap":
            continue
        try:
            start, end = lsns.parse(record.text("from")), lsns.parse(record.text("to"))
            found.append(Gap(record.source_envelope.number("timeline"), start, end))
        except (Damaged, ValueError):
            # No left-over may ever keep a source from being backed up.
            context.log(f"not understood: {record.name}")
    return found


def _major(facts: Mapping[str, Any]) -> int:
    return int(facts["server_version_number"]) // 10000
