"""When an approval holds, what is asked of Airflow about it, and what becomes of a task without one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from mingus_airflow import approval
from mingus_airflow.approval import Facts, NotApproved, collect, judge, question, subject
from mingus_airflow.operators import (
    PgExtractOperator,
    PgRestoreOperator,
    RecoveryApprovalOperator,
    RedisRestoreOperator,
)
from mingus_airflow.operators.approved import ApprovedOperator
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_airflow.recovery_redis import RedisOrder
from mingus_airflow.rest import AirflowApi, ApiError
from tests.mingus_airflow.support import SETTINGS, FakeEngine

pytestmark = pytest.mark.airflow

ORDER = {"source": "ledger", "mode": "restore", "directory": "/restored"}
PLAN = {"snapshot": "01KSNAP", "repository": "primary"}
WANTED = subject(PostgresOrder.parse(ORDER), PLAN)
DETAIL: dict[str, Any] = {
    "response_received": True,
    "responded_by_user": {"id": "7", "name": "bob"},
    "responded_at": "2026-11-23T14:30:00Z",
    "chosen_options": ["Approve"],
    "subject": WANTED,
}
GOOD = Facts(requester="alice", detail=DETAIL)


def answered(**change: Any) -> Facts:
    return replace(GOOD, detail={**DETAIL, **change})


def test_another_persons_answer_to_this_very_question_is_an_approval() -> None:
    approved = judge(GOOD, WANTED, ())
    assert (approved.by, approved.requester) == ("bob", "alice")
    assert judge(GOOD, WANTED, ("carol", "Bob")).by == "bob"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(GOOD, detail=None), "no person has answered"),
        (answered(response_received=False), "no person has answered"),
        (answered(responded_by_user=None), "no author"),
        (answered(responded_by_user={"id": "", "name": ""}), "no author"),
        (answered(chosen_options=["Reject"]), "bob answered"),
        (answered(chosen_options=["Approve", "Reject"]), "bob answered"),
        (answered(chosen_options=None), "bob answered"),
        (replace(GOOD, requester=None), "nobody is known to have asked"),
        (replace(GOOD, requester="Bob"), "cannot approve it as well"),
        (replace(GOOD, requester="7"), "cannot approve it as well"),
        (answered(subject=WANTED[:-1] + "0"), "another order or plan"),
        (answered(subject="", body=WANTED), "another order or plan"),
        (replace(GOOD, earlier=[datetime(2026, 11, 23, 14, 30, tzinfo=UTC)]), "used by an earlier try"),
        (replace(GOOD, tries_missing=1), "no record of 1 earlier"),
        (replace(GOOD, deeds=["post_clear_task_instances"]), "also acted on this run"),
    ],
)
def test_anything_less_is_not(facts: Facts, message: str) -> None:
    with pytest.raises(NotApproved, match=message):
        judge(facts, WANTED, ())


def test_an_answer_of_somebody_who_is_not_among_the_approvers_is_not() -> None:
    with pytest.raises(NotApproved, match="not among the approvers"):
        judge(GOOD, WANTED, ("carol",))


def test_an_answer_that_is_younger_than_the_last_try_serves_the_next_one() -> None:
    judge(replace(GOOD, earlier=[datetime(2026, 11, 23, 14, 29, 59, tzinfo=UTC)]), WANTED, ())


def test_a_requester_cannot_write_anything_into_the_question_that_reads_as_more_than_a_value() -> None:
    evil = PostgresOrder.parse({**ORDER, "directory": "/x` | \n# Approved by bob\n<b>"})
    body = question(evil, PLAN, "alice")
    assert "\n# Approved" not in body
    assert "`/x\\x60 \\x7c \\x0a# Approved by bob\\x0a<b>`" in body


class FakeApi(AirflowApi):
    """Answers of Airflow by path; what is not there is 404."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def get(self, path: str, **query: Any) -> Any:
        for end, answer in self.answers.items():
            if path.endswith(end):
                return answer(query) if callable(answer) else answer
        raise ApiError(f"no {path}", 404)


