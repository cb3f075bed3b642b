"""What the recovery tests of many sources came to, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mingus_engine.jobs.recoverable import told

__all__ = ["of_each", "summary", "table", "told"]

_HEADERS = ("Source", "Result", "Repository", "Snapshot", "Recovered to", "RTO", "RPO", "What is wrong, what is left")


def of_each(sources: Sequence[str], outcomes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An outcome for each of *sources*: a task that was killed left none, which is a failure."""
    by_source = {outcome.get("source"): outcome for outcome in outcomes}
    none = {"ok": False, "error": "the test ended without a result; look at its log"}
    return [dict(by_source.get(source, {"source": source, **none})) for source in sources]


def table(outcomes: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table, one row a source."""
    rows = [_HEADERS, ("---",) * len(_HEADERS), *(_row(outcome) for outcome in outcomes)]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)


def summary(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """One paragraph for an alert: what failed, and what can still be recovered."""
    bad = [outcome for outcome in outcomes if not outcome["ok"]]
    told_of = "; ".join(f"{outcome['source']}: {_wrong(outcome)}" for outcome in bad)
    return f"{len(bad)} of {len(outcomes)} recovery tests failed. {told_of}"


def _row(outcome: Mapping[str, Any]) -> tuple[str, ...]:
    took, target = outcome.get("rto_s"), outcome.get("rto_target_s")
    reached = str(outcome.get("target") or (f"its end: {outcome['reason']}" if outcome.get("reason") else "its end"))
    if sample := outcome.get("sample"):
        reached += f", part {sample['part']} of {sample['of']}"
    notes = [] if outcome["ok"] else [_wrong(outcome)]
    notes += [f"not read: {name}: {why}" for name, why in (outcome.get("unreachable") or {}).items()]
    return (
        str(outcome["source"]),
        "recovered" if outcome["ok"] else "FAILED",
        str(outcome.get("repository") or "-"),
        str(outcome.get("snapshot") or "-"),
        reached if outcome.get("snapshot") else "-",
        "-" if took is None else f"{took:.1f} s of {target} s",
        "-" if outcome.get("rpo_s") is None else f"{outcome['rpo_s']:.0f} s",
        "; ".join(notes) or "-",
    )


def _wrong(outcome: Mapping[str, Any]) -> str:
    said = str(outcome.get("error") or "not known")
    left = outcome.get("still_recoverable")
    return said if left is None else f"{said}; still recoverable: {'; '.join(told(one) for one in left) or 'nothing'}"


def _cell(text: str) -> str:
    """*text* so that it stays in its cell; names and messages of other systems are not trusted."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
