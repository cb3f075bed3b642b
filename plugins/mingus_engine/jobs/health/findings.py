"""One line of a health report: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mingus_engine.jobs.health.gauges import Gauge

CRITICAL, WARN = "critical", "warn"
# What an error of a library may add; a report of a hundred sources is one page.
_DETAIL_MAX = 400
_WORDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param check: which; words with hyphens, a small fixed set. :param severity: of a failure: ``critical`` fails the
        health check, ``warn`` does not. :param known: false = it could not be checked here; then it is no failure.
    """

    check: str
    ok: bool
    detail: str = ""
    source: str = ""
    repository: str = ""
    severity: str = CRITICAL
    hint: str = ""
    known: bool = True

    @property
    def failed(self) -> bool:
        """Whether it was looked at and is not as it must be."""
        return self.known and not self.ok

    @property
    def result(self) -> str:
        """``ok``, ``WARN``, ``CRITICAL`` or ``not checked``."""
        return "ok" if self.ok else self.severity.upper() if self.known else "not checked"

    def as_dict(self) -> dict[str, Any]:
        """JSON types; empty values left out."""
        plain = {
            "check": self.check, "result": self.result, "source": self.source, "repository": self.repository,
            "detail": self.detail[:_DETAIL_MAX], "hint": self.hint if not self.ok else "",
        }  # fmt: skip
        return {key: value for key, value in plain.items() if value}


def slug(name: str) -> str:
    """The name of a check as a label: ``WAL round trip`` is ``wal-round-trip``; of a shard: without its name."""
    return _WORDS.sub("-", re.sub(r"^shard-\d+: ", "", name).lower()).strip("-")[:60]


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Critical, warnings, what could not be checked, then the rest; each in the order it was found."""
    order = {"CRITICAL": 0, "WARN": 1, "not checked": 2, "ok": 3}
    return sorted(found, key=lambda finding: order[finding.result])


def gauges(found: Iterable[Finding]) -> Iterator[Gauge]:
    """``health_check_ok`` of each check and place; the worst, where several shards or slots are one check."""
    worst: dict[tuple[tuple[str, str], ...], bool] = {}
    for finding in found:
        if finding.known:
            labels = {"check": finding.check, "source": finding.source, "repository": finding.repository}
            key = tuple((name, value) for name, value in labels.items() if value)
            worst[key] = worst.get(key, True) and finding.ok
    for key, ok in worst.items():
        yield Gauge("health_check_ok", float(ok), dict(key))
