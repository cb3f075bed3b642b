"""Check a restored directory once more, before anybody starts a server there."""

from __future__ import annotations

from pathlib import Path

from mingus_airflow.operators.approved import OrderOperator
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class PgRestoredCheckOperator(OrderOperator[PostgresOrder]):
    """Reads the restored directory back from the disk and compares it with its ``backup_manifest``.

    Changes nothing, so it needs no approval. Must run on the worker that restored, before the first start.

    :param order: a ``restore`` order. (templated) :param settings_file: (templated)
    """

    order_type = PostgresOrder
    verb = "check"
    ui_color = "#3d7a4e"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``check_restored`` job."""
        from mingus_engine.jobs.postgres.check_restored import check_restored

        order = self.parsed()
        return check_restored(settings, order.source, directory=Path(order.directory), context=context)
