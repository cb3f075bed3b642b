"""The recoveries: how they are wired, and a drill and a refused restore with engine jobs that only pretend."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import parse
from tests.dags.test_backup_files import SETS
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]


@dataclass(frozen=True)
class Case:
    """One recovery DAG.

    :param job: that restores to a directory. :param writers: the tasks that write.
    :param at: a time is settled by the plan, which chooses a snapshot.
    """

    kind: str
    source: str
    job: str
    writers: tuple[str, ...]
    others: tuple[str, ...] = ()
    at: bool = False


CASES = (
    Case("postgres", "ledger", "restore", ("restore", "extract"), ("check",)),
    Case("redis", "sessions", "restore_redis", ("restore",)),
    Case("files", "letters", "restore_files", ("restore",), at=True),
)


@pytest.fixture(params=CASES, ids=lambda case: case.kind)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def recovery(dag_bag: Any, case: Case, settings_file: Path) -> Any:
    """The recovery."""
    if case.kind == "files":
        settings_file.write_text(SETTINGS.replace("\nairflow:\n", f"{SETS}airflow:\n"))
        return parse(ROOT / "dags" / "recover_files.py").dags["recover_files"]
    return dag_bag.dags[f"recover_{case.kind}"]


def test_it_is_only_ever_started_by_a_person(recovery: Any) -> None:
    assert recovery.timetable.can_be_scheduled is False


def test_the_form_has_exactly_the_fields_of_an_order(recovery: Any) -> None:
    order_type = recovery.get_task("approve").order_type
    assert set(recovery.params) == {field.name for field in fields(order_type)}
    for name in recovery.params:
        assert recovery.params.get_param(name).schema.get("section"), name


def test_a_form_offers_the_sources_and_servers_of_its_own_kind_only(recovery: Any, case: Case) -> None:
    others = {other.source for other in CASES if other is not case}
    offered = {name: set(recovery.params.get_param(name).schema["enum"]) for name in ("source", "into")}
    assert case.source in offered["source"]
    assert (case.source in offered["into"]) is (case.kind != "files")
    assert not others & (offered["source"] | offered["into"])


def test_everything_but_a_drill_comes_after_the_approval_and_is_not_retried(recovery: Any, case: Case) -> None:
    assert set(recovery.get_task("approve").downstream_task_ids) == set(case.writers)
    assert recovery.get_task("report").upstream_task_ids == {"drill", *case.writers, *case.others}
    for task_id in case.writers:
        assert recovery.get_task(task_id).retries == 0
    assert recovery.get_task("drill").upstream_task_ids == {"plan", "choose"}


@pytest.mark.usefixtures("metadata_database")
class TestRun:
    """``dag.test()``: real templates, branching, XCom and states; the engine's jobs pretend."""

    @staticmethod
    def states(run: Any) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}

    def test_a_drill_verifies_what_was_planned_at_the_moment_that_was_asked_for(
        self, recovery: Any, case: Case, engine: FakeEngine
    ) -> None:
        run = recovery.test(run_conf={"source": case.source, "mode": "drill", "to": "time:2026-11-23T14:29:59Z"})
        assert run.state == "success", self.states(run)
        assert {self.states(run)[task_id] for task_id in case.writers} == {"skipped"}
        calls = {name: arguments for name, _, arguments in engine.calls}
        assert calls[case.job]["dry_run"] is True
        if case.at:
            assert calls[case.job]["at"] == "time:2026-11-23T14:29:59Z"
            assert "to" not in calls["verify"]
        else:
            assert calls[case.job]["to"] == calls["verify"]["to"] == "time:2026-11-23T14:29:59Z"
        assert (calls["verify"]["snapshot"], calls["verify"]["repository"]) == ("01K0000000000000000000LEDG", "primary")

    def test_an_order_with_an_unknown_parameter_stops_at_the_plan(
        self, recovery: Any, case: Case, engine: FakeEngine
    ) -> None:
        run = recovery.test(run_conf={"source": case.source, "mode": "restore", "directory": "/x", "too": "latest"})
        assert run.state == "failed"
        assert self.states(run)["plan"] == "failed"
        assert engine.calls == []
