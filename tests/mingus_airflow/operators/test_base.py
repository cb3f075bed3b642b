"""What every operator does around its job, and what each passes to it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from mingus_airflow import metrics
from mingus_airflow.operators import (
    EncryptAndShipOperator,
    FileBackupOperator,
    PgBaseBackupOperator,
    PgWalArchiveOperator,
    RedisAofOperator,
    RedisRecoveryPlanOperator,
    RedisSnapshotOperator,
    RestoreVerifyOperator,
)
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.operators.encrypt_and_ship import hops
from mingus_engine.errors import Cancelled, SourceUnreachable, VerificationFailed
from mingus_engine.jobs.context import JobContext
from mingus_engine.settings import Settings
from tests.mingus_airflow.support import KEY, PASSWORD, FakeEngine

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("settings_file")]

BACKUP_REPORT = {"snapshot": "01KSNAP", "repository": "primary", "bytes_read": 5}


def context() -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)
    return {"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name=None)}


def execute(operator: EngineOperator) -> dict[str, Any]:
    return operator.execute(context())


def test_a_backup_returns_the_small_report_of_its_job(engine: FakeEngine) -> None:
    report = execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    assert report["snapshot"].startswith("01K")
    assert report["bytes_stored"] == 400
    assert engine.calls == [("back_up", "ledger", {"incremental": False})]


def test_an_incremental_backup_asks_for_what_changed_and_counts_as_one(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[dict[str, str]] = []
    monkeypatch.setattr(metrics, "succeeded", lambda family, report, found: labels.append(found))
    execute(PgBaseBackupOperator(task_id="t", source="ledger", kind="incremental"))
    assert engine.calls == [("back_up", "ledger", {"incremental": True})]
    assert labels == [{"source": "ledger", "kind": "postgres", "operation": "incremental"}]


def test_a_kind_of_backup_that_there_is_not_is_refused(engine: FakeEngine) -> None:
    with pytest.raises(AirflowFailException, match="'diff' is not one of full, incremental"):
        execute(PgBaseBackupOperator(task_id="t", source="ledger", kind="diff"))
    assert engine.calls == []


def test_the_job_gets_the_resolved_connection_and_who_asked(engine: FakeEngine) -> None:
    seen: dict[str, Any] = {}

    def look(settings: Settings, job: JobContext) -> None:
        seen["password"] = settings.source("ledger").connection.password
        seen["provenance"] = dict(job.provenance)

    engine.act["back_up"] = look
    execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    assert seen["password"].reveal() == PASSWORD
    assert seen["provenance"]["dag_id"] == "d"
    assert seen["provenance"]["hostname"]


def test_a_snapshot_is_shipped_along_the_whole_chain(engine: FakeEngine) -> None:
    report = execute(EncryptAndShipOperator(task_id="t", source="ledger", snapshot=BACKUP_REPORT))
    assert [(c[2]["origin"], c[2]["destination"], c[2]["snapshot"]) for c in engine.calls] == [
        ("primary", "offsite", "01KSNAP"),
        ("offsite", "vault", "01KSNAP"),
    ]
    assert report["objects_put"] == 6
    assert report["repositories"] == ["primary", "offsite", "vault"]


def test_a_source_with_one_repository_has_nothing_to_ship_and_does_not_fail(engine: FakeEngine) -> None:
    report = execute(EncryptAndShipOperator(task_id="t", source="crm", snapshot="01KSNAP"))
    assert (report["hops"], engine.calls) == ([], [])


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("a", [("a", "b"), ("b", "c")]),
        ("b", [("b", "c"), ("b", "a")]),
        ("c", [("c", "a"), ("c", "b")]),
    ],
)
def test_a_backup_that_went_to_a_later_repository_still_reaches_them_all(first: str, expected: list) -> None:
    assert hops(("a", "b", "c"), first) == expected


def test_the_last_repository_of_the_chain_is_verified_at_the_level_of_the_source(engine: FakeEngine) -> None:
    execute(RestoreVerifyOperator(task_id="t", source="ledger", snapshot=BACKUP_REPORT))
    assert engine.calls == [("verify", "ledger", {"repository": "vault", "snapshot": "01KSNAP", "level": "L3"})]


def test_repository_and_level_can_be_chosen_and_empty_means_not_chosen(engine: FakeEngine) -> None:
    execute(RestoreVerifyOperator(task_id="t", source="ledger", snapshot="", repository="primary", level="L1"))
    execute(RestoreVerifyOperator(task_id="t", source="ledger", snapshot=None, repository="", level=""))
    assert [call[2] for call in engine.calls] == [
        {"repository": "primary", "snapshot": None, "level": "L1"},
        {"repository": "vault", "snapshot": None, "level": "L3"},
    ]


def test_a_recovery_target_is_verified_by_a_server_whatever_the_level_of_the_source(engine: FakeEngine) -> None:
    execute(RestoreVerifyOperator(task_id="t", source="ledger", target="random:7"))
    assert engine.calls == [
        ("verify", "ledger", {"repository": "vault", "snapshot": None, "level": "L4", "to": "random:7"})
    ]


def test_a_failed_verification_fails_the_task_at_once(engine: FakeEngine) -> None:
    def fail(settings: Settings, job: JobContext) -> None:
        raise VerificationFailed("2 of 9 checks failed")

    engine.act["verify"] = fail
    with pytest.raises(AirflowFailException, match="2 of 9 checks failed"):
        execute(RestoreVerifyOperator(task_id="t", source="ledger"))


def test_every_check_of_a_failed_verification_is_in_the_log(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(settings: Settings, job: JobContext) -> None:
        error = VerificationFailed("failed")
        checks = [{"name": "amcheck", "ok": True, "detail": "12 indexes"}]
        checks += [{"name": f"invariant {n}", "ok": False, "detail": f"off by {n}"} for n in range(9)]
        error.report = SimpleNamespace(checks=checks)  # type: ignore[attr-defined]
        raise error

    engine.act["verify"] = fail
    with pytest.raises(AirflowFailException):
        execute(RestoreVerifyOperator(task_id="t", source="ledger"))
    written = "".join(capsys.readouterr())
    assert "check good: amcheck: 12 indexes" in written
    assert all(f"check FAILED: invariant {n}: off by {n}" in written for n in range(9))


def test_a_flagged_backup_succeeds_loudly(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [{"name": "page checksums", "ok": False, "detail": "base/5/16384 block 7"}]
    engine.say["back_up"] = {"flagged": True, "checks": checks}
    assert execute(PgBaseBackupOperator(task_id="t", source="ledger"))["flagged"] is True
    written = "".join(capsys.readouterr())
    assert "is FLAGGED" in written
    assert "finding: page checksums: base/5/16384 block 7" in written


def test_a_server_that_is_away_is_tried_again(engine: FakeEngine) -> None:
    def fail(settings: Settings, job: JobContext) -> None:
        raise SourceUnreachable("connection refused")

    engine.act["back_up"] = fail
    with pytest.raises(AirflowException) as caught:
        execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    assert not isinstance(caught.value, AirflowFailException)


def test_a_broken_settings_file_fails_the_task_without_retry(settings_file, engine: FakeEngine) -> None:
    settings_file.write_text("sorces: []\n")
    with pytest.raises(AirflowFailException, match="unknown key 'sorces'; did you mean 'sources'"):
        execute(PgBaseBackupOperator(task_id="t", source="ledger"))


def test_a_kill_stops_the_running_job(engine: FakeEngine) -> None:
    operator = PgBaseBackupOperator(task_id="t", source="ledger")
    stopped = threading.Event()

    def work(settings: Settings, job: JobContext) -> None:
        operator.on_kill()  # as Airflow's signal handler does while execute() runs
        try:
            job.checkpoint()
        except Cancelled:
            stopped.set()
            raise

    engine.act["back_up"] = work
    with pytest.raises(AirflowException, match="cancelled"):
        execute(operator)
    assert stopped.is_set()


def test_a_kill_before_the_job_began_still_stops_it(engine: FakeEngine) -> None:
    engine.act["back_up"] = lambda settings, job: job.checkpoint()
    operator = PgBaseBackupOperator(task_id="t", source="ledger")
    operator.on_kill()
    with pytest.raises(AirflowException, match="cancelled"):
        execute(operator)


def test_no_secret_is_logged_or_returned_even_when_the_job_says_it(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.act["back_up"] = lambda settings, job: job.log(f"the password is {PASSWORD}, the key {KEY}")
    report = execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    written = "".join(capsys.readouterr())  # where the operator's log goes outside of a task
    assert "the password is ***" in written
    assert PASSWORD not in written + str(report)
    assert KEY not in written + str(report)


def test_success_and_failure_are_counted_by_source_kind_and_operation(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str, Any, dict[str, str]]] = []

    def note(kind: str):
        return lambda name, value=1, *, tags: sent.append((kind, name, value, tags))

    for kind in ("incr", "gauge", "timing"):
        monkeypatch.setattr(metrics.stats, kind, note(kind))
    labels = {"source": "ledger", "kind": "postgres", "operation": "full"}
    there = labels | {"repository": "primary"}
    execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    assert ("incr", "mingus.backup_success_total", 1, there) in sent
    assert ("timing", "mingus.backup_duration_seconds", 1500.0, there) in sent
    assert ("gauge", "mingus.backup_size_bytes", 1000, there) in sent

    def fail(settings: Settings, job: JobContext) -> None:
        raise SourceUnreachable("away")

    engine.act["back_up"] = fail
    with pytest.raises(AirflowException):
        execute(PgBaseBackupOperator(task_id="t", source="ledger"))
    assert sent[-1] == ("incr", "mingus.backup_failure_total", 1, labels)


@pytest.mark.parametrize(
    "operator",
    [
        PgBaseBackupOperator,
        FileBackupOperator,
        RedisSnapshotOperator,
        RedisAofOperator,
        EncryptAndShipOperator,
        RestoreVerifyOperator,
    ],
)
def test_every_argument_of_an_operator_is_documented_and_templated(operator: type[EngineOperator]) -> None:
    instance = operator(task_id="t", source="ledger")
    own = {name for name in vars(instance) if name in operator.template_fields}
    assert own == set(operator.template_fields)
    for name in operator.template_fields:
        assert f":param {name}:" in (operator.__doc__ or ""), name


def test_archiving_returns_its_report_and_counts_as_a_backup(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, str]] = []
    monkeypatch.setattr(metrics, "count", lambda name, labels, by=1: counted.append((name, labels["operation"])))
    report = execute(PgWalArchiveOperator(task_id="t", source="ledger"))
    assert report["archived_to"] == "0/3000148"
    assert engine.calls == [("archive_wal", "ledger", {})]
    assert counted == [("backup_success_total", "wal")]


def test_a_gap_and_a_slot_in_danger_are_loud(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    gap = {"from": "0/1000000", "to": "0/2000000", "why": "segment was removed"}
    checks = [{"name": "archiving slot", "ok": False, "detail": "about to be lost"}]
    engine.say["archive_wal"] = {"gaps": [gap], "checks": checks}
    execute(PgWalArchiveOperator(task_id="t", source="ledger"))
    written = "".join(capsys.readouterr())
    assert "GAP from 0/1000000 to 0/2000000: segment was removed" in written
    assert "finding: archiving slot: about to be lost" in written


def test_log_that_is_not_in_every_repository_fails_the_task_which_is_tried_again(engine: FakeEngine) -> None:
    states = [
        {"name": "primary", "ok": True},
        {"name": "offsite", "ok": False, "error": "no route to host", "transient": True},
    ]
    engine.say["archive_wal"] = {"repositories": states, "repository": "primary"}
    with pytest.raises(AirflowException, match="not everywhere: offsite: no route to host") as caught:
        execute(PgWalArchiveOperator(task_id="t", source="ledger"))
    assert not isinstance(caught.value, AirflowFailException)


def test_keys_for_a_running_server_are_planned_dry_and_the_plan_is_one_table(engine: FakeEngine) -> None:
    order = {"source": "sessions", "mode": "extract", "into": "sessions", "keys": ["session:*"], "conflict": "skip"}
    order |= {"to": "latest"}
    report = RedisRecoveryPlanOperator(task_id="t", order=order).execute(context())
    assert (report["mode"], report["snapshot"][:3], report["selected"]) == ("extract", "01K", 7)
    assert "keys_per_s" not in report
    (job, source, arguments), window = engine.calls
    assert (job, source, arguments["dry_run"]) == ("restore_into", "sessions", True)
    assert window == ("windows", "sessions", {"repository": "primary"})
    assert (arguments["keys"], arguments["conflict"], arguments["into"]) == (("session:*",), "skip", "sessions")
    assert arguments["to"] == "latest"


def test_a_plan_for_a_server_that_the_settings_do_not_name_is_refused(engine: FakeEngine) -> None:
    order = {"source": "sessions", "mode": "extract", "into": "ledger"}
    with pytest.raises(AirflowFailException, match="of kind postgres, not redis"):
        RedisRecoveryPlanOperator(task_id="t", order=order).execute(context())
    assert engine.calls == []


def test_a_redis_snapshot_and_an_append_only_file_tell_what_they_found(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [{"name": "persistence", "ok": False, "detail": "the primary saves nothing"}]
    engine.say["back_up"] = {"checks": checks}
    engine.say["back_up_aof"] = {"gaps": [{"from": "17", "to": "90", "why": "the backlog was too small"}]}
    execute(RedisSnapshotOperator(task_id="t", source="sessions"))
    execute(RedisAofOperator(task_id="t", source="sessions"))
    assert [(name, arguments) for name, _, arguments in engine.calls] == [("back_up", {}), ("back_up_aof", {})]
    written = "".join(capsys.readouterr())
    assert "finding: persistence: the primary saves nothing" in written
    assert "GAP from 17 to 90: the backlog was too small" in written
