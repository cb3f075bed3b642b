"""The nightly backup with a real scheduler, a real cluster and real repositories; the command line is the witness."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.end_to_end.conftest import DAG, REDIS_DAG, Installation
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def test_a_triggered_run_leaves_a_snapshot_in_both_repositories_and_a_proof_in_the_last(
    installation: Installation, proven: str
) -> None:
    report = installation.airflow.api.report(DAG, proven, "source.back_up", 0)
    snapshots = {entry["snapshot"]: entry for entry in installation.mingus("list", "ledger")["snapshots"]}
    entry = snapshots[report["snapshot"]]
    assert entry["flagged"] is False
    proofs = {copy["repository"]: copy["proof"] for copy in entry["copies"]}
    assert set(proofs) == {"primary", "offsite"}
    assert proofs["offsite"]["ok"] is True
    assert proofs["offsite"]["level"] == "L4"


def test_a_night_of_redis_leaves_a_proof_in_the_last_repository_too(
    installation: Installation, proven_sessions: str
) -> None:
    report = installation.airflow.api.report(REDIS_DAG, proven_sessions, "source.back_up", 0)
    listed = installation.mingus("list", "sessions")["snapshots"]
    (entry,) = (one for one in listed if one["snapshot"] == report["snapshot"])
    (proof,) = (copy["proof"] for copy in entry["copies"] if copy["repository"] == "offsite")
    assert (proof["ok"], proof["level"]) == (True, "L4")


def test_every_task_returns_a_small_report_that_the_next_one_reads(installation: Installation, proven: str) -> None:
    reports = {
        name: installation.airflow.api.report(DAG, proven, f"source.{name}", 0)
        for name in ("back_up", "ship", "verify")
    }
    assert {report["snapshot"] for report in reports.values()} == {reports["back_up"]["snapshot"]}
    assert reports["ship"]["repositories"] == ["primary", "offsite"]
    assert reports["ship"]["bytes_put"] > 0
    assert reports["verify"]["ok"] is True
    assert reports["verify"]["rto_s"] > 0
    checks = {check["name"]: check["ok"] for check in reports["verify"]["checks"]}
    assert checks["invariant debits equal credits"] is True
    assert all(len(json.dumps(report)) < 8192 for report in reports.values())


def test_the_report_button_leads_to_the_task(installation: Installation, proven: str) -> None:
    path = f"/dags/{DAG}/dagRuns/{proven}/taskInstances/source.verify/links?map_index=0"
    links = installation.airflow.api.call("GET", path)["extra_links"]
    assert links["Report"].startswith(installation.airflow.url)
    assert links["Report"].endswith(f"/dags/{DAG}/runs/{proven}/tasks/source.verify/mapped/0/xcom")


def test_mapped_tasks_are_labelled_with_their_source(installation: Installation, proven: str) -> None:
    assert installation.task(proven, "source.verify")["rendered_map_index"] == "ledger"


@pytest.mark.usefixtures("proven_sessions")
def test_no_secret_is_in_any_file_of_airflow_nor_in_a_repository(installation: Installation, proven: str) -> None:
    """Logs, metadata database (XCom, rendered templates), repositories, state: searched byte by byte."""
    assert "Pushing xcom" in installation.task_log(proven, "source.back_up")
    for name, secret in installation.secrets.items():
        holders = [
            path for path in installation.home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        ]
        assert holders == [], name


def test_a_killed_backup_leaves_nothing_on_the_server_and_nothing_committed(installation: Installation) -> None:
    run_id = installation.trigger(sources=["slow"])
    wait_until(
        lambda: "progress: " in installation.task_log(run_id, "source.back_up"),
        "the backup is under way",
        timeout_s=120,
    )
    wait_until(lambda: _backup_sessions(installation), "the server is in backup mode")
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/source.back_up/0"
    installation.airflow.api.call("PATCH", path, {"new_state": "failed"})
    assert installation.wait(run_id) == "failed"
    wait_until(lambda: not _backup_sessions(installation), "the backup's sessions are gone", timeout_s=60)
    assert installation.cluster.rows("SELECT slot_name FROM pg_replication_slots") == []
    assert installation.mingus("list", "slow")["snapshots"] == []
    wait_until(
        lambda: "Cancelled" in installation.task_log(run_id, "source.back_up"), "the job said that it was cancelled"
    )


def test_a_copy_whose_numbers_are_wrong_fails_the_task_at_once_and_says_which(installation: Installation) -> None:
    installation.execute("INSERT INTO posting VALUES (0, 'D', 0.01)")
    try:
        run_id = installation.trigger(sources=["ledger"])
        assert installation.wait(run_id) == "failed"
    finally:
        installation.execute("DELETE FROM posting WHERE id = 0")
    verify = installation.task(run_id, "source.verify")
    assert (verify["state"], verify["try_number"]) == ("failed", 1)
    log = installation.task_log(run_id, "source.verify")
    assert "debits equal credits" in log
    assert "exit code 9" in log
    assert re.search(r'"level":"error","event":"hint: ', log)
    newest = installation.mingus("list", "ledger")["snapshots"]
    failed = {copy["proof"]["ok"] for entry in newest for copy in entry["copies"] if copy["proof"]}
    assert failed == {True, False}  # the bad night's proof is stored too


def test_the_scratch_directory_is_empty_after_every_outcome(installation: Installation) -> None:
    assert list(Path(installation.home / "scratch").iterdir()) == []


def _backup_sessions(installation: Installation) -> list:
    """Sessions of a backup: they call pg_backup_start or stream WAL."""
    return installation.cluster.rows(
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND (query ILIKE '%%pg_backup_start%%' OR backend_type = 'walsender')"
    )
