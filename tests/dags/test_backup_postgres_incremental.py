"""The hourly backup of what changed: how it is wired, and one run of it with engine jobs that only pretend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceDenied
from tests.dags.conftest import parse
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]
FILE = ROOT / "dags" / "backup_postgres_incremental.py"


@pytest.fixture
def dag(settings_file: Path) -> Any:
    return parse(FILE).dags["backup_postgres_incremental"]


def test_it_runs_hourly_in_office_hours_of_the_settings_time_zone(dag: Any) -> None:
    assert (dag.timetable.expression, str(dag.timetable.timezone)) == ("0 9-18 * * *", "Europe/Berlin")
    assert dag.catchup is False
    assert dag.max_active_runs == 1


def test_its_days_are_settable(settings_file: Path) -> None:
    weekdays = "schedules: {backup_postgres_incremental: '0 9-18 * * 1-5'}"
    settings_file.write_text(f"{SETTINGS}\n{weekdays}\n")
    dag = parse(FILE).dags["backup_postgres_incremental"]
    assert dag.timetable.expression == "0 9-18 * * 1-5"


def test_each_source_is_backed_up_then_shipped_then_looked_at(dag: Any) -> None:
    after = {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}
    assert after["source.back_up"] == {"source.ship", "source.verify"}
    assert after["source.ship"] == {"source.verify"}
    assert dag.get_task("source.back_up").kind == "incremental"


class TestRun:
    @pytest.fixture(autouse=True)
    def database(self, metadata_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DB", json.dumps({"conn_type": "postgres"}))

    def test_what_changed_is_backed_up_and_its_last_copy_looked_at(self, dag: Any, engine: FakeEngine) -> None:
        assert dag.test().state == "success"
        asked = {(name, source): arguments for name, source, arguments in engine.calls}
        assert {source for name, source in asked if name == "back_up"} == {"ledger", "crm"}
        assert asked["back_up", "ledger"] == {"incremental": True}
        assert asked["verify", "ledger"]["level"] == "L0"
        assert asked["verify", "ledger"]["repository"] == "vault"

    def test_a_failed_backup_stops_its_own_chain_only(self, dag: Any, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            if engine.calls[-1][1] == "ledger":
                raise SourceDenied("no right")

        engine.act["back_up"] = fail
        assert dag.test().state == "failed"
        done = {(name, source) for name, source, _ in engine.calls}
        assert ("verify", "crm") in done
        assert ("ship", "ledger") not in done
