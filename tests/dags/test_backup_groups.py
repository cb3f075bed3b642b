"""The backup of groups: how it is wired, what it takes away from the other nightly DAGs, and runs that only pretend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import SourceError
from mingus_engine.jobs import groups
from tests.dags.conftest import parse
from tests.mingus_airflow.support import ROOT, SETTINGS, FakeEngine, FakeReport

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]
SETS = """
  - {id: letters, kind: files, repository: primary, ship_to: [offsite], files: {roots: [{path: /srv/letters}]}}
  - {id: scans, kind: files, repository: primary, ship_to: [offsite], files: {roots: [{path: /srv/scans}]}}
"""
GROUPS = "groups: [{name: shop, members: [ledger, letters]}, {name: web, members: [sessions, scans]}]\n"


@pytest.fixture
def grouped(settings_file: Path) -> Path:
    settings_file.write_text(SETTINGS.replace("\nairflow:\n", f"{SETS}airflow:\n") + GROUPS)
    return settings_file


def dag_of(name: str) -> Any:
    dag = parse(ROOT / "dags" / f"{name}.py").dags[name]
    dag.deadline = None  # as in `dag_bag`
    return dag


def covered(name: str) -> list[str]:
    return list(dag_of(name).params.get_param("sources").schema["examples"])


@pytest.mark.usefixtures("grouped")
def test_groups_are_backed_up_first_in_the_night_and_each_member_is_proven() -> None:
    dag = dag_of("backup_groups")
    assert (dag.timetable.expression, str(dag.timetable.timezone)) == ("30 0 * * *", "Europe/Berlin")
    assert dag.params.get_param("groups").schema["examples"] == ["shop", "web"]
    after = {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}
    assert after["select_groups"] == {"back_up"}
    assert after["back_up"] == {"select_members", "all_good"}
    assert after["source.ship"] == {"source.verify"}
    assert after["source.verify"] == {"all_good"}
    assert "It is red" in dag.doc_md


@pytest.mark.usefixtures("grouped")
def test_members_are_left_out_of_the_nights_of_their_kind_and_stay_in_the_hours() -> None:
    assert (covered("backup_postgres_full"), covered("backup_redis_snapshot")) == (["crm"], [])
    assert covered("backup_documents") == []
    assert covered("backup_files_hourly") == ["letters", "scans"]
    assert "ledger" in covered("backup_postgres_incremental")
    assert "ledger" in covered("backup_postgres_wal")
    assert covered("backup_redis_aof") == ["sessions"]


def test_members_of_groups_that_are_not_scheduled_keep_their_nights(grouped: Path) -> None:
    grouped.write_text(grouped.read_text() + "schedules: {backup_groups: none}\n")
    assert dag_of("backup_groups").schedule is None
    assert covered("backup_postgres_full") == ["ledger", "crm"]
    assert covered("backup_documents") == ["letters", "scans"]


@pytest.mark.usefixtures("metadata_database")
class TestRun:
    """``dag.test()``: real templates, mapping, XCom and states; the engine's jobs pretend."""

    @pytest.fixture(autouse=True)
    def group_job(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(settings: Any, name: str, *, context: Any, incremental: bool) -> FakeReport:
            engine.calls.append(("group", name, {"incremental": incremental}))
            if "group" in engine.act:
                engine.act["group"](settings, context)
            made = {"snapshot": f"01K0{name}", "repository": "primary", "checks": []}
            members = dict.fromkeys(settings.group(name).members, made)
            return FakeReport(job="back up group", source=name, duration_s=1.0, more={"members": members})

        monkeypatch.setattr(groups, "back_up_group", run)

    @pytest.mark.usefixtures("grouped")
    def test_a_night_ships_and_proves_every_member(self, engine: FakeEngine) -> None:
        assert dag_of("backup_groups").test().state == "success"
        done = {(name, source) for name, source, _ in engine.calls}
        assert done == {("group", "shop"), ("group", "web")} | {
            (job, source) for job in ("ship", "verify") for source in ("ledger", "letters", "sessions", "scans")
        }
        assert ("group", "shop", {"incremental": True}) in engine.calls
        verified = {source: more["snapshot"] for name, source, more in engine.calls if name == "verify"}
        assert (verified["letters"], verified["scans"]) == ("01K0shop", "01K0web")

    @pytest.mark.usefixtures("grouped")
    def test_a_group_that_fails_fails_the_run_and_stops_no_other(self, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            if engine.calls[-1][1] == "shop":
                raise SourceError("the root /srv/letters is missing")

        engine.act["group"] = fail
        assert dag_of("backup_groups").test().state == "failed"
        assert {source for name, source, _ in engine.calls if name == "verify"} == {"sessions", "scans"}

    @pytest.mark.usefixtures("grouped")
    def test_a_run_of_which_every_group_failed_is_not_green(self, engine: FakeEngine) -> None:
        def fail(settings: Any, job: Any) -> None:
            raise SourceError("the root is missing")

        engine.act["group"] = fail
        assert dag_of("backup_groups").test().state == "failed"
        assert {name for name, _, _ in engine.calls} == {"group"}

    @pytest.mark.usefixtures("settings_file")
    def test_without_groups_nothing_is_done(self, engine: FakeEngine) -> None:
        assert dag_of("backup_groups").test().state == "success"
        assert engine.calls == []