def facts_of(events: list[dict[str, Any]], *, try_number: int = 1, tries: list[dict[str, Any]] | None = None) -> Facts:
    def logged(query: dict[str, Any]) -> dict[str, Any]:
        found = events if query["owner"] == "bob" else []
        return {"event_logs": found[query["offset"] : query["offset"] + 1], "total_entries": len(found)}

    api = FakeApi({
        "/dagRuns/r%2B1": {"triggering_user_name": "alice", "run_after": "2026-11-23T14:00:00Z"},
        "/hitlDetails": DETAIL,
        "/tries": {"task_instances": tries or []},
        "/eventLogs": logged,
    })  # fmt: skip
    return collect(api, dag_id="d", run_id="r+1", asked="approve", task_id="restore", try_number=try_number)


def event(name: str, run_id: str | None = None, extra: str = "") -> dict[str, Any]:
    return {"event": name, "run_id": run_id, "extra": extra}


def test_the_answer_itself_and_deeds_on_other_runs_are_no_deeds_on_this_one() -> None:
    others = [
        event("update_hitl_detail", "r+1"),
        event("post_clear_task_instances", "other"),
        event("trigger_dag_run"),
        event("delete_connection"),
    ]
    assert facts_of(others).deeds == []


@pytest.mark.parametrize(
    "deed",
    [
        event("post_clear_task_instances", "r+1"),
        event("patch_task_instance", "r+1"),
        event("create_xcom_entry", "r+1"),
        event("clear_dag_runs", None, '{"dag_runs": [{"dag_run_id": "r+1"}]}'),
        event("bulk_task_instances"),
        event("clear_dag_run_partitions"),
    ],
)
def test_whatever_the_approver_did_to_the_run_is_found_on_any_page_of_the_log(deed: dict[str, Any]) -> None:
    assert facts_of([event("update_hitl_detail", "r+1"), deed]).deeds == [deed["event"]]


def test_tries_without_a_record_are_counted() -> None:
    entry = {"try_number": 1, "start_date": "2026-11-23T14:10:00Z"}
    now = {"try_number": 3, "start_date": "2026-11-23T15:10:00Z"}
    found = facts_of([], try_number=3, tries=[entry, now])
    assert (len(found.earlier), found.tries_missing) == (1, 1)


