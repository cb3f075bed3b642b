"""The recoveries with a real Airflow: a drill, an approved restore, and every way around the approval that is known.

All runs are started together and answered together: what takes time is Airflow, not the restores.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from demo.errors import DemoError
from tests.end_to_end.conftest import (
    DAG,
    FILES_DAG,
    FILES_RECOVERY,
    RECOVERY,
    REDIS_DAG,
    REDIS_RECOVERY,
    SESSIONS,
    Installation,
)
from tests.support.directories import make_directory
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]
Runs = dict[tuple[str, str], "Run"]
ENDED = ("success", "failed", "skipped", "upstream_failed")


@dataclass
class Run:
    """One run of a recovery, asked for by alice."""

    installation: Installation
    run_id: str
    directory: Path
    dag: str = RECOVERY

    @property
    def path(self) -> str:
        return f"/dags/{self.dag}/dagRuns/{quote(self.run_id, safe='')}"

    def as_user(self, user: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.installation.airflow.api_of(user).call(method, f"{self.path}{path}", body)

    def state(self, task_id: str) -> str:
        return str(self.installation.task(self.run_id, task_id, dag=self.dag)["state"])

    def states(self) -> dict[str, str]:
        tasks = self.installation.airflow.api.tasks(self.dag, self.run_id)
        return {task["task_id"]: str(task["state"]) for task in tasks}

    def log(self, task_id: str, attempt: int = 1) -> str:
        return self.installation.task_log(self.run_id, task_id, attempt, dag=self.dag)

    def report(self, task_id: str) -> Any:
        return self.installation.airflow.api.report(self.dag, self.run_id, task_id)

    def wait_asked(self, attempt: int = 1) -> None:
        """Until the question is put and the scheduler has noted it.

        An answer that comes in between makes Airflow fail the task although the answer is stored.
        """
        task = rf"task_id='approve'.*{re.escape(self.run_id)}.*try_number={attempt}\b"
        noted = re.compile(rf"Received executor event with state success.*{task}")
        wait_until(
            lambda: (
                self.state("approve") == "awaiting_input"
                and noted.search((self.installation.airflow.logs / "scheduler.log").read_text(errors="replace"))
            ),
            f"{self.run_id} asks for approval",
            timeout_s=480,  # all requests of the module are put at once
        )

    def answer(self, user: str, option: str = "Approve") -> None:
        body = {"chosen_options": [option], "params_input": {}}
        self.as_user(user, "PATCH", "/taskInstances/approve/-1/hitlDetails", body)

    def wait_ended(self, task_id: str) -> str:
        return str(
            wait_until(
                lambda: state if (state := self.state(task_id)) in ENDED else None, f"{task_id} ended", timeout_s=120
            )
        )

    def clear(self, user: str, *task_ids: str) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": list(task_ids), "only_failed": False}
        self.installation.airflow.api_of(user).call("POST", f"/dags/{self.dag}/clearTaskInstances", body)

    def assert_refused(self, because: str, attempt: int = 1) -> None:
        """The restore task ended red, said why, and wrote nothing."""
        assert self.wait_ended("restore") == "failed"
        log = wait_until(
            lambda: (t := self.log("restore", attempt)) and "NotApproved" in t and t, "the refusal is logged"
        )
        assert because in log, log
        assert not self.directory.exists()


EXTRACTED = "mingus_recovery"
NAMES = ("good", "rejected", "own", "marked", "forged", "edited", "meddled")


@dataclass(frozen=True)
class Kind:
    """What differs between the kinds of sources.

    :param proof: file of a restored directory without which no server starts.
    """

    source: str
    backup: str
    recovery: str
    proof: str
    start: str


KINDS = {
    "postgres": Kind("ledger", DAG, RECOVERY, "global/pg_control", "pg_ctl"),
    "redis": Kind("sessions", REDIS_DAG, REDIS_RECOVERY, "dump.rdb", "redis-server"),
    "files": Kind("letters", FILES_DAG, FILES_RECOVERY, "letters/2026/letter-07.txt", ""),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def snapshots(installation: Installation, proven: str, proven_sessions: str, proven_letters: str) -> dict[str, str]:
    """A snapshot of each kind."""
    runs = {"postgres": proven, "redis": proven_sessions, "files": proven_letters}
    return {
        name: str(installation.airflow.api.report(kind.backup, runs[name], "source.back_up", 0)["snapshot"])
        for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def runs(installation: Installation, snapshots: dict[str, str]) -> dict[tuple[str, str], Run]:
    """A restore each, all asked for by alice, waiting for their approval."""
    alice = installation.airflow.api_of("alice")
    parent = make_directory(installation.home / "restored")
    made = {}

    def ask(kind: str, name: str, order: Mapping[str, Any]) -> None:
        dag, directory = KINDS[kind].recovery, parent / f"{kind}-{name}"
        whole = {"source": KINDS[kind].source, "snapshot": snapshots[kind], **order}
        if whole["mode"] == "restore":
            whole["directory"] = str(directory)
        made[kind, name] = Run(installation, alice.trigger(dag, whole), directory, dag)

    for kind in KINDS:
        for name in NAMES:
            ask(kind, name, {"mode": "restore"})
    order = {"mode": "extract", "what": installation.database, "into": "standby-site", "new_name": EXTRACTED}
    ask("postgres", "extract", order)
    order = {"mode": "extract", "into": "sessions", "keys": ["session:*"], "database_map": ["0=5"]}
    ask("redis", "extract", order)
    shutil.rmtree(installation.home / "letters" / "2025")
    (installation.home / "letters" / "2026" / "letter-03.txt").unlink()
    order = {"mode": "extract", "into": "original", "paths": ["letters/2025"], "patterns": ["letter-03.txt"]}
    ask("files", "extract", {**order, "conflict": "skip"})
    for run in made.values():
        run.wait_asked()
    return made


def test_a_drill_triggered_at_a_terminal_needs_no_approval(
    installation: Installation, kind: str, snapshots: dict[str, str]
) -> None:
    dag = KINDS[kind].recovery
    run_id = installation.trigger(dag=dag, source=KINDS[kind].source, mode="drill", snapshot=snapshots[kind])
    assert installation.wait(run_id, dag=dag) == "success"
    report = installation.airflow.api.report(dag, run_id, "report")
    assert (report["job"], report["ok"], report["checks_not_passed"]) == ("verify", True, [])
    assert report["rto_s"] > 0
    states = Run(installation, run_id, Path("/nonexistent"), dag).states()
    done = {name for name, state in states.items() if state == "success"}
    assert done == {"plan", "choose", "drill", "report"}
    assert {states[name] for name in states.keys() - done} == {"skipped"}


def test_a_misspelt_parameter_or_an_impossible_order_is_refused_before_anybody_is_asked(
    installation: Installation,
) -> None:
    alice = installation.airflow.api_of("alice")
    with pytest.raises(DemoError, match="was answered 400"):
        alice.trigger(RECOVERY, {"source": "ledgr", "mode": "drill"})
    wrong = {
        "has no parameter 'snapshoot'; did you mean 'snapshot'": {"mode": "drill", "snapshoot": "01K"},
        "needs the parameter 'directory'": {"mode": "restore"},
    }
    started = {
        text: Run(installation, alice.trigger(RECOVERY, {"source": "ledger", **order}), Path("/nonexistent"))
        for text, order in wrong.items()
    }
    for text, run in started.items():
        assert run.wait_ended("plan") == "failed"
        assert text in run.log("plan")
        assert run.wait_ended("approve") == "upstream_failed"


def test_the_plan_and_the_question_say_what_will_happen(runs: Runs, kind: str, snapshots: dict[str, str]) -> None:
    run, snapshot = runs[kind, "good"], snapshots[kind]
    plan = run.report("plan")
    assert plan["snapshot"] == snapshot
    assert plan["directory"] == str(run.directory)
    assert plan["bytes"] > 0
    detail = run.as_user("bob", "GET", "/taskInstances/approve/-1/hitlDetails")
    for said in (snapshot, str(run.directory), "`alice` asks for this", "primary"):
        assert said in detail["body"]


def test_a_restore_that_somebody_else_approved_is_done_and_says_who(runs: Runs, kind: str) -> None:
    run = runs[kind, "good"]
    run.answer("bob")
    assert run.wait_ended("restore") == "success", run.log("restore")
    assert run.wait_ended("report") == "success", run.states()
    report = run.report("report")
    assert (report["requested_by"], report["approved_by"]) == ("alice", "bob")
    assert KINDS[kind].start in str(report)
    assert (run.directory / KINDS[kind].proof).exists()
    if kind == "postgres":
        (check,) = run.report("check")["checks"]
        assert (check["name"], check["ok"]) == ("manifest", True)
    assert "progress: " in run.log("restore") or report["duration_s"] < 2


def test_a_database_is_extracted_as_another_one_on_another_server_once_approved(runs: Runs) -> None:
    run = runs["postgres", "extract"]
    cluster = run.installation.cluster
    exists = "select count(*) from pg_database where datname = %s"
    assert cluster.value(exists, EXTRACTED) == 0
    run.answer("bob")
    assert run.wait_ended("extract") == "success", run.log("extract")
    assert run.wait_ended("report") == "success", run.states()
    assert run.state("restore") == "skipped"
    report = run.report("report")
    assert (report["into_database"], report["approved_by"]) == (EXTRACTED, "bob")
    assert report["rows"] == cluster.value("select count(*) from posting", dbname=EXTRACTED) == 40_000
    cluster.execute(f"drop database {EXTRACTED}")


def test_keys_of_a_pattern_are_restored_into_a_running_server_with_their_times_to_live(runs: Runs) -> None:
    run = runs["redis", "extract"]
    plan, redis = run.report("plan"), run.installation.redis
    assert (plan["selected"], plan["other"], plan["conflict"]) == (SESSIONS, 10, "fail")
    assert redis.execute("DBSIZE", database=5) == 0
    run.answer("bob")
    assert run.wait_ended("report") == "success", run.log("restore")
    report = run.report("report")
    assert (report["restored"], report["requested_by"], report["approved_by"]) == (SESSIONS, "alice", "bob")
    assert redis.execute("DBSIZE", database=5) == SESSIONS
    for command in ("GET", "PEXPIRETIME"):
        assert redis.execute(command, "session:7", database=5) == redis.execute(command, "session:7") not in (None, -1)
    redis.execute("FLUSHDB", database=5)


def test_lost_files_come_back_to_where_they_were_and_nothing_else_is_touched(runs: Runs) -> None:
    run = runs["files", "extract"]
    letters = run.installation.home / "letters"
    (letters / "2026" / "written-since.txt").write_text("Dear you,")
    plan = run.report("plan")
    assert plan["actions"]["created"]["count"] == 17
    assert any(line.startswith("+ ") and "2025/letter-00.txt" in line for line in plan["changes"])
    detail = run.as_user("bob", "GET", "/taskInstances/approve/-1/hitlDetails")
    assert "2025/letter-00.txt" in detail["body"]
    assert not (letters / "2025").exists()
    run.answer("bob")
    assert run.wait_ended("report") == "success", run.log("restore")
    report = run.report("report")
    assert (report["requested_by"], report["approved_by"]) == ("alice", "bob")
    assert report["actions"]["created"]["count"] == 17
    assert (letters / "2026" / "letter-03.txt").read_text() == "Dear 3,\n" * 40
    assert len(list((letters / "2025").iterdir())) == 15
    assert (letters / "2026" / "written-since.txt").read_text() == "Dear you,"
    assert (letters / "newest.txt").samefile(letters / "2026" / "letter-00.txt")


def test_a_cleared_restore_needs_a_new_approval(runs: Runs, kind: str) -> None:
    run = runs[kind, "good"]
    proof = run.directory / KINDS[kind].proof
    before = proof.stat().st_mtime_ns
    run.clear("alice", "restore")
    log = wait_until(lambda: (t := run.log("restore", 2)) and "NotApproved" in t and t, "the refusal", timeout_s=120)
    assert "used by an earlier try" in log
    assert proof.stat().st_mtime_ns == before


def test_a_rejected_restore_is_not_done(runs: Runs, kind: str) -> None:
    run = runs[kind, "rejected"]
    run.answer("bob", "Reject")
    assert run.wait_ended("restore") == "skipped"
    assert run.wait_ended("report") == "skipped"
    assert not run.directory.exists()


def test_nobody_approves_an_own_request(runs: Runs, kind: str) -> None:
    runs[kind, "own"].answer("alice")
    runs[kind, "own"].assert_refused("asked for this recovery and cannot approve it as well")


def test_marking_the_approval_as_success_is_no_approval(runs: Runs, kind: str) -> None:
    runs[kind, "marked"].as_user("alice", "PATCH", "/taskInstances/approve", {"new_state": "success"})
    runs[kind, "marked"].assert_refused("no person has answered")


def test_a_forged_answer_in_xcom_is_no_approval(runs: Runs, kind: str) -> None:
    run = runs[kind, "forged"]
    answer = {
        "chosen_options": ["Approve"],
        "params_input": {},
        "responded_at": "2026-01-01T00:00:00+00:00",
        "responded_by_user": {"id": "bob", "name": "bob"},
    }
    body = {"key": "return_value", "value": answer, "map_index": -1}
    run.as_user("alice", "POST", "/taskInstances/approve/xcomEntries", body)
    run.as_user("alice", "PATCH", "/taskInstances/approve", {"new_state": "success"})
    run.assert_refused("no person has answered")


def test_an_order_that_is_changed_after_the_question_was_put_is_not_what_was_approved(runs: Runs, kind: str) -> None:
    run = runs[kind, "edited"]
    elsewhere = run.directory.with_name(f"{kind}-elsewhere")
    with run.installation.metadata() as database:
        ((conf,),) = database.execute("SELECT conf::text FROM dag_run WHERE run_id = %s", [run.run_id])
        changed = json.dumps({**json.loads(conf), "directory": str(elsewhere)})
        database.execute("UPDATE dag_run SET conf = %s WHERE run_id = %s", [changed, run.run_id])
    run.answer("bob")
    run.assert_refused("another order or plan")
    assert not elsewhere.exists()


def test_who_clears_a_request_of_somebody_else_cannot_approve_it(runs: Runs, kind: str) -> None:
    run = runs[kind, "meddled"]
    run.answer("alice")
    run.assert_refused("cannot approve it as well")
    run.clear("bob", "approve", "restore")
    run.wait_asked(attempt=2)
    run.answer("bob")
    wait_until(lambda: "NotApproved" in run.log("restore", 2), "the refusal", timeout_s=120)
    assert "also acted on this run" in run.log("restore", 2)
    assert not run.directory.exists()
