"""What every operator does around its job: settings, connection, secrets, progress, cancelling, failures, metrics."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator

from mingus_airflow import connections, metrics
from mingus_airflow.failures import translated
from mingus_airflow.links import ReportLink
from mingus_airflow.running import JobRunner, provenance_of
from mingus_airflow.wiring import load_settings, wiring
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class EngineOperator(BaseOperator):
    """Base of the operators: one engine job for one source.

    :param source: id of the source in the settings. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    # The job's verb, as in logs.
    verb: ClassVar[str]
    # What its metrics begin with: backup, ship, recovery; empty = it has none.
    family: ClassVar[str] = ""
    # Of what kind its sources are, where one kind alone has such a job.
    source_kind: ClassVar[str] = ""
    template_fields: Sequence[str] = ("source", "settings_file")
    operator_extra_links = (ReportLink(),)
    ui_fgcolor = "#ffffff"

    def __init__(self, *, source: str, settings_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.settings_file = settings_file
        self._runner: JobRunner | None = None
        self._killed = False

    @property
    def operation(self) -> str:
        """What kind of job it is, as a label of metrics (``jobs.health.gauges.OPERATIONS``)."""
        return self.verb

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Call the engine's job; a subclass's whole purpose."""
        raise NotImplementedError

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run the job and return its report.

        :raises AirflowException: it failed and may be tried again.
        :raises AirflowFailException: it failed and would again.
        """
        kind = self.source_kind
        try:
            with translated(self.log, f"{self.verb} {self.source}"):
                settings = connections.resolve(load_settings(self.settings_file), self.source)
                connections.mask_secrets(settings, self.source)
                kind = settings.source(self.source).kind
                report = self._run(context, settings).as_dict()
        except BaseException:
            if self.family:
                self.count_failure(self._labels(kind))
            raise
        if self.family:
            self.count_success(report, self._labels(kind))
        self.log.info("report: %s", report)
        return report

    def _run(self, context: Mapping[str, Any], settings: Settings) -> Report:
        """The job, beside the main thread; cancelled by ``on_kill``."""
        self._runner = JobRunner(
            provenance=provenance_of(context, socket.gethostname()),
            log=self.log,
            interval_s=wiring(settings).progress_interval_s,
        )
        if self._killed:
            self._runner.cancel()
        return self._runner.run(lambda job: self.run_job(settings, job))

    def count_success(self, report: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        """Send what *report* says about a try that succeeded."""
        metrics.succeeded(self.family, report, labels)

    def count_failure(self, labels: Mapping[str, str]) -> None:
        """Count a try that failed."""
        metrics.failed(self.family, labels)

    def _labels(self, kind: str) -> dict[str, str]:
        return {"source": self.source, "kind": kind, "operation": self.operation}

    def tell_findings(self, report: Any) -> None:
        """Say loudly what a report found: the task is green, for what could be read is stored; but nobody may overlook
        it.
        """
        if getattr(report, "flagged", False):
            self.log.warning("snapshot %s is FLAGGED: older proven ones are kept until a person looks", report.snapshot)
        for gap in getattr(report, "gaps", ()):
            # Green from the next run on as well.
            self.log.warning("GAP from %s to %s: %s", gap["from"], gap["to"], connections.redacted(str(gap["why"])))
        for check in report.checks:
            if not check["ok"]:
                self.log.warning("finding: %s: %s", check["name"], connections.redacted(check["detail"]))

    def on_kill(self) -> None:
        """Stop the job and let it clean up (backup mode, slot, scratch server and directory); also before it began."""
        self._killed = True
        if self._runner is not None:
            self._runner.cancel()


def snapshot_id(snapshot: str | Mapping[str, Any] | None) -> str | None:
    """The snapshot's ULID, of itself or of the report of the task before; ``None``: an empty text, or a task that made
    none (what it stored was a piece of a command stream).
    """
    return (snapshot.get("snapshot") if isinstance(snapshot, Mapping) else snapshot) or None