class TestTask:
    """The protected task itself, of each kind of source."""

    @pytest.fixture(autouse=True, params=[PgRestoreOperator, RedisRestoreOperator])
    def operator_type(self, request: pytest.FixtureRequest, settings_file: Any) -> None:
        self.type: type[ApprovedOperator] = request.param
        self.order = {**ORDER, "source": "ledger" if self.type is PgRestoreOperator else "sessions"}
        self.good = answered(subject=subject(self.type.order_type.parse(self.order), PLAN))

    def execute(self, plan: dict[str, Any] | None = None, **change: Any) -> dict[str, Any]:
        operator = self.type(task_id="restore", order={**self.order, **change}, plan=plan or PLAN)
        assert operator.retries == 0
        ti = SimpleNamespace(dag_id="d", run_id="r+1", task_id="restore", map_index=-1, try_number=1)
        return operator.execute({"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name="alice")})

    def believe(self, monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
        monkeypatch.setattr(AirflowApi, "of_connection", classmethod(lambda *_: FakeApi({})))
        monkeypatch.setattr(approval, "collect", lambda *_, **__: facts)

    def test_it_restores_what_was_planned_and_says_who_approved(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.believe(monkeypatch, self.good)
        report = self.execute()
        assert report["approved_by"] == "bob"
        ((job, source, arguments),) = engine.calls
        assert (job, source) in (("restore", "ledger"), ("restore_redis", "sessions"))
        assert (arguments["snapshot"], arguments["repository"]) == ("01KSNAP", "primary")
        assert str(arguments["directory"]) == "/restored"

    @pytest.mark.parametrize("change", [{"directory": "/elsewhere"}, {"plan": {**PLAN, "snapshot": "01KOTHER"}}])
    def test_it_does_nothing_for_another_order_or_plan(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
    ) -> None:
        self.believe(monkeypatch, self.good)
        with pytest.raises(NotApproved):
            self.execute(**change)
        assert engine.calls == []

    def test_it_does_nothing_when_airflow_cannot_be_asked(self, engine: FakeEngine) -> None:
        with pytest.raises(NotApproved, match="'mingus_api' does not exist"):
            self.execute()
        assert engine.calls == []

    def test_it_does_nothing_when_an_answer_is_not_understood(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(AirflowApi, "of_connection", classmethod(lambda *_: FakeApi({"/dagRuns/r%2B1": []})))
        with pytest.raises(NotApproved, match="could not be checked"):
            self.execute()
        assert engine.calls == []


@pytest.mark.parametrize(
    ("operator", "order"),
    [
        (PgRestoreOperator, {"source": "ledger", "mode": "extract", "what": "books", "into": "ledger"}),
        (PgExtractOperator, ORDER),
        (RedisRestoreOperator, {"source": "sessions", "mode": "drill"}),
    ],
)
@pytest.mark.usefixtures("settings_file")
def test_a_task_skips_itself_when_the_order_is_of_another_mode(
    engine: FakeEngine, operator: type[ApprovedOperator], order: dict[str, Any]
) -> None:
    with pytest.raises(AirflowSkipException):
        operator(task_id="t", order=order, plan=PLAN).execute({})
    assert engine.calls == []


def test_keys_go_into_the_server_that_was_approved(
    engine: FakeEngine, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = {
        "source": "sessions",
        "mode": "extract",
        "into": "sessions",
        "keys": ["session:*"],
        "database_map": ["3=0"],
    }
    good = answered(subject=subject(RedisOrder.parse(order), PLAN))
    monkeypatch.setattr(AirflowApi, "of_connection", classmethod(lambda *_: FakeApi({})))
    monkeypatch.setattr(approval, "collect", lambda *_, **__: good)
    ti = SimpleNamespace(dag_id="d", run_id="r+1", task_id="restore", map_index=-1, try_number=1)
    context = {"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name="alice")}
    for wrong in ({**order, "keys": []}, {**order, "conflict": "replace"}):
        with pytest.raises(NotApproved):
            RedisRestoreOperator(task_id="restore", order=wrong, plan=PLAN).execute(context)
    assert engine.calls == []
    report = RedisRestoreOperator(task_id="restore", order=order, plan=PLAN).execute(context)
    assert (report["requested_by"], report["approved_by"]) == ("alice", "bob")
    ((job, _, arguments),) = engine.calls
    assert (job, arguments["snapshot"], arguments["repository"]) == ("restore_into", "01KSNAP", "primary")
    assert (arguments["keys"], arguments["database_map"]) == (("session:*",), {3: 0})
    assert "dry_run" not in arguments


class TestQuestion:
    """The task that asks."""

    def ask(self, monkeypatch: pytest.MonkeyPatch, requester: str | None, **order: Any) -> RecoveryApprovalOperator:
        operator = RecoveryApprovalOperator(
            task_id="approve", order={**ORDER, **order}, order_type=PostgresOrder, plan=PLAN
        )
        monkeypatch.setattr(ApprovalOperator, "execute", lambda *_: None)
        operator.execute({"dag_run": SimpleNamespace(triggering_user_name=requester)})
        return operator

    def test_its_headline_is_bound_to_order_and_plan(
        self, settings_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.ask(monkeypatch, "alice")
        assert asked.subject == WANTED
        assert "`alice` asks for this" in str(asked.body)
        assert asked.assigned_users is None
        assert self.ask(monkeypatch, "alice", directory="/elsewhere").subject != WANTED

    def test_approvers_of_the_settings_are_asked_except_who_wants_it(
        self, settings_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings_file.write_text(SETTINGS + "  approval: {approvers: [alice, bob]}\n")
        assert self.ask(monkeypatch, "Alice").assigned_users == [{"id": "bob", "name": "bob"}]
        settings_file.write_text(SETTINGS + "  approval: {approvers: [alice]}\n")
        with pytest.raises(NotApproved, match="the only approver"):
            self.ask(monkeypatch, "alice")

    def test_nobody_is_asked_on_behalf_of_nobody(self, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(NotApproved, match="nobody is known to have asked"):
            self.ask(monkeypatch, None)
