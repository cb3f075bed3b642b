"""Archive the write-ahead log of a PostgreSQL cluster up to the present."""

from __future__ import annotations

from mingus_airflow.operators.base import EngineOperator
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class PgWalArchiveOperator(EngineOperator):
    """Drains the source's replication slot, ships what is archived to every repository, finds a marker in each.

    Returns the report of ``jobs.postgres.archive_wal``: segments, slices, bytes, lag, the moment up to which everything
    is archived, gaps, the slot's state. Where the streaming service holds the slot it only ships and checks, and fails
    when the service is behind. A retry goes on where the failed try stopped.
    """

    verb = "archive"
    family = "backup"
    source_kind = "postgres"
    ui_color = "#4a8f8f"

    @property
    def operation(self) -> str:
        """Of metrics."""
        return "wal"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``archive_wal`` job; fail when not every repository has everything."""
        from mingus_engine.jobs.postgres.archive_wal import archive_wal, refuse_incomplete

        report = archive_wal(settings, self.source, context=context)
        self.tell_findings(report)
        refuse_incomplete(report)
        return report
