"""Check the health of everything, on one page."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow import connections, metrics
from mingus_airflow.failures import translated
from mingus_airflow.health import due, resolved, schedule_health
from mingus_airflow.links import ReportLink
from mingus_airflow.running import JobRunner, provenance_of
from mingus_airflow.wiring import load_settings, wiring
from mingus_engine.jobs.context import JobContext
from mingus_engine.settings import Settings

if TYPE_CHECKING:
    from mingus_engine.jobs.health.probe import HealthReport

# A page that nobody reads to its end says nothing.
_LISTED = 100


class HealthOperator(BaseOperator):
    """Base of the two checks: looks, sends the gauges, shows what is wrong.

    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    template_fields: Sequence[str] = ("settings_file",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#3d7a4e"
    ui_fgcolor = "#ffffff"

    def __init__(self, *, settings_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings_file = settings_file
        self._runner: JobRunner | None = None

    def look(self, settings: Settings, context: JobContext, unresolved: Mapping[str, str]) -> HealthReport:
        """The engine's job; the subclass's choice."""
        raise NotImplementedError

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Check, send, and return the page.

        :raises AirflowFailException: the settings cannot be read.
        """
        with translated(self.log, "health"):
            settings, unresolved = resolved(load_settings(self.settings_file))
            self._runner = JobRunner(
                provenance=provenance_of(context, socket.gethostname()), log=self.log,
                interval_s=wiring(settings).progress_interval_s,
            )  # fmt: skip
            report = self._runner.run(lambda job: self._whole(settings, job, unresolved))
        metrics.gauges(report.gauges)
        return {**report.as_dict(), "page": page(report)}

    def _whole(self, settings: Settings, job: JobContext, unresolved: Mapping[str, str]) -> HealthReport:
        report = self.look(settings, job, unresolved)
        return dataclasses.replace(report, gauges=[*report.gauges, *due(settings, datetime.now(UTC))])

    def on_kill(self) -> None:
        """Stop looking."""
        if self._runner is not None:
            self._runner.cancel()


class HealthCheckOperator(HealthOperator):
    """Checks everything that backups and recoveries need: each source and repository as ``mingus check`` does, the
    write-ahead log by a marker, recovery windows, proofs, replication, certificates, clocks, keys, the worker, and the
    last runs of every schedule. Its report is one Markdown page; each failed check has a hint.

    The task fails when a critical check failed; the report is on its page all the same.

    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    def look(self, settings: Settings, context: JobContext, unresolved: Mapping[str, str]) -> HealthReport:
        """Run the ``health`` job, and ask Airflow for the last runs."""
        from mingus_engine.jobs.health.findings import CRITICAL, gauges, worst_first
        from mingus_engine.jobs.health.full import health

        report = health(settings, context=context, unresolved=unresolved)
        found, sent = schedule_health(settings)
        every = worst_first([*report.findings, *found])
        ok = not any(f.failed and f.severity == CRITICAL for f in every)
        return dataclasses.replace(
            report, ok=ok, findings=every, gauges=[*report.gauges, *sent, *gauges(found)]
        )  # fmt: skip

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Check everything; fail when something critical is wrong."""
        report = super().execute(context)
        for line in str(report["page"]).splitlines():
            self.log.info("%s", line)
        if not report["ok"]:
            context["ti"].xcom_push(key="return_value", value=report)
            first = report["findings"][0]
            raise AirflowFailException(
                f"{report['critical']} critical checks failed; the first: {first['check']}:"
                f" {connections.redacted(first.get('detail', ''))}"
            )
        return report


class ProbeOperator(HealthOperator):
    """Looks at everything in seconds, changes nothing, and sends the gauges that dashboards and alert rules live on.

    Green also when something is wrong: the alarm comes from the gauges, and from ``health_check``.

    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    ui_color = "#44505c"

    def look(self, settings: Settings, context: JobContext, unresolved: Mapping[str, str]) -> HealthReport:
        """Run the ``probe`` job."""
        from mingus_engine.jobs.health.probe import probe

        return probe(settings, context=context, unresolved=unresolved)


def page(report: HealthReport) -> str:
    """The report as Markdown: the verdict, and what is wrong, the worst first."""
    return "\n".join(_lines(report))


def _lines(report: HealthReport) -> Iterator[str]:
    facts = report.as_dict()
    verdict = "healthy" if report.ok else f"{facts['critical']} critical"
    yield f"# Health: {verdict}"
    yield (
        f"{facts['checks']} checks in {report.duration_s:.0f} s: {facts['critical']} critical, {facts['warnings']}"
        f" warnings, {facts['not_checked']} not checked."
    )
    bad = [finding for finding in report.findings if not finding.ok]
    if bad:
        yield ""
        yield "| Result | Source | Repository | Check | What | What to do |"
        yield "|---|---|---|---|---|---|"
    for f in bad[:_LISTED]:
        cells = (f.result, f.source, f.repository, f.check, f.detail[:400], f.hint if f.failed else "")
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"
    if len(bad) > _LISTED:
        yield f"\n{len(bad) - _LISTED} more; `mingus health` shows all."


def _cell(text: str) -> str:
    return " ".join(connections.redacted(text).replace("|", "\\|").split())
