"""Archiving every five minutes: how it is wired, and one run of it with an engine job that only pretends."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import LogDiverged
from tests.dags.conftest import parse
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def wal_dag(dag_bag: Any) -> Any:
    return dag_bag.dags["backup_postgres_wal"]


def test_it_runs_every_five_minutes_one_run_at_a_time(wal_dag: Any) -> None:
    assert (wal_dag.timetable.expression, str(wal_dag.timetable.timezone)) == ("*/5 * * * *", "Europe/Berlin")
    assert (wal_dag.catchup, wal_dag.max_active_runs, wal_dag.start_date) == (False, 1, None)


def test_another_interval_and_pool_are_taken_from_the_settings(settings_file: Path) -> None:
    text = SETTINGS.replace("airflow:", "airflow:\n  archive_wal: {pool: mingus_wal, timeout_s: 900}")
    settings_file.write_text(text + "schedules: {backup_postgres_wal: '*/2 * * * *'}\n")
    dag = parse(ROOT / "dags" / "backup_postgres_wal.py").dags["backup_postgres_wal"]
    task = dag.get_task("archive")
    assert dag.timetable.expression == "*/2 * * * *"
    assert (task.pool, task.execution_timeout, task.retries) == ("mingus_wal", timedelta(minutes=15), 2)
    assert task.map_index_template == "{{ task.source }}"


def test_a_source_that_is_not_scheduled_is_left_out(settings_file: Path) -> None:
    settings_file.write_text(SETTINGS.replace("  - id: crm", "  - id: crm\n    wal: {scheduled: false}"))
    dag = parse(ROOT / "dags" / "backup_postgres_wal.py").dags["backup_postgres_wal"]
    assert dag.params.get_param("sources").schema["examples"] == ["ledger"]


class TestRun:
    """``dag.test()``: real templates, mapping, XCom and states; the engine's job pretends."""

    @pytest.fixture(autouse=True)
    def database(self, metadata_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DB", json.dumps({"conn_type": "postgres"}))

    def test_each_source_is_archived_and_one_that_fails_stops_no_other(self, wal_dag: Any, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            if engine.calls[-1][1] == "ledger":
                raise LogDiverged("another log")

        engine.act["archive_wal"] = fail
        run = wal_dag.test()
        assert sorted(source for _, source, _ in engine.calls) == ["crm", "ledger"]
        states = {ti.rendered_map_index: str(ti.state) for ti in run.get_task_instances() if ti.task_id == "archive"}
        assert states == {"ledger": "failed", "crm": "success"}
