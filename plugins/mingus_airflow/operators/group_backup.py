"""Back up the members of a group at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from mingus_airflow import connections, metrics
from mingus_airflow.failures import translated
from mingus_airflow.operators.back_up import FULL, INCREMENTAL
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.wiring import load_settings
from mingus_engine.errors import SettingsError
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class GroupBackupOperator(EngineOperator):
    """Backs up all members of a group between one ``before`` and one ``after``; nothing is committed before all have
    read everything. Red when one member failed, with what became of each in the log.

    Returns the report of ``mingus_engine.jobs.groups``: ``group`` (id of the moment, when everything stood still) and
    ``members``: source → report of its backup. Metrics are those of the members.

    :param source: name of a group in the settings. (templated)
    :param kind: ``incremental`` or ``full``; a Redis is always backed up in full. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "backup group"
    ui_color = "#2e5c7a"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "kind")

    def __init__(self, *, source: str, kind: str = INCREMENTAL, **kwargs: Any) -> None:
        super().__init__(source=source, **kwargs)
        self.kind = kind

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run the job with the connections of all members and return its report.

        :raises AirflowException: it failed and may be tried again.
        :raises AirflowFailException: it failed and would again.
        """
        kinds: dict[str, str] = {}
        done: dict[str, Any] = {}
        try:
            with translated(self.log, f"{self.verb} {self.source}"):
                settings = load_settings(self.settings_file)
                kinds = {member: settings.source(member).kind for member in settings.group(self.source).members}
                for member in kinds:
                    settings = connections.resolve(settings, member)
                    connections.mask_secrets(settings, member)
                report = self._run_noting(context, settings, done)
        finally:
            for member, kind in kinds.items():
                self._tell(member, kind, done.get(member))
        self.log.info("report: %s", report)
        return report

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up_group`` job."""
        from mingus_engine.jobs.groups import back_up_group

        if self.kind not in {FULL, INCREMENTAL}:
            raise SettingsError(f"kind: {self.kind!r} is not one of {FULL}, {INCREMENTAL}")
        return back_up_group(settings, self.source, context=context, incremental=self.kind == INCREMENTAL)

    def _run_noting(self, context: Mapping[str, Any], settings: Settings, done: dict[str, Any]) -> dict[str, Any]:
        """The report; *done* has the members' that committed, also when the group failed."""
        from mingus_engine.jobs.groups import GroupFailed

        try:
            report = self._run(context, settings).as_dict()
        except GroupFailed as error:
            done.update({member: of.as_dict() for member, of in error.reports.items()})
            raise
        done.update(report["members"])
        return report

    def _tell(self, member: str, kind: str, report: Mapping[str, Any] | None) -> None:
        labels = {"source": member, "kind": kind, "operation": "snapshot" if kind == "redis" else self.kind}
        if report is None:
            self.log.error("%s: no snapshot of this moment", member)
            metrics.failed("backup", labels)
            return
        self.log.info("%s: snapshot %s is stored in %s", member, report["snapshot"], report["repository"])
        metrics.succeeded("backup", report, labels)
        self.tell_findings(SimpleNamespace(**report))
