"""Plan a recovery: what would be used, written and reached, before anybody is asked to approve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingus_airflow.connections import resolve_destination
from mingus_airflow.operators.approved import OrderOperator
from mingus_airflow.recovery import EXTRACT, RecoveryOrder
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


class PgRecoveryPlanOperator(OrderOperator):
    """Finds out which snapshot of which repository would be restored, how much, where to; writes nothing.

    Fails when the order cannot be carried out (a target outside the window, a place that is not free, …).

    :param order: parameters of the recovery, as ``RecoveryOrder``. (templated) :param settings_file: (templated)
    """

    verb = "plan"
    ui_color = "#5c6f99"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Plan the ``restore`` (or ``extract``) job and look at the recovery windows."""
        from mingus_engine.jobs.postgres.windows import windows

        order, watch = self.parsed(), Stopwatch()
        planned = _plan(settings, order, context)
        window = windows(settings, order.source, repository=planned["repository"], context=context)
        context.log(f"snapshot {planned['snapshot']} of repository {planned['repository']}")
        return PlanReport(
            job="plan",
            source=order.source,
            duration_s=watch.seconds,
            mode=order.mode,
            repository=planned["repository"],
            snapshot=planned["snapshot"],
            restorable_from=window.restorable_from,
            restorable_to=window.restorable_to,
            details=planned["plan"],
        )


def _plan(settings: Settings, order: RecoveryOrder, context: JobContext) -> dict[str, Any]:
    common: dict[str, Any] = {
        "repository": order.repository or None,
        "snapshot": order.snapshot or None,
        "dry_run": True,
        "context": context,
        **order.moment(),
    }
    if order.mode == EXTRACT:
        from mingus_engine.jobs.postgres.extract import extract

        settings = resolve_destination(settings, order.into)
        return extract(settings, order.source, **order.extraction(), **common).as_dict()
    from mingus_engine.jobs.postgres.restore import restore

    # A drill's directory is made, and wiped, by the drill.
    directory = Path(order.directory or settings.state_path / "scratch")
    planned = restore(settings, order.source, directory=directory, tablespace_map=order.tablespace_map(), **common)
    return planned.as_dict()
