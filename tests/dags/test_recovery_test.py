"""The weekly recovery test: when, of what, and what its report says, with engine jobs that only pretend."""

from __future__ import annotations

from typing import Any

import pytest

from mingus_airflow import recovery_results
from mingus_engine.errors import MingusError, StoreUnreachable, VerificationFailed
from mingus_engine.jobs.recovery_test import RecoveryTestFailed, RecoveryTestReport
from tests.mingus_airflow.support import FakeEngine

pytestmark = [
    pytest.mark.airflow,
    # Airflow and its dependencies warn about each other while they parse and run a DAG.
    pytest.mark.filterwarnings("ignore"),
]
SOURCES = ["ledger", "crm", "sessions"]


@pytest.fixture
def weekly(dag_bag: Any) -> Any:
    return dag_bag.dags["recovery_test"]


def failure(source: str, cause: MingusError) -> RecoveryTestFailed:
    left = [
        {"repository": "primary", "snapshots": 2, "newest": "01KNEW", "proven": "01KOLD", "proven_level": "L4",
         "proven_at": "2026-11-22T02:10:00+00:00", "window_from": "2026-11-01T00:00:00+00:00",
         "window_to": "2026-11-23T00:00:00+00:00"},
        {"repository": "offsite", "trouble": "no answer"},
    ]  # fmt: skip
    report = RecoveryTestReport(
        job="recovery_test", source=source, duration_s=1, repository="offsite", still_recoverable=left,
        error=cause.message,
    )  # fmt: skip
    return RecoveryTestFailed(report, cause)


def test_it_covers_every_source_of_every_kind_on_sundays(weekly: Any) -> None:
    assert (weekly.timetable.expression, str(weekly.timetable.timezone)) == ("0 2 * * 0", "Europe/Berlin")
    assert weekly.params.get_param("sources").schema["examples"] == SOURCES
    assert set(weekly.get_task("report").upstream_task_ids) == {"test", "select_sources"}
    assert "It is red" in weekly.doc_md


def test_a_failure_is_as_transient_as_its_cause_and_says_what_is_left() -> None:
    error = failure("ledger", StoreUnreachable("offsite did not answer"))
    assert error.transient
    assert error.exit_code == StoreUnreachable.exit_code
    assert error.message == (
        "offsite did not answer; still recoverable: primary: any moment from 2026-11-01T00:00:00+00:00 to"
        " 2026-11-23T00:00:00+00:00, 01KOLD, proven L4 on 2026-11-22T02:10:00+00:00; offsite: not known: no answer"
    )


def test_a_table_keeps_hostile_names_in_their_cells_and_a_killed_test_in_sight() -> None:
    outcomes = recovery_results.of_each(
        ["a", "b"], [{"source": "a", "ok": True, "repository": "x|y\n| z <b>", "snapshot": "01K", "rto_s": 2.0}]
    )
    lines = recovery_results.table(outcomes).splitlines()
    assert len(lines) == 4
    assert r"x\|y \| z &lt;b>" in lines[2]
    assert lines[3].startswith("| b | FAILED |")
    assert "without a result" in lines[3]


@pytest.mark.usefixtures("metadata_database")
class TestRun:
    """``dag.test()``: real mapping, XCom and states."""

    @staticmethod
    def outcome(run: Any) -> tuple[dict[str, list[str]], Any]:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        states: dict[str, list[str]] = {}
        for ti in run.get_task_instances():
            states.setdefault(ti.task_id, []).append(str(ti.state))
        with create_session() as session:
            query = XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, task_ids="report", key="return_value")
            (found,) = session.scalars(query).all()
            return states, XComModel.deserialize_value(found)

    def test_each_source_is_tested_and_the_report_has_one_row_each(self, weekly: Any, engine: FakeEngine) -> None:
        run = weekly.test()
        states, report = self.outcome(run)
        assert states == {"select_sources": ["success"], "test": ["success"] * 3, "report": ["success"]}
        assert {call[:2] for call in engine.calls} == {("recovery_test", source) for source in SOURCES}
        assert report["ok"] is True
        assert len(report["table"].splitlines()) == 2 + len(SOURCES)

    def test_a_failure_leaves_the_others_alone_and_the_report_says_what_is_left(
        self, weekly: Any, engine: FakeEngine
    ) -> None:
        tried: list[str] = []

        def act(*_: object) -> None:
            tried.append(engine.calls[-1][1])
            if tried[-1] == "crm":
                raise failure("crm", VerificationFailed("2 pages are bad"))

        engine.act["recovery_test"] = act
        run = weekly.test()
        states, report = self.outcome(run)
        assert run.state == "failed"
        assert set(tried) == set(SOURCES)
        assert states["report"] == ["failed"]
        assert report["failed"] == ["crm"]
        (row,) = [line for line in report["table"].splitlines() if line.startswith("| crm |")]
        assert "01KOLD, proven L4" in row
        assert "offsite: not known: no answer" in row
