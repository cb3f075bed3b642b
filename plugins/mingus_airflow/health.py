"""What only Airflow's side knows for health checks: connections, when schedules want backups, how runs ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from airflow.sdk.exceptions import AirflowException
from croniter import croniter

from mingus_airflow import connections
from mingus_airflow.rest import AirflowApi, ApiError
from mingus_airflow.wiring import DEFAULT_SCHEDULES, alone, wiring
from mingus_engine.errors import MingusError
from mingus_engine.jobs.health.findings import WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.settings import Settings, SourceSettings

# What each schedule backs up, as the label `operation`.
_OPERATIONS: Mapping[str, tuple[str, str]] = {
    "backup_postgres_full": ("postgres", "full"),
    "backup_postgres_incremental": ("postgres", "incremental"),
    "backup_postgres_wal": ("postgres", "wal"),
    "backup_redis_snapshot": ("redis", "snapshot"),
    "backup_redis_aof": ("redis", "aof"),
    "backup_documents": ("files", "incremental"),
    "backup_configuration": ("files", "incremental"),
    "backup_code": ("files", "incremental"),
    "backup_files_hourly": ("files", "incremental"),
}
# What `backup_groups` backs up of a member, by its kind.
_OF_GROUPS = {"postgres": "incremental", "redis": "snapshot", "files": "incremental"}
_SINGLE = frozenset({
    "backup_postgres_full", "backup_redis_snapshot", "backup_documents", "backup_configuration", "backup_code",
})  # fmt: skip
_SETS = {"backup_documents": "documents", "backup_configuration": "configuration", "backup_code": "code"}


def resolved(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """*settings* with the Airflow connection of every source; and of which sources it could not be had, and why."""
    unresolved: dict[str, str] = {}
    for source in settings.sources:
        try:
            settings = connections.resolve(settings, source.id)
        except (MingusError, AirflowException) as error:
            unresolved[source.id] = str(error)
            continue
        connections.mask_secrets(settings, source.id)
    return settings, unresolved


def due(settings: Settings, now: datetime) -> Iterator[Gauge]:
    """When the schedules last wanted each kind of backup of each source."""
    newest: dict[tuple[str, str, str], float] = {}
    for dag_id, kind, operation in _scheduled():
        cron = settings.schedules.get(dag_id, DEFAULT_SCHEDULES.get(dag_id, "none"))
        if cron == "none":
            continue
        at = croniter(cron, now.astimezone(ZoneInfo(settings.time_zone))).get_prev(datetime).timestamp()
        for source in settings.sources:
            if _covers(settings, dag_id, source, kind):
                key = (source.id, kind, operation)
                newest[key] = max(newest.get(key, 0.0), at)
    for (source_id, kind, operation), at in newest.items():
        yield Gauge(
            "backup_due_timestamp_seconds", at, {"source": source_id, "kind": kind, "operation": operation}
        )  # fmt: skip


def _scheduled() -> Iterator[tuple[str, str, str]]:
    """DAG, kind of source, operation."""
    yield from ((dag_id, *of) for dag_id, of in _OPERATIONS.items())
    yield from (("backup_groups", *of) for of in _OF_GROUPS.items())


def _covers(settings: Settings, dag_id: str, source: SourceSettings, kind: str) -> bool:
    if source.kind != kind:
        return False
    if dag_id == "backup_groups":
        return bool(settings.groups_of(source.id))
    if dag_id in _SINGLE and not alone(settings, [source.id]):
        return False
    if dag_id == "backup_postgres_wal":
        return source.wal.scheduled
    if dag_id == "backup_redis_aof":
        return source.redis.aof_scheduled
    return dag_id not in _SETS or source.files.set == _SETS[dag_id]


def schedule_health(settings: Settings) -> tuple[list[Finding], list[Gauge]]:
    """The newest runs of every schedule, asked over Airflow's REST API by the read-only account."""
    found: list[Finding] = []
    gauges: list[Gauge] = []
    name = wiring(settings).approval.connection
    try:
        api = AirflowApi.of_connection(name)
        for dag_id in DEFAULT_SCHEDULES:
            if settings.schedules.get(dag_id) != "none":
                _schedule(api, dag_id, found, gauges)
    except ApiError as error:
        hint = f"set up the Airflow connection {name!r} (docs/AIRFLOW.md, Recovery)"
        found.append(Finding("schedules", False, f"not checked: {error}; {hint}", known=False))
    return found, gauges


def _schedule(api: AirflowApi, dag_id: str, found: list[Finding], gauges: list[Gauge]) -> None:
    path = f"/dags/{quote(dag_id, safe='')}/dagRuns"
    try:
        runs = api.get(path, limit=5, order_by="-start_date")["dag_runs"]
        good = api.get(path, limit=1, order_by="-end_date", state="success")["dag_runs"]
    except ApiError as error:
        if error.status != 404:
            raise
        found.append(Finding("schedules", False, f"{dag_id}: there is no such DAG", severity=WARN))
        return
    if good and (at := _parsed(good[0].get("end_date"))) is not None:
        gauges.append(Gauge("schedule_last_success_timestamp_seconds", at.timestamp(), {"schedule": dag_id}))
    ended = [run for run in runs if run.get("state") in {"success", "failed"}]
    if ended and ended[0]["state"] == "failed":
        said = f"{dag_id}: the newest run ({ended[0].get('dag_run_id')}) failed"
        hint = "look at its red tasks; clear them when the cause is gone"
        found.append(Finding("schedules", False, said, severity=WARN, hint=hint))
    else:
        found.append(Finding("schedules", True, f"{dag_id}: {'the newest run succeeded' if ended else 'no run yet'}"))


def _parsed(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None
