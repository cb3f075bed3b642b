"""What Airflow calls when a task, a run or a deadline ends in a way that people must know of.

None of these ever raises, or changes the state of what called it. What is sent, to whom and how often is decided by
``mingus_engine.alerts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseNotifier

from mingus_airflow import alert_events, metrics
from mingus_airflow.connections import redacted
from mingus_airflow.wiring import load_settings
from mingus_engine.alerts import configured
from mingus_engine.alerts.delivering import Outcome
from mingus_engine.alerts.telling import Teller
from mingus_engine.jobs.left import left
from mingus_engine.settings import Settings


class _Alert(BaseNotifier):
    """:param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``."""

    def __init__(self, *, settings_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings_file = settings_file

    def notify(self, context: Mapping[str, Any]) -> None:
        """Tell what *context* says, if it is to be told."""
        try:
            settings = load_settings(self.settings_file)
            self.tell(settings, self._teller(settings), context)
        except Exception as error:  # noqa: BLE001 - an alert that fails must not touch what it is about
            # No traceback: it would quote what the error was about.
            self.log.error("alert not sent: %s", redacted(f"{type(error).__name__}: {error}"))  # noqa: TRY400

    def tell(self, settings: Settings, teller: Teller, context: Mapping[str, Any]) -> None:
        """What a subclass is for."""
        raise NotImplementedError

    def _teller(self, settings: Settings) -> Teller:
        return Teller(
            settings,
            _Senders(settings),
            meaning=lambda sources: {name: redacted(text) for name, text in left(settings, sources).items()},
            log=lambda line: self.log.warning("%s", redacted(line)),
            told=_count,
            redacted=redacted,
        )


class TaskFailedAlert(_Alert):
    """``on_failure_callback`` of tasks: called when no retry is left."""

    def tell(self, settings: Settings, teller: Teller, context: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Tell that the task failed."""
        teller.tell(alert_events.failed(context), others=_has_others(context))


class TaskSucceededAlert(_Alert):
    """``on_success_callback`` of tasks: a failure that was told is over, and what the report found."""

    def tell(self, settings: Settings, teller: Teller, context: Mapping[str, Any]) -> None:
        """Tell the end of a failure, and findings."""
        ti = context["ti"]
        where = alert_events.place(context)
        teller.succeeded(
            where["dag"], where["task"], where["source"], run=where["run"], url=where["url"],
            others=_has_others(context),
        )  # fmt: skip
        if hasattr(context["task"], "run_job"):
            report = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
            for event in alert_events.findings(report, settings, context):
                teller.tell(event)


class RunFailedAlert(_Alert):
    """``on_failure_callback`` of DAGs: only what no task has told (the run took too long, or cannot go on)."""

    def tell(self, settings: Settings, teller: Teller, context: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Tell that the run failed as a whole."""
        reason = str(context.get("reason") or "")
        if reason != "task_failure":
            teller.tell(alert_events.run_failed(context, reason or "failed"))


class LateAlert(_Alert):
    """Callback of a ``DeadlineAlert``.

    :param dag_id: whose run is late. :param seconds: its deadline, from the moment it was queued.
    """

    def __init__(self, *, dag_id: str, seconds: int, settings_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(settings_file=settings_file, **kwargs)
        self.dag_id, self.seconds = dag_id, seconds

    def tell(self, settings: Settings, teller: Teller, context: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Tell that the run is late."""
        teller.tell(alert_events.late(self.dag_id, self.seconds, context))


class _Senders(Mapping[str, Any]):
    """The providers' senders, made when something is sent: that takes seconds, and nearly always nothing is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: Mapping[str, Any] | None = None

    def _senders(self) -> Mapping[str, Any]:
        if self._made is None:
            from mingus_airflow.alert_channels import senders

            self._made = senders(self._settings.alerts)
        return self._made

    def __getitem__(self, name: str) -> Any:
        return self._senders()[name]

    def __iter__(self) -> Any:
        return iter(configured(self._settings.alerts))

    def __len__(self) -> int:
        return len(configured(self._settings.alerts))


def _has_others(context: Mapping[str, Any]) -> bool:
    """Whether the task is one of several that were mapped."""
    ti = context["ti"]
    count = context.get("expanded_ti_count")
    return (ti.map_index if ti.map_index is not None else -1) >= 0 and (count is None or count > 1)


def _count(outcome: Outcome) -> None:
    metrics.count("alert_sent_total" if outcome.ok else "alert_failure_total", {"channel": outcome.channel})
