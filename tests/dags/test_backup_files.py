"""The backups of file sets: which sets each covers, how they are wired, and runs with engine jobs that only pretend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceError
from tests.dags.conftest import parse
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]
SETS = """
  - {id: letters, kind: files, repository: primary, ship_to: [offsite], files: {roots: [{path: /srv/letters}]}}
  - {id: scans, kind: files, repository: primary, files: {set: documents, roots: [{path: /srv/scans}]}}
  - {id: etc, kind: files, repository: primary, files: {set: configuration, roots: [{path: /etc}]}}
  - {id: shop, kind: files, repository: primary, files: {set: code, roots: [{path: /opt/shop}]}}
"""
NIGHTLY = {
    "backup_documents": ("0 1 * * *", ["letters", "scans"]),
    "backup_configuration": ("30 1 * * *", ["etc"]),
    "backup_code": ("0 2 * * *", ["shop"]),
}
HOURLY = "backup_files_hourly"


@pytest.fixture(autouse=True)
def settings_with_file_sets(settings_file: Path) -> Path:
    settings_file.write_text(SETTINGS.replace("\nairflow:\n", f"{SETS}airflow:\n"))
    return settings_file


def dag_of(name: str) -> Any:
    return parse(ROOT / "dags" / f"{name}.py").dags[name]


def test_each_kind_of_set_has_its_time_of_the_night_and_is_proven() -> None:
    for name, (expression, sets) in NIGHTLY.items():
        dag = dag_of(name)
        assert (dag.timetable.expression, str(dag.timetable.timezone)) == (expression, "Europe/Berlin")
        assert (dag.catchup, dag.max_active_runs, dag.start_date) == (False, 1, None)
        assert dag.params.get_param("sources").schema["examples"] == sets
        after = {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}
        assert after["source.back_up"] == {"source.ship", "source.verify"}
        assert after["source.ship"] == {"source.verify"}
        assert "source.verify" in dag.doc_md
        assert "It is red" in dag.doc_md


def test_every_hour_covers_all_sets_and_ships_them() -> None:
    dag = dag_of(HOURLY)
    assert dag.timetable.expression == "15 * * * *"
    assert dag.params.get_param("sources").schema["examples"] == ["letters", "scans", "etc", "shop"]
    assert {task.task_id for task in dag.tasks} == {"select_sources", "source.back_up", "source.ship"}


def test_times_and_bounds_are_settable(settings_with_file_sets: Path) -> None:
    text = settings_with_file_sets.read_text().replace(
        "\nairflow:\n", "\nairflow:\n  back_up_files: {pool: mingus_files}\n"
    )
    settings_with_file_sets.write_text(text + "schedules: {backup_documents: '0 4 * * *', backup_files_hourly: none}\n")
    dag = dag_of("backup_documents")
    assert dag.timetable.expression == "0 4 * * *"
    assert (dag.get_task("source.back_up").pool, dag.get_task("source.ship").pool) == ("mingus_files", "default_pool")
    assert dag_of(HOURLY).schedule is None


def test_a_misspelt_kind_of_set_is_an_import_error_that_says_so(settings_with_file_sets: Path) -> None:
    settings_with_file_sets.write_text(settings_with_file_sets.read_text().replace("set: code", "set: codes"))
    (error,) = parse(ROOT / "dags" / "backup_code.py").import_errors.values()
    assert "'codes' is not one of" in error
    assert "documents, configuration, code" in error


@pytest.mark.usefixtures("metadata_database")
class TestRun:
    """``dag.test()``: real templates, mapping, XCom and states; the engine's jobs pretend."""

    def test_a_night_backs_up_what_changed_ships_it_and_proves_the_last_copy(self, engine: FakeEngine) -> None:
        assert dag_of("backup_documents").test().state == "success"
        asked = {(name, source): arguments for name, source, arguments in engine.calls}
        assert set(asked) == {
            (job, source) for job in ("back_up", "ship", "verify") for source in ("letters", "scans")
        } - {
            ("ship", "scans")  # has one repository only
        }
        assert asked["back_up", "letters"] == {"incremental": True}
        verified = asked["verify", "letters"]
        assert (verified["repository"], verified["level"]) == ("offsite", "L4")

    def test_a_person_may_ask_for_everything_again(self, engine: FakeEngine) -> None:
        dag = dag_of(HOURLY)
        assert dag.test(run_conf={"kind": "full", "sources": ["shop"]}).state == "success"
        assert engine.calls[0] == ("back_up", "shop", {"incremental": False})

    def test_a_set_that_fails_is_not_shipped_and_stops_no_other(self, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            if engine.calls[-1][1] == "letters":
                raise SourceError("the root /srv/letters is missing")

        engine.act["back_up"] = fail
        assert dag_of("backup_documents").test().state == "failed"
        done = {(name, source) for name, source, _ in engine.calls}
        assert ("verify", "scans") in done
        assert ("ship", "letters") not in done
