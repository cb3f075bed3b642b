"""Extract a database or tables into a running server, once it was approved."""

from __future__ import annotations

from typing import ClassVar

from mingus_airflow.connections import resolve_destination
from mingus_airflow.operators.approved import ApprovedOperator
from mingus_airflow.recovery import EXTRACT
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class PgExtractOperator(ApprovedOperator[PostgresOrder]):
    """Restores the planned snapshot to a scratch directory, and what was asked for from there into a server.

    All or nothing: what fails leaves the destination as it was.

    :param order: an ``extract`` order. (templated) :param plan: report of the plan task. (templated)
    :param asked: id of the task that asked for the approval. :param settings_file: (templated)
    """

    verb = "extract"
    family = "recovery"
    source_kind = "postgres"
    order_type = PostgresOrder
    modes: ClassVar[tuple[str, ...]] = (EXTRACT,)
    ui_color = "#a3663b"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``extract`` job."""
        from mingus_engine.jobs.postgres.extract import extract

        order = self.parsed()
        return extract(
            resolve_destination(settings, order.into),
            order.source,
            repository=str(self.plan["repository"]),
            snapshot=str(self.plan["snapshot"]),
            context=context,
            **order.extraction(),
            **order.moment(),
        )
