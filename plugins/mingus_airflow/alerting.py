"""Who is told when a DAG's run goes wrong: the arguments that every DAG takes from here."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback

from mingus_airflow.notifiers import LateAlert, RunFailedAlert, TaskFailedAlert, TaskSucceededAlert
from mingus_engine import alerts
from mingus_engine.settings import Settings

#: Seconds from the moment a run is queued until it is late, unless the settings say otherwise.
DEFAULT_DEADLINES = {
    "backup_groups": 6 * 3600,
    "backup_postgres_full": 2 * 3600,
    "backup_postgres_incremental": 3600,
    "backup_postgres_wal": 1800,
    "backup_redis_snapshot": 2 * 3600,
    "backup_redis_aof": 3600,
    "backup_documents": 6 * 3600,
    "backup_configuration": 3600,
    "backup_code": 2 * 3600,
    "backup_files_hourly": 3600,
    "health_check": 1800,
    "probe": 600,
    "recovery_test": 12 * 3600,
}

_log = logging.getLogger(__name__)


def told(settings: Settings, dag_id: str) -> dict[str, Any]:
    """Arguments of the DAG *dag_id*: ``default_args`` and callbacks; a deadline where it has one.

    What is wrong with the settings of alerts is a warning in the log of the DAG processor: it must not take DAGs away.
    """
    for problem in alerts.problems(settings):
        _log.warning("%s: %s", dag_id, problem.text)
    for name in settings.alerts.deadlines:
        if name not in DEFAULT_DEADLINES:
            _log.warning("alerts.deadlines: there is no scheduled DAG %r", name)
    found: dict[str, Any] = {
        "default_args": {
            "owner": "mingus",
            "on_failure_callback": [TaskFailedAlert()],
            "on_success_callback": [TaskSucceededAlert()],
        },
        "on_failure_callback": [RunFailedAlert()],
    }
    seconds = deadline_s(settings, dag_id)
    if seconds:
        callback = SyncCallback(LateAlert, kwargs={"dag_id": dag_id, "seconds": seconds})
        found["deadline"] = [
            DeadlineAlert(
                reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(seconds=seconds), callback=callback
            )
        ]
    return found


def deadline_s(settings: Settings, dag_id: str) -> int:
    """Seconds until a run of *dag_id* is late; 0 = never. A value of the settings that is none counts as not said."""
    said = settings.alerts.deadlines.get(dag_id)
    return said if type(said) is int and said >= 0 else DEFAULT_DEADLINES.get(dag_id, 0)
