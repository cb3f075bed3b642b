"""Plan a recovery of PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mingus_airflow.connections import resolve_destination
from mingus_airflow.operators.recovery_plan import RecoveryPlanOperator, dry
from mingus_airflow.recovery import EXTRACT
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_engine.jobs.context import JobContext
from mingus_engine.settings import Settings


class PgRecoveryPlanOperator(RecoveryPlanOperator[PostgresOrder]):
    """Plans to restore to a directory, or to extract into a server.

    :param order: as ``PostgresOrder``. (templated) :param settings_file: (templated)
    """

    order_type = PostgresOrder

    def planned(self, settings: Settings, order: PostgresOrder, context: JobContext) -> dict[str, Any]:
        """The plan of ``extract`` or ``restore``, and the newest window of the write-ahead log."""
        from mingus_engine.jobs.postgres.windows import windows

        report = _plan(settings, order, {**dry(order, context), **order.moment()})
        found = windows(settings, order.source, repository=report["repository"], context=context)
        return {**report, "restorable_from": found.restorable_from, "restorable_to": found.restorable_to}


def _plan(settings: Settings, order: PostgresOrder, common: dict[str, Any]) -> dict[str, Any]:
    if order.mode == EXTRACT:
        from mingus_engine.jobs.postgres.extract import extract

        settings = resolve_destination(settings, order.into)
        return extract(settings, order.source, **order.extraction(), **common).as_dict()
    from mingus_engine.jobs.postgres.restore import restore

    # A drill's directory is made, and wiped, by the drill.
    directory = Path(order.directory or settings.state_path / "scratch")
    planned = restore(settings, order.source, directory=directory, tablespace_map=order.tablespace_map(), **common)
    return planned.as_dict()
