"""Test the recovery of a source, and say of all of them how that went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow import recovery_results
from mingus_airflow.connections import redacted
from mingus_airflow.links import ReportLink
from mingus_airflow.operators.base import EngineOperator
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings

# A task that fails returns nothing: what came of it is left under this key first.
OUTCOME = "outcome"


class RecoveryTestOperator(EngineOperator):
    """Restores a source from the repository whose turn it is, databases to a random second, and checks it.

    Fails when that is not good, or took longer than ``health.rto_s``; the log then says what can still be recovered.
    What came of it is left in the XCom ``outcome`` in every case. Returns the report of
    ``mingus_engine.jobs.recovery_test``.

    :param source: id of the source in the settings. (templated)
    :param repository: default: the one whose turn it is this week. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "recovery test"
    family = "recovery"
    ui_color = "#3d7a4e"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "repository")

    def __init__(self, *, source: str, repository: str | None = None, **kwargs: Any) -> None:
        super().__init__(source=source, **kwargs)
        self.repository = repository
        self._outcome: dict[str, Any] | None = None

    @property
    def operation(self) -> str:
        """Nothing that is in use is touched."""
        return "drill"

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run the test, and leave its outcome for the report."""
        try:
            report = super().execute(context)
        except BaseException as error:
            context["ti"].xcom_push(
                key=OUTCOME,
                value=self._outcome or {"source": self.source, "ok": False, "error": redacted(str(error))},
            )
            raise
        context["ti"].xcom_push(key=OUTCOME, value=report)
        return report

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``recovery_test`` job."""
        from mingus_engine.jobs.recovery_test import RecoveryTestFailed, recovery_test

        try:
            return recovery_test(settings, self.source, repository=self.repository or None, context=context)
        except RecoveryTestFailed as error:
            self._outcome = error.report.as_dict()
            for check in error.report.checks:
                outcome = "good" if check["ok"] else "FAILED"
                self.log.warning("check %s: %s: %s", outcome, check["name"], redacted(check["detail"]))
            for one in error.report.still_recoverable or ():
                self.log.warning("still recoverable from %s", redacted(recovery_results.told(one)))
            raise


class RecoveryTestReportOperator(BaseOperator):
    """One table of how the test of every source went; red when one was not passed, or left no result.

    :param sources: ids, in the order of the mapped task. (templated) :param tested: id of that task.
    """

    template_fields: Sequence[str] = ("sources",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#44505c"
    ui_fgcolor = "#ffffff"

    def __init__(self, *, sources: Sequence[str], tested: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sources = sources
        self.tested = tested

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Collect the outcomes, tell them, and fail if one is bad.

        :raises AirflowFailException: naming the sources.
        """
        ti = context["ti"]
        if self.sources is None:
            raise AirflowFailException("no recovery was tested: the sources could not be selected")
        found = (
            ti.xcom_pull(task_ids=self.tested, key=OUTCOME, map_indexes=number) for number in range(len(self.sources))
        )
        outcomes = recovery_results.of_each(self.sources, [outcome for outcome in found if outcome])
        failed = [str(outcome["source"]) for outcome in outcomes if not outcome["ok"]]
        document = {
            "ok": not failed,
            "failed": failed,
            "table": redacted(recovery_results.table(outcomes)),
            "sources": outcomes,
        }
        self.log.info("\n%s", document["table"])
        if failed:
            # A task that fails returns nothing.
            ti.xcom_push(key="return_value", value=document)
            raise AirflowFailException(redacted(recovery_results.summary(outcomes)))
        return document
