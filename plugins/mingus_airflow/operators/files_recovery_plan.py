"""Plan a recovery of files."""

from __future__ import annotations

from typing import Any

from mingus_airflow.operators.recovery_plan import RecoveryPlanOperator, dry
from mingus_airflow.recovery import DRILL
from mingus_airflow.recovery_files import FilesOrder
from mingus_engine.jobs.context import JobContext
from mingus_engine.settings import Settings

# Besides the plan proper: what it would do to each file.
_LOOKED = ("ended", "actions", "changes", "kept")


class FilesRecoveryPlanOperator(RecoveryPlanOperator[FilesOrder]):
    """Plans to restore a set into a new directory, or some of it into a place that holds files: which would be made,
    overwritten, kept and removed, with the first of them by name.

    :param order: as ``FilesOrder``. (templated) :param settings_file: (templated)
    """

    order_type = FilesOrder

    def planned(self, settings: Settings, order: FilesOrder, context: JobContext) -> dict[str, Any]:
        """The plan of ``restore_files``."""
        from mingus_engine.jobs.files.restore import restore_files

        # A drill's directory is made, and wiped, by the drill.
        place = {"directory": settings.state_path / "scratch"} if order.mode == DRILL else order.place()
        report = restore_files(
            settings, order.source, at=order.to or None, **place, **order.selection(), **dry(order, context)
        ).as_dict()
        looked = {name: report[name] for name in _LOOKED if report.get(name)}
        return {**report, "plan": {**report["plan"], **looked}}
