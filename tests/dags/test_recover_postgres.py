"""The recovery: how it is wired, and a drill and a refused restore with engine jobs that only pretend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.mingus_airflow.support import FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def recovery(dag_bag: Any) -> Any:
    """The recovery."""
    return dag_bag.dags["recover_postgres"]


def test_it_is_only_ever_started_by_a_person(recovery: Any) -> None:
    assert recovery.timetable.can_be_scheduled is False


def test_the_form_has_exactly_the_fields_of_an_order(recovery: Any) -> None:
    from dataclasses import fields

    from mingus_airflow.recovery_postgres import PostgresOrder

    assert set(recovery.params) == {field.name for field in fields(PostgresOrder)}
    for name in recovery.params:
        assert recovery.params.get_param(name).schema.get("section"), name


def test_everything_but_a_drill_comes_after_the_approval_and_is_not_retried(recovery: Any) -> None:
    assert set(recovery.get_task("approve").downstream_task_ids) == {"restore", "extract"}
    assert recovery.get_task("report").upstream_task_ids == {"drill", "restore", "check", "extract"}
    for task_id in ("restore", "extract"):
        assert recovery.get_task(task_id).retries == 0
    assert recovery.get_task("drill").upstream_task_ids == {"plan", "choose"}


class TestRun:
    """``dag.test()``: real templates, branching, XCom and states; the engine's jobs pretend."""

    @pytest.fixture(autouse=True)
    def database(self, metadata_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DB", json.dumps({"conn_type": "postgres"}))

    @staticmethod
    def states(run: Any) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}

    def test_a_drill_verifies_what_was_planned_at_the_moment_that_was_asked_for(
        self, recovery: Any, engine: FakeEngine
    ) -> None:
        run = recovery.test(run_conf={"source": "ledger", "mode": "drill", "to": "time:2026-11-23T14:29:59Z"})
        assert run.state == "success", self.states(run)
        assert self.states(run)["restore"] == self.states(run)["extract"] == "skipped"
        calls = {name: arguments for name, _, arguments in engine.calls}
        assert calls["restore"]["dry_run"] is True
        assert calls["restore"]["to"] == calls["verify"]["to"] == "time:2026-11-23T14:29:59Z"
        assert (calls["verify"]["snapshot"], calls["verify"]["repository"]) == ("01K0000000000000000000LEDG", "primary")

    def test_an_order_with_an_unknown_parameter_stops_at_the_plan(self, recovery: Any, engine: FakeEngine) -> None:
        run = recovery.test(run_conf={"source": "ledger", "mode": "restore", "directory": "/x", "too": "latest"})
        assert run.state == "failed"
        assert self.states(run)["plan"] == "failed"
        assert engine.calls == []
