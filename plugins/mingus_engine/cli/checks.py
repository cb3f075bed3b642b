"""Checks as a table: what was checked, how it ended, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mingus_engine.cli import output

# How an invariant was compared (``data["rule"]`` of its check).
_RULES = {
    "exact": "exactly",
    "tolerance": "within tolerance",
    "predicate": "must be true",
    "none": "nothing recorded",
}


def check_lines(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """A table of *checks* (``name``, ``ok``, ``detail``, maybe ``data``, maybe ``scope``)."""
    known = list(checks)
    compared = [_RULES.get(str((c.get("data") or {}).get("rule")), "") for c in known]
    scoped = any(c.get("scope") for c in known)
    rows = [
        [
            *([str(check.get("scope", ""))] if scoped else []),
            str(check["name"]),
            result(check),
            *([rule] if any(compared) else []),
            str(check.get("detail", "")),
        ]
        for check, rule in zip(known, compared, strict=True)
    ]
    headers = [
        *(["WHERE"] if scoped else []), "CHECK", "RESULT", *(["COMPARED"] if any(compared) else []), "DETAIL"
    ]  # fmt: skip
    return output.table(headers, rows) if rows else []


def result(check: Mapping[str, Any]) -> str:
    """``ok``, ``FAILED``, or ``not run`` where something needed for the check is missing."""
    if check["ok"]:
        return "ok"
    return "not run" if (check.get("data") or {}).get("available") is False else "FAILED"
