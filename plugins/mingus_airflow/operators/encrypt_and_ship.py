"""Ship a source's snapshots along its chain of repositories."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mingus_airflow import metrics
from mingus_airflow.operators.base import EngineOperator, snapshot_id
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ChainReport(Report):
    """The hops of a chain, summed up. No hop = the source has one repository only."""

    snapshot: str | None = None
    repositories: list[str] = field(default_factory=list)
    hops: list[dict[str, Any]] = field(default_factory=list)
    objects_put: int = 0
    bytes_put: int = 0


def hops(chain: Sequence[str], first: str) -> list[tuple[str, str]]:
    """Origin and destination of each hop when the backup is in *first*.

    That is the chain's first repository unless that could not be reached: then the rest of the chain is served before
    the ones that were passed over.
    """
    at = chain.index(first)
    return [*itertools.pairwise(chain[at:]), *((first, skipped) for skipped in chain[:at])]


class EncryptAndShipOperator(EngineOperator):
    """Copies packs bit for bit to each further repository of the chain and seals the manifest under each one's own key.

    What a repository has already is not sent again, so a retry or a later run completes what an earlier one left.

    :param source: id of the source in the settings. (templated)
    :param snapshot: ULID, or the report of the backup task; default: everything a repository lacks. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "ship"
    family = "ship"
    ui_color = "#7a5c99"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "snapshot")

    def __init__(self, *, source: str, snapshot: str | Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(source=source, **kwargs)
        self.snapshot = snapshot
        self._done: list[dict[str, Any]] = []
        # Of the hop that is under way; empty = none is yet.
        self._destination = ""

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``ship`` job once per neighbouring pair of the chain."""
        from mingus_engine.jobs.ship import ship

        watch, snapshot, chain = Stopwatch(), snapshot_id(self.snapshot), settings.chain(self.source)
        first = self.snapshot.get("repository") if isinstance(self.snapshot, Mapping) else None
        done = self._done = []
        for origin, destination in hops(chain, first or chain[0]):
            context.log(f"shipping from {origin} to {destination}")
            self._destination = destination
            report = ship(
                settings, self.source, origin=origin, destination=destination, context=context, snapshot=snapshot
            )
            done.append({"origin": origin, "destination": destination, **report.as_dict()})
        if not done:
            context.log(f"nothing to ship: {self.source} has one repository only, {chain[0]} (ship_to is empty)")
        return ChainReport(
            job="ship",
            source=self.source,
            duration_s=watch.seconds,
            snapshot=snapshot,
            repositories=list(chain),
            hops=done,
            objects_put=sum(hop.get("objects_put", 0) for hop in done),
            bytes_put=sum(hop.get("bytes_put", 0) for hop in done),
        )

    def count_success(self, report: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        """One try for each repository that was shipped to."""
        for hop in report["hops"]:
            metrics.succeeded(self.family, {**hop, "repository": hop["destination"]}, labels)

    def count_failure(self, labels: Mapping[str, str]) -> None:
        """Of the repository that could not be shipped to; those before it have what they were sent."""
        self.count_success({"hops": self._done}, labels)
        metrics.failed(self.family, {**labels, "repository": self._destination})
