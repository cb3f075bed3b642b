"""What Airflow's side adds to health checks, and the two operators."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow import health, metrics
from mingus_airflow.operators import HealthCheckOperator, ProbeOperator
from mingus_airflow.operators.health_check import page
from mingus_airflow.rest import ApiError
from mingus_engine.jobs.health import full
from mingus_engine.jobs.health import probe as light
from mingus_engine.jobs.health.findings import WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.jobs.health.probe import HealthReport
from mingus_engine.settings import parse

pytestmark = pytest.mark.airflow

NOON = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)


class Context(dict[str, Any]):
    """Of a task; keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        ti = SimpleNamespace(
            dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1,
            xcom_push=lambda key, value: self.pushed.update({key: value}),
        )  # fmt: skip
        super().__init__(ti=ti, dag_run=SimpleNamespace(run_type=None, triggering_user_name=None))


def report(*found: Finding, ok: bool) -> HealthReport:
    gauges = [Gauge("repository_ok", 1, {"repository": "primary"})]
    return HealthReport(job="health", source="", duration_s=1.0, ok=ok, findings=list(found), gauges=gauges)


def test_what_is_due_follows_the_schedules_and_leaves_out_what_none_covers() -> None:
    settings = parse(
        """
        repositories: [{name: a, path: /a}]
        schedules: {backup_postgres_full: none, backup_documents: "0 6 * * *", backup_files_hourly: none}
        sources:
          - {id: ledger, wal: {scheduled: false}}
          - {id: cache, kind: redis, redis: {aof_scheduled: false}}
          - {id: papers, kind: files, files: {roots: [{path: /p}]}}
        """
    )
    found = {
        (g.labels["source"], g.labels["operation"]): datetime.fromtimestamp(g.value, UTC)
        for g in health.due(settings, NOON)
    }
    day = NOON.replace(hour=0, minute=0, second=0)
    assert found == {
        ("ledger", "incremental"): day.replace(hour=12),
        ("cache", "snapshot"): day.replace(hour=2, minute=30),
        ("papers", "incremental"): day.replace(hour=6),
    }


def test_what_is_due_of_a_member_is_the_backup_of_its_group() -> None:
    text = """
        repositories: [{name: a, path: /a}]
        groups: [{name: shop, members: [ledger, cache]}]
        sources: [{id: ledger, wal: {scheduled: false}}, {id: cache, kind: redis, redis: {aof_scheduled: false}}]
        schedules: {backup_postgres_incremental: none%s}
        """
    half_past = NOON.replace(hour=0, minute=30, second=0)
    found = {(g.labels["source"], g.labels["operation"]): g.value for g in health.due(parse(text % ""), NOON)}
    assert found == dict.fromkeys([("ledger", "incremental"), ("cache", "snapshot")], half_past.timestamp())
    alone = {(g.labels["source"], g.labels["operation"]) for g in health.due(
        parse(text % ", backup_groups: none"), NOON
    )}  # fmt: skip
    assert alone == {("ledger", "full"), ("cache", "snapshot")}


def test_what_is_due_is_in_the_time_zone_of_the_settings() -> None:
    settings = parse(
        "{time_zone: Asia/Tokyo, repositories: [{name: a, path: /a}], sources: [{id: cache, kind: redis}],"
        " schedules: {backup_redis_aof: none}}"
    )
    (gauge,) = health.due(settings, NOON)
    assert datetime.fromtimestamp(gauge.value, UTC) == datetime(2026, 11, 22, 17, 30, tzinfo=UTC)


def test_runs_of_schedules_are_asked_for_and_a_failed_one_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def get(self, path: str, **query: Any) -> dict[str, Any]:
            if "backup_code" in path:
                raise ApiError("HTTP 404", 404)
            if query.get("state") == "success":
                return {"dag_runs": [{"end_date": "2026-11-23T02:10:00Z", "state": "success"}]}
            return {"dag_runs": [{"state": "failed" if "wal" in path else "success", "dag_run_id": "r+1"}]}

    monkeypatch.setattr(health.AirflowApi, "of_connection", lambda name: Api())
    found, gauges = health.schedule_health(parse("{}"))
    assert sorted(f.detail.partition(":")[0] for f in found if f.failed) == ["backup_code", "backup_postgres_wal"]
    assert {f.severity for f in found if f.failed} == {WARN}
    at = next(g.value for g in gauges if g.labels["schedule"] == "backup_postgres_full")
    assert datetime.fromtimestamp(at, UTC) == datetime(2026, 11, 23, 2, 10, tzinfo=UTC)
    assert all(g.fits for g in gauges)


def test_runs_of_schedules_are_not_checked_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ApiError(f"the Airflow connection {name!r} does not exist")

    monkeypatch.setattr(health.AirflowApi, "of_connection", missing)
    (finding,), gauges = health.schedule_health(parse("{}"))
    assert not finding.known
    assert "'mingus_api'" in finding.detail
    assert gauges == []


@pytest.mark.usefixtures("settings_file")
def test_a_critical_finding_fails_the_check_and_its_page_is_there_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Finding("connection", False, "is down | up", "ledger", hint="start it")
    monkeypatch.setattr(full, "health", lambda settings, **_: report(bad, ok=False))
    monkeypatch.setattr("mingus_airflow.operators.health_check.schedule_health", lambda settings: ([], []))
    sent: list[Gauge] = []
    monkeypatch.setattr(metrics, "gauges", sent.extend)
    context = Context()
    with pytest.raises(AirflowFailException, match="1 critical checks failed; the first: connection: is down"):
        HealthCheckOperator(task_id="t").execute(context)
    assert "| CRITICAL | ledger |  | connection | is down \\| up | start it |" in context.pushed["return_value"]["page"]
    assert {"repository_ok", "backup_due_timestamp_seconds"} <= {gauge.name for gauge in sent}


@pytest.mark.usefixtures("settings_file")
def test_a_probe_is_green_and_sends_also_when_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Finding("connection", False, "is down", "ledger")
    monkeypatch.setattr(light, "probe", lambda settings, **_: report(bad, ok=False))
    sent: list[Gauge] = []
    monkeypatch.setattr(metrics, "gauges", sent.extend)
    found = ProbeOperator(task_id="t").execute(Context())
    assert (found["ok"], found["critical"]) == (False, 1)
    assert sent


def test_a_page_of_a_thousand_failures_stays_a_page() -> None:
    found = [Finding("connection", False, "x" * 1000, f"s{n}") for n in range(1000)]
    made = report(*found, ok=False)
    assert "900 more" in page(made)
    assert len(page(made)) < 60_000
    assert len(made.as_dict()["findings"]) == 200
