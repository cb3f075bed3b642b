"""One thing to tell, as it is put into files between the process that met it and the one that tells it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

CRITICAL, WARNING, INFO = "critical", "warning", "info"
_RANKS = {INFO: 0, WARNING: 1, CRITICAL: 2}
FAILURE, EXHAUSTED, RECOVERED, LATE, FINDING, TEST, CHANNEL = (
    "failure", "exhausted", "recovered", "late", "finding", "test", "channel",
)  # fmt: skip
# What ends by itself when the same step succeeds again.
LASTING = frozenset({FAILURE, EXHAUSTED})


def rank(severity: object) -> int:
    """How severe: a greater number is worse. What is none of the three counts as critical: it must not be silenced."""
    return _RANKS.get(str(severity), _RANKS[CRITICAL])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened. Texts only, free of secrets.

    :param kind: ``failure`` (would fail again), ``exhausted`` (failed in every try), ``recovered``, ``late``,
        ``finding`` (a green task found something), ``test``, ``channel`` (another channel does not work).
    :param dag, run, task: of Airflow; empty where there is none.
    :param source: id; empty = of no source, or of all.
    :param cause: equal for what is the same story: the class of the error, the name of the finding.
    :param what: what failed, which object, the numbers. :param hint: the next step. :param url: of the run.
    :param tries: how often it was tried. :param at: ISO 8601.
    """

    kind: str
    severity: str
    dag: str = ""
    run: str = ""
    task: str = ""
    source: str = ""
    cause: str = ""
    what: str = ""
    hint: str = ""
    url: str = ""
    tries: int = 0
    at: str = field(default_factory=_now)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Event:
        """The event of :meth:`as_dict`; what another version wrote besides, or is of another type, is left out."""
        types = {spec.name: int if spec.name == "tries" else str for spec in dataclasses.fields(cls)}
        known: dict[str, Any] = {
            key: value for key, value in document.items() if key in types and isinstance(value, types[key])
        }
        return cls(**{"kind": FAILURE, "severity": CRITICAL, **known})
