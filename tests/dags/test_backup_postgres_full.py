"""The nightly backup: how it is wired, and one run of it with engine jobs that only pretend."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceDenied, VerificationFailed
from tests.dags.conftest import parse
from tests.mingus_airflow.support import KEY, PASSWORD, ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]

TASKS = ["select_sources", "source.back_up", "source.ship", "source.verify"]


def test_every_dag_is_imported_without_error(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}


def test_every_dag_is_named_as_its_file(dag_bag: Any) -> None:
    assert {dag.dag_id: Path(dag.fileloc).stem for dag in dag_bag.dags.values()} == {
        path.stem: path.stem for path in (ROOT / "dags").glob("*.py")
    }


def test_every_dag_is_tagged_and_documented_for_who_is_woken(dag_bag: Any) -> None:
    for dag in dag_bag.dags.values():
        assert "mingus" in dag.tags
        assert "It is red. What now?" in dag.doc_md


def test_it_runs_at_two_in_the_time_zone_of_the_settings_and_never_makes_up_for_the_past(dag: Any) -> None:
    assert (dag.timetable.expression, str(dag.timetable.timezone)) == ("0 2 * * *", "Europe/Berlin")
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.start_date is None


def test_each_source_is_backed_up_then_shipped_then_verified(dag: Any) -> None:
    assert sorted(dag.task_ids) == sorted(TASKS)
    after = {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}
    assert after["source.back_up"] == {"source.ship", "source.verify"}
    assert after["source.ship"] == {"source.verify"}
    assert after["source.verify"] == set()


def test_tasks_take_pool_retries_and_time_out_from_the_settings(dag: Any) -> None:
    backup, verify = dag.get_task("source.back_up"), dag.get_task("source.verify")
    assert (backup.pool, verify.pool) == ("mingus_backup", "default_pool")
    for task in (backup, dag.get_task("source.ship"), verify):
        assert task.retries == 2
        assert task.retry_delay == timedelta(seconds=7)
        assert task.retry_exponential_backoff > 1
        assert task.execution_timeout is not None
    assert backup.execution_timeout == timedelta(minutes=10)


def test_a_mapped_task_shows_the_source_it_is_for(dag: Any) -> None:
    for task_id in TASKS[1:]:
        assert dag.get_task(task_id).map_index_template == "{{ task.source }}"


@pytest.mark.parametrize(("name", "value"), [("sources", ["ledgr"]), ("sources", "ledger"), ("level", "L9")])
def test_parameters_are_checked_before_a_run_begins(dag: Any, name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_a_broken_settings_file_is_an_import_error_that_says_what_is_wrong(settings_file: Path) -> None:
    settings_file.write_text(SETTINGS.replace("retries: 2", "retrys: 2"))
    bag = parse(ROOT / "dags" / "backup_postgres_full.py")
    (error,) = bag.import_errors.values()
    assert error.strip().splitlines()[-1].endswith("airflow: unknown key 'retrys'; did you mean 'retries'?")


class TestRun:
    """``dag.test()``: real templates, mapping, XCom and states; the engine's jobs pretend."""

    @pytest.fixture(autouse=True)
    def database(self, metadata_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The run parses the file again; connections come from the environment of the settings_file fixture.
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DB", json.dumps({"conn_type": "postgres"}))

    @staticmethod
    def states(run: Any) -> dict[tuple[str, int], str]:
        return {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}

    def test_all_sources_are_proven_independently(self, dag: Any, engine: FakeEngine) -> None:
        run = dag.test()
        assert run.state == "success", self.states(run)
        assert sorted((name, source) for name, source, _ in engine.calls) == [
            ("back_up", "crm"),
            ("back_up", "ledger"),
            ("ship", "ledger"),
            ("ship", "ledger"),
            ("verify", "crm"),
            ("verify", "ledger"),
        ]
        snapshots = {arguments["snapshot"] for name, _, arguments in engine.calls if name != "back_up"}
        assert snapshots == {"01K0000000000000000000LEDG"}
        labels = {ti.rendered_map_index for ti in run.get_task_instances() if ti.task_id == "source.verify"}
        assert labels == {"ledger", "crm"}

    def test_a_filter_and_a_level_reach_the_tasks(self, dag: Any, engine: FakeEngine) -> None:
        run = dag.test(run_conf={"sources": ["crm"], "level": "L1"})
        assert run.state == "success", self.states(run)
        assert {source for _, source, _ in engine.calls} == {"crm"}
        assert [c[2]["level"] for c in engine.calls if c[0] == "verify"] == ["L1"]

    def test_a_failed_backup_stops_its_own_chain_only(self, dag: Any, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            if engine.calls[-1][1] == "ledger":
                raise SourceDenied("no right")

        engine.act["back_up"] = fail
        run = dag.test()
        assert run.state == "failed"
        assert ("verify", "crm") in {(name, source) for name, source, _ in engine.calls}
        assert ("ship", "ledger") not in {(name, source) for name, source, _ in engine.calls}

    def test_a_backup_that_is_not_good_fails_the_run(self, dag: Any, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            raise VerificationFailed("3 invariants do not hold")

        engine.act["verify"] = fail
        run = dag.test(run_conf={"sources": ["crm"]})
        assert run.state == "failed"
        assert self.states(run)["source.verify", 0] == "failed"

    def test_rendered_templates_and_reports_hold_no_secret(self, dag: Any, engine: FakeEngine) -> None:
        from airflow.models.renderedtifields import RenderedTaskInstanceFields
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        run = dag.test(run_conf={"sources": ["ledger"]})
        assert run.state == "success", self.states(run)
        with create_session() as session:
            rendered = session.scalars(select(RenderedTaskInstanceFields).filter_by(run_id=run.run_id)).all()
            values = session.scalars(select(XComModel.value).filter_by(run_id=run.run_id)).all()
            stored = str([row.rendered_fields for row in rendered]) + str(values)
        assert "ledger" in stored
        assert PASSWORD not in stored
        assert KEY not in stored
