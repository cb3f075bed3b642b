"""From what Airflow hands to a callback to the event that is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow.connections import redacted
from mingus_engine.alerts.event import CRITICAL, EXHAUSTED, FAILURE, FINDING, LATE, WARNING, Event
from mingus_engine.settings import SOURCE_ID, Settings

# A failed copy leaves the backup itself in the first repository; these say that what is stored there is not good.
_ALWAYS_CRITICAL = frozenset({
    "Damaged", "ObjectMissing", "LogMissing", "LogDiverged", "ForeignRepository", "KeyUnavailable",
    "VerificationFailed",
})  # fmt: skip
_NO_HINT = "read the end of the task's log"


def failed(context: Mapping[str, Any]) -> Event:
    """A task failed, and will not be tried again."""
    ti, task, error = context["ti"], context["task"], context.get("exception")
    cause = getattr(error, "mingus_cause", None) or (type(error).__name__ if isinstance(error, Exception) else "killed")
    tried = int(ti.try_number or 1)
    exhausted = tried > 1 and not isinstance(error, AirflowFailException)
    lenient = getattr(task, "verb", "") == "ship" and cause not in _ALWAYS_CRITICAL
    return Event(
        kind=EXHAUSTED if exhausted else FAILURE,
        severity=WARNING if lenient else CRITICAL,
        cause=str(cause),
        what=redacted(str(error or "the task ended without a word: killed, or its machine went away"))[:2000],
        hint=redacted(getattr(error, "mingus_hint", "") or _NO_HINT),
        tries=tried,
        **place(context),
    )


def run_failed(context: Mapping[str, Any], reason: str) -> Event:
    """A run failed though none of its tasks said so."""
    dag, run = context["dag"].dag_id, str(context.get("run_id") or _run_id(context.get("dag_run")))
    return Event(
        kind=FAILURE,
        severity=CRITICAL,
        dag=dag,
        run=run,
        cause=reason,
        what=f"the run of {dag} ended: {reason}; tasks that had not ended were stopped",
        hint="look at the run's tasks: what hangs, or waits for a pool that is full?",
        url=run_url(dag, run),
    )


def late(dag_id: str, seconds: int, context: Mapping[str, Any]) -> Event:
    """A run has not ended in time; it goes on."""
    run = _run_id(context.get("dag_run"))
    return Event(
        kind=LATE,
        severity=WARNING,
        dag=dag_id,
        run=run,
        cause="late",
        what=f"{dag_id} has not ended {seconds} s after it was queued; it goes on",
        hint="what does it wait for? a slow source or repository, a full pool, a scheduler without free workers",
        url=run_url(dag_id, run),
    )


def findings(report: Any, settings: Settings, context: Mapping[str, Any]) -> Iterator[Event]:
    """What a green task's *report* says that nobody may overlook."""
    if not isinstance(report, Mapping):
        return
    where = place(context)
    if report.get("flagged"):
        bad = "; ".join(f"{check['name']}: {check['detail']}" for check in report.get("checks", ()) if not check["ok"])
        what = f"snapshot {report.get('snapshot')} of {where['source']} is flagged: {bad}"
        hint = "look at the source first; older proven snapshots are kept until a person has looked"
        # What was found is the story: the same bad pages in each hourly backup are one, anything else is told at once.
        story = hashlib.sha256(bad.encode()).hexdigest()[:8]
        yield _finding(CRITICAL, f"flagged snapshot ({story})", what, hint, where)
    for gap in report.get("gaps") or ():
        what = f"no moment between {gap.get('from')} and {gap.get('to')} can be restored: {gap.get('why', '')}"
        hint = "take a full backup now: the window begins again with it; `mingus windows` shows what can be restored"
        yield _finding(CRITICAL, f"gap from {gap.get('from')}", what, hint, where)
    rto = report.get("rto_s")
    if isinstance(rto, int | float) and rto > settings.health.rto_s:
        what = f"the restore test of {where['source']} took {rto:.0f} s; the objective is {settings.health.rto_s} s"
        yield _finding(WARNING, "missed RTO", what, "a real recovery would take as long: docs/OPERATIONS.md", where)


def _finding(severity: str, cause: str, what: str, hint: str, where: Mapping[str, Any]) -> Event:
    return Event(kind=FINDING, severity=severity, cause=cause, what=redacted(what)[:2000], hint=hint, **where)


def place(context: Mapping[str, Any]) -> dict[str, Any]:
    """DAG, run, task, source and address of a task's callback."""
    ti = context["ti"]
    mapped = f"/mapped/{ti.map_index}" if (ti.map_index if ti.map_index is not None else -1) >= 0 else ""
    return {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "source": source_of(context),
        "url": f"{run_url(ti.dag_id, ti.run_id)}/tasks/{quote(ti.task_id)}{mapped}",
    }


def source_of(context: Mapping[str, Any]) -> str:
    """The source that a task is of; of a recovery, the one of its form. Empty = none, or not known: a killed task's
    callback does not know what it was mapped to.
    """
    for name in (getattr(context["task"], "source", None), (context.get("params") or {}).get("source")):
        if isinstance(name, str) and SOURCE_ID.fullmatch(name):
            return name
    return ""


def run_url(dag_id: str, run_id: str) -> str:
    """The address of a run's page; empty where Airflow does not know its own."""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}" if base and run_id else ""


def _run_id(run: Any) -> str:
    """The id of a run, as a callback is given it: an object, or JSON."""
    if isinstance(run, Mapping):
        return str(run.get("dag_run_id") or run.get("run_id") or "")
    return str(getattr(run, "run_id", "") or "")
