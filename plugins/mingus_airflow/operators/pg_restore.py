"""Restore a cluster to a directory of the worker, once it was approved."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from mingus_airflow.operators.approved import ApprovedOperator
from mingus_airflow.recovery import RESTORE
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class PgRestoreOperator(ApprovedOperator[PostgresOrder]):
    """Writes the planned snapshot, and the WAL up to the target, into an empty directory that is then ready to start.

    A restore that fails leaves nothing that could be started.

    :param order: a ``restore`` order. (templated) :param plan: report of the plan task. (templated)
    :param asked: id of the task that asked for the approval. :param settings_file: (templated)
    """

    verb = "restore"
    family = "recovery"
    source_kind = "postgres"
    order_type = PostgresOrder
    modes: ClassVar[tuple[str, ...]] = (RESTORE,)
    ui_color = "#a33b3b"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``restore`` job."""
        from mingus_engine.jobs.postgres.restore import restore

        order = self.parsed()
        return restore(
            settings,
            order.source,
            directory=Path(order.directory),
            repository=str(self.plan["repository"]),
            snapshot=str(self.plan["snapshot"]),
            tablespace_map=order.tablespace_map(),
            **order.moment(),
            context=context,
        )
