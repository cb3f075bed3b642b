"""The backups of Redis: how they are wired, and one run of each with engine jobs that only pretend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceUnsupported
from tests.dags.conftest import parse
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def snapshots(settings_file: Path) -> Any:
    return parse(ROOT / "dags" / "backup_redis_snapshot.py").dags["backup_redis_snapshot"]


@pytest.fixture
def aof(settings_file: Path) -> Any:
    return parse(ROOT / "dags" / "backup_redis_aof.py").dags["backup_redis_aof"]


def test_snapshots_are_taken_nightly_and_append_only_files_hourly(snapshots: Any, aof: Any) -> None:
    for dag, expression in ((snapshots, "30 2 * * *"), (aof, "0 * * * *")):
        assert (dag.timetable.expression, str(dag.timetable.timezone)) == (expression, "Europe/Berlin")
        assert (dag.catchup, dag.max_active_runs, dag.start_date) == (False, 1, None)
        assert dag.params.get_param("sources").schema["examples"] == ["sessions"]


def test_a_snapshot_is_shipped_and_verified_and_an_append_only_file_shipped(snapshots: Any, aof: Any) -> None:
    after = {task.task_id: set(task.downstream_task_ids) for task in snapshots.tasks}
    assert after["source.back_up"] == {"source.ship", "source.verify"}
    assert after["source.ship"] == {"source.verify"}
    assert {task.task_id for task in aof.tasks} == {"select_sources", "source.back_up", "source.ship"}


def test_the_bounds_of_an_append_only_file_are_its_own(settings_file: Path) -> None:
    settings_file.write_text(SETTINGS.replace("airflow:", "airflow:\n  back_up_aof: {pool: mingus_aof}"))
    dag = parse(ROOT / "dags" / "backup_redis_aof.py").dags["backup_redis_aof"]
    assert (dag.get_task("source.back_up").pool, dag.get_task("source.ship").pool) == ("mingus_aof", "default_pool")


def test_a_source_whose_append_only_file_is_not_scheduled_is_left_out(settings_file: Path) -> None:
    settings_file.write_text(SETTINGS.replace("    redis:\n", "    redis:\n      aof_scheduled: false\n"))
    dag = parse(ROOT / "dags" / "backup_redis_aof.py").dags["backup_redis_aof"]
    assert dag.params.get_param("sources").schema["examples"] == []


@pytest.mark.usefixtures("metadata_database")
class TestRun:
    """``dag.test()``: real templates, mapping, XCom and states; the engine's jobs pretend."""

    def test_a_snapshot_goes_through_all_its_steps(self, snapshots: Any, engine: FakeEngine) -> None:
        assert snapshots.test().state == "success"
        assert [(name, source) for name, source, _ in engine.calls] == [
            ("back_up", "sessions"),
            ("ship", "sessions"),
            ("verify", "sessions"),
        ]
        verified = engine.calls[-1][2]
        assert (verified["repository"], verified["level"]) == ("offsite", "L4")

    def test_a_run_without_any_source_is_green_and_does_nothing(self, settings_file: Path, engine: FakeEngine) -> None:
        settings_file.write_text(SETTINGS.replace("    redis:\n", "    redis:\n      aof_scheduled: false\n"))
        dag = parse(ROOT / "dags" / "backup_redis_aof.py").dags["backup_redis_aof"]
        assert dag.test().state == "success"
        assert engine.calls == []

    def test_what_could_restore_to_an_empty_server_is_not_shipped(self, aof: Any, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            raise SourceUnsupported("the append-only file has no manifest")

        engine.act["back_up_aof"] = fail
        assert aof.test().state == "failed"
        assert [name for name, _, _ in engine.calls] == ["back_up_aof"]

    def test_a_stretch_of_the_command_stream_is_shipped_although_it_is_no_snapshot(
        self, aof: Any, engine: FakeEngine
    ) -> None:
        assert aof.test().state == "success"
        assert [(name, arguments.get("snapshot")) for name, _, arguments in engine.calls] == [
            ("back_up_aof", None),
            ("ship", None),
        ]
