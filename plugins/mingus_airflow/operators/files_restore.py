"""Restore files to a directory of the worker, or to where they were, once it was approved."""

from __future__ import annotations

from typing import ClassVar

from mingus_airflow.operators.approved import ApprovedOperator
from mingus_airflow.recovery import EXTRACT, RESTORE
from mingus_airflow.recovery_files import FilesOrder
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class FilesRestoreOperator(ApprovedOperator[FilesOrder]):
    """Writes the planned snapshot into a new directory; or all or some of its files into a place that holds files.

    What fails in a new directory is removed. In a place that held files what was done stays, and the log says what; the
    same order again, with ``delta``, goes on.

    :param order: a ``restore`` or ``extract`` order. (templated) :param plan: report of the plan task. (templated)
    :param asked: id of the task that asked for the approval. :param settings_file: (templated)
    """

    verb = "restore"
    family = "recovery"
    source_kind = "files"
    order_type = FilesOrder
    modes: ClassVar[tuple[str, ...]] = (RESTORE, EXTRACT)
    ui_color = "#a33b3b"

    @property
    def operation(self) -> str:
        """As the order says."""
        return self.parsed().mode

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``restore_files`` job."""
        from mingus_engine.jobs.files.restore import restore_files

        order = self.parsed()
        return restore_files(
            settings,
            order.source,
            repository=str(self.plan["repository"]),
            # Which is what was asked for by a time: another one may have ended meanwhile.
            snapshot=str(self.plan["snapshot"]),
            context=context,
            **order.place(),
            **order.selection(),
        )
