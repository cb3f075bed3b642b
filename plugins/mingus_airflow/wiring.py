"""The ``airflow`` section of the settings (pools, retries, time-outs), and where DAGs and tasks find the settings."""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import CronTriggerTimetable

from mingus_engine.errors import SettingsError
from mingus_engine.settings import Settings, load

# dags/, plugins/ and include/ lie side by side, in a clone as in an image; a worker's directory may be anything.
DEFAULT_SETTINGS_FILE = Path(__file__).resolve().parents[2] / "include" / "config" / "mingus.yaml"

# Every scheduled DAG with its cron expression, unless the settings say otherwise.
DEFAULT_SCHEDULES = {
    "backup_groups": "30 0 * * *",
    "backup_postgres_full": "0 2 * * *",
    "backup_postgres_incremental": "0 9-18 * * *",
    "backup_postgres_wal": "*/5 * * * *",
    "backup_redis_snapshot": "30 2 * * *",
    "backup_redis_aof": "0 * * * *",
    "backup_documents": "0 1 * * *",
    "backup_configuration": "30 1 * * *",
    "backup_code": "0 2 * * *",
    # Not on the hour: two backups of one set at once would both read what changed.
    "backup_files_hourly": "15 * * * *",
    "health_check": "0 4 * * *",
    "probe": "*/5 * * * *",
    "recovery_test": "0 2 * * 0",
}


@dataclass(frozen=True)
class PerJob:
    """Bounds of one kind of task.

    :param pool: Airflow pool; it must exist (docs/AIRFLOW.md), hence Airflow's own ``default_pool`` unless named.
    :param timeout_s: execution time-out. A backup that hangs must not block the next night's.
    """

    pool: str = "default_pool"
    timeout_s: int = 6 * 3600


@dataclass(frozen=True)
class Approval:
    """Who may let a recovery happen, and how the recovery itself asks Airflow about it.

    :param connection: Airflow connection (type ``http``) of a read-only account: host, port, login, password.
    :param approvers: user names that may approve; empty = whoever Airflow lets answer. Never who asked for it.
    :param timeout_s: how long the question stays open.
    """

    connection: str = "mingus_api"
    approvers: tuple[str, ...] = ()
    timeout_s: int = 24 * 3600


@dataclass(frozen=True)
class Wiring:
    """How the tasks are run.

    :param retries: tries after the first, for errors that may pass by themselves; others fail at once.
    :param retry_delay_s: before the first retry; doubles with each, up to *retry_delay_max_s*.
    :param progress_interval_s: seconds between two progress lines in the task's log.
    """

    back_up: PerJob = field(default_factory=PerJob)
    archive_wal: PerJob = field(default_factory=PerJob)
    back_up_aof: PerJob = field(default_factory=PerJob)
    back_up_files: PerJob = field(default_factory=lambda: PerJob(timeout_s=12 * 3600))
    back_up_group: PerJob = field(default_factory=lambda: PerJob(timeout_s=12 * 3600))
    ship: PerJob = field(default_factory=lambda: PerJob(timeout_s=12 * 3600))
    verify: PerJob = field(default_factory=lambda: PerJob(timeout_s=12 * 3600))
    recover: PerJob = field(default_factory=lambda: PerJob(timeout_s=24 * 3600))
    health_check: PerJob = field(default_factory=lambda: PerJob(timeout_s=2 * 3600))
    # A probe that hangs would keep the next ones away.
    probe: PerJob = field(default_factory=lambda: PerJob(timeout_s=900))
    approval: Approval = field(default_factory=Approval)
    retries: int = 3
    retry_delay_s: int = 60
    retry_delay_max_s: int = 1800
    progress_interval_s: int = 10

    def arguments(self, job: str) -> dict[str, Any]:
        """Operator arguments of a task of *job*: ``back_up``, ``archive_wal``, ``back_up_aof``, ``back_up_files``,
        ``back_up_group``, ``ship``, ``verify``, ``recover``, ``health_check``, ``probe``.
        """
        bounds: PerJob = getattr(self, job)
        return {
            "pool": bounds.pool,
            "execution_timeout": timedelta(seconds=bounds.timeout_s),
            "retries": self.retries,
            "retry_delay": timedelta(seconds=self.retry_delay_s),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(seconds=self.retry_delay_max_s),
        }


def settings_path(name: str | None = None) -> Path:
    """The settings file: *name*, else ``MINGUS_CONFIG``, else ``include/config/mingus.yaml`` beside ``plugins/``."""
    return Path(name or os.environ.get("MINGUS_CONFIG") or DEFAULT_SETTINGS_FILE)


def load_settings(name: str | None = None) -> Settings:
    """The settings as tasks and DAGs read them.

    :raises SettingsError: the file is not there or wrong.
    """
    return load(settings_path(name))


def wiring(settings: Settings) -> Wiring:
    """The ``airflow`` section of *settings*.

    :raises SettingsError: an unknown key (the nearest is named) or a value that is no number or text.
    """
    return _build(Wiring(), settings.airflow, "airflow")


def schedule(settings: Settings, dag_id: str) -> CronTriggerTimetable | None:
    """When *dag_id* runs, in the settings' time zone: their cron expression, else the default; ``none`` = if triggered.

    A DAG that is unpaused at noon waits for its next time instead of making up for the last one.

    :raises SettingsError: the settings schedule a DAG that there is not.
    """
    for name in settings.schedules:
        if name not in DEFAULT_SCHEDULES:
            raise SettingsError(f"schedules: unknown key {name!r}; {_nearest(name, DEFAULT_SCHEDULES)}")
    cron = settings.schedules.get(dag_id, DEFAULT_SCHEDULES[dag_id])
    if cron == "none":
        return None
    # Airflow takes ``False``, its default, for "when a tenth of the period has not yet passed".
    return CronTriggerTimetable(cron, timezone=settings.time_zone, run_immediately=timedelta(0))


def alone(settings: Settings, known: Iterable[str]) -> list[str]:
    """Those of the sources *known* that no scheduled group covers: their nights are of the DAGs of their kind."""
    if settings.schedules.get("backup_groups", DEFAULT_SCHEDULES["backup_groups"]) == "none":
        return list(known)
    return [source for source in known if not settings.groups_of(source)]


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _build(default: Any, raw: Any, where: str) -> Any:
    """*default* with the values of the mapping *raw*; the defaults say which keys there are and of what type."""
    if not isinstance(raw, Mapping):
        raise SettingsError(f"{where}: must be a mapping, not {type(raw).__name__}")
    hints = typing.get_type_hints(type(default))
    values = {}
    for key, value in raw.items():
        place = f"{where}.{key}"
        if key not in hints:
            raise SettingsError(f"{where}: unknown key {str(key)!r}; {_nearest(str(key), hints)}")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(getattr(default, key), value, place)
        elif typing.get_origin(hints[key]) is tuple:
            if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
                raise SettingsError(f"{place}: {value!r} is not a list of names")
            values[key] = tuple(value)
        elif not _fits(value, hints[key], least=0 if key == "retries" else 1):
            raise SettingsError(f"{place}: {value!r} is not a valid {hints[key].__name__}")
        else:
            values[key] = value
    return dataclasses.replace(default, **values)


def _fits(value: Any, hint: type, *, least: int) -> bool:
    """Whether *value* is a text that is not empty, or a number of *least* or more."""
    if isinstance(value, bool) or not isinstance(value, hint):
        return False
    return value >= least if isinstance(value, int) else bool(value)
