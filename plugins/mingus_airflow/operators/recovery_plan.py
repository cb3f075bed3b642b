"""Plan a recovery: what would be used, written and reached, before anybody is asked to approve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mingus_airflow.operators.approved import OrderOperator, OrderT
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PlanReport(Report):
    """What a recovery will use. Sizes in bytes, times ISO 8601; ``None`` = unknown.

    :param restorable_from, restorable_to: the newest recovery window of the source.
    :param details: the engine's own plan.
    """

    mode: str
    repository: str
    snapshot: str
    restorable_from: str | None = None
    restorable_to: str | None = None
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """One flat table, which reads well in the UI and is what an approval is bound to."""
        plain = super().as_dict()
        # How long planning took says nothing about the recovery.
        del plain["duration_s"], plain["details"]
        return {**plain, **{key: value for key, value in self.details.items() if key not in plain}}


class RecoveryPlanOperator(OrderOperator[OrderT]):
    """Finds out which snapshot of which repository would be restored, how much, where to; writes nothing.

    Fails when the order cannot be carried out (a target outside the window, a place that is not free, …).

    :param order: parameters of the recovery. (templated) :param settings_file: (templated)
    """

    verb = "plan"
    ui_color = "#5c6f99"

    def planned(self, settings: Settings, order: OrderT, context: JobContext) -> dict[str, Any]:
        """The report of the job that would do it, run dry: ``repository``, ``snapshot`` and ``plan``; where they are
        known also ``restorable_from`` and ``restorable_to``.
        """
        raise NotImplementedError

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Plan the job and look at the recovery windows."""
        order, watch = self.parsed(), Stopwatch()
        planned = self.planned(settings, order, context)
        context.log(f"snapshot {planned['snapshot']} of repository {planned['repository']}")
        return PlanReport(
            job="plan",
            source=order.source,
            duration_s=watch.seconds,
            mode=order.mode,
            repository=planned["repository"],
            snapshot=planned["snapshot"],
            restorable_from=planned.get("restorable_from"),
            restorable_to=planned.get("restorable_to"),
            details=planned["plan"],
        )


def dry(order: OrderT, context: JobContext) -> dict[str, Any]:
    """Arguments of a restoring job that is only planned."""
    return {
        "repository": order.repository or None,
        "snapshot": order.snapshot or None,
        "dry_run": True,
        "context": context,
    }
