"""The roles of a deployment, by a real Airflow with the FAB auth manager: what each may and what it is refused."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from demo.errors import DemoError
from demo.supervisor import ADMIN, Airflow
from mingus_airflow.roles import (
    ADMINISTRATOR,
    AUDITOR,
    BACKUP_OPERATOR,
    RECOVERY_OPERATOR,
    ROLES,
    VIEWER,
)
from tests.end_to_end.conftest import DAG, RECOVERY, ROOT, Installation
from tests.end_to_end.test_recovery_dag import Run
from tests.support.directories import make_directory
from tests.support.postgres import SUPERUSER, PgCluster

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

PEOPLE = {
    ADMIN: ADMINISTRATOR,
    "vera": VIEWER,
    "bert": BACKUP_OPERATOR,
    "rita": RECOVERY_OPERATOR,
    "Ralf": RECOVERY_OPERATOR,
    "anna": AUDITOR,
}
EVERYBODY = frozenset(PEOPLE) | {"mingus"}
SERVICE_PASSWORD = """
from airflow.models import Connection
from airflow.utils.session import create_session
with create_session() as session:
    print("it is", session.query(Connection).filter_by(conn_id="mingus_api").one().password)
"""
BY_HAND = """
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as builder:
    manager = builder.sm
    manager.add_permission_to_role(manager.find_role("MINGUS Viewer"), manager.create_permission("can_edit", "DAGs"))
"""


def _settings(home: Path, cluster: PgCluster) -> dict[str, Any]:
    connection = {"host": "127.0.0.1", "port": cluster.port, "user": SUPERUSER, "dbname": "postgres"}
    return {
        "state_directory": str(home / "state"),
        "repositories": [{"name": "primary", "path": str(home / "primary")}],
        "sources": [
            {
                "id": "ledger",
                "connection": {**connection, "password_env": "LEDGER_PASSWORD", "sslmode": "disable"},
                "repository": "primary",
                "bin_directory": str(cluster.version.tool("postgres").parent),
            }
        ],
        "airflow": {"retries": 0, "approval": {"approvers": ["rita", "ralf"]}, "ship": {"pool": "mingus_ship"}},
    }


def python(airflow: Airflow, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program as a step of the deployment would run it."""
    environment = {name: value for name, value in (os.environ | airflow.environment).items() if value is not None}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, "PYTHONPATH": str(ROOT / "plugins")},
        cwd=airflow.logs.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def initialise(airflow: Airflow, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The step that a deployment runs before its components start."""
    options = [f"--account={name}:{role}:{home / name}" for name, role in PEOPLE.items()]
    return python(airflow, "-m", "mingus_airflow.initialise", *options, *more)


def said(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The step's own lines."""
    assert result.returncode == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith("initialise: ")]


@pytest.fixture(scope="module")
def deployment(pg15: PgCluster, session_directory: Path) -> Iterator[Installation]:
    home = make_directory(session_directory / "roles")
    environment = {
        "MINGUS_CONFIG": str(home / "mingus.yaml"),
        "BACKUP_ENCRYPTION_KEY": secrets.token_hex(32),
        "LEDGER_PASSWORD": str(pg15.password),
    }
    (home / "mingus.yaml").write_text(yaml.safe_dump(_settings(home, pg15)))
    manager = {"AIRFLOW__CORE__AUTH_MANAGER": "mingus_airflow.auth_manager.MingusAuthManager"}
    airflow = Airflow(home / "airflow", mark=home, environment={**environment, **manager})
    for name in PEOPLE:
        airflow.passwords.setdefault(name, secrets.token_urlsafe(12))
        (home / name).write_text(airflow.passwords[name] + "\n")
    away = {"redis": None, "mail": None, "slack": None, "statsd": None}  # not asked for here
    found = Installation(
        airflow=airflow, cluster=pg15, database="postgres", home=home, secrets={}, environment=environment, **away
    )
    try:
        airflow.migrate().wait()
        first = said(initialise(airflow, home))
        assert [line for line in first if "rights given" in line and line.endswith(" 0 taken away")]
        assert "initialise: pool mingus_ship of 2" in first
        found.mingus("init", "primary")
        found.mingus("backup", "ledger")
        airflow.start()
        airflow.wait_healthy()
        for dag in (DAG, RECOVERY):
            airflow.api.wait_for_dag(dag)
        yield found
    finally:
        airflow.stop()


def status(deployment: Installation, who: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> int:
    """What the API answers somebody: the HTTP status, 200 for all that was done."""
    try:
        deployment.airflow.api_of(who).call(method, path, body)
    except DemoError as error:
        text = str(error)
        assert "was answered" in text, text
        return int(text.partition("was answered ")[2][:3])
    except json.JSONDecodeError:  # 204: done, and nothing to say
        return 200
    return 200


def allowed(deployment: Installation, method: str, path: str, body: Mapping[str, Any] | None = None) -> set[str]:
    """Who may: everybody else is refused with 403, and with nothing else. 409 = somebody before has done it already."""
    answers = {who: status(deployment, who, method, path, body) for who in sorted(EVERYBODY)}
    assert set(answers.values()) <= {200, 403, 409}, answers
    return {who for who, answer in answers.items() if answer != 403}


@pytest.fixture(scope="module")
def everybody(deployment: Installation) -> Installation:
    """With the account that nobody made by hand; its password is in the connection."""
    result = python(deployment.airflow, "-c", SERVICE_PASSWORD)
    deployment.airflow.passwords["mingus"] = result.stdout.partition("it is ")[2].strip()
    return deployment


@pytest.fixture(scope="module")
def backup_run(everybody: Installation) -> str:
    """A run of the nightly backup that waits: the DAG is paused."""
    return everybody.airflow.api_of("bert").trigger(DAG)


def run_path(run_id: str, dag: str = DAG) -> str:
    return f"/dags/{dag}/dagRuns/{quote(run_id, safe='')}"


def test_a_second_run_of_the_step_changes_nothing_and_takes_back_what_was_changed_by_hand(
    everybody: Installation,
) -> None:
    airflow, home = everybody.airflow, everybody.home
    assert said(initialise(airflow, home)) == ["initialise: done"]
    assert python(airflow, "-c", BY_HAND).returncode == 0
    (home / "newcomer").write_text("short\n")
    result = initialise(airflow, home, f"--account=newcomer:{VIEWER}:{home / 'newcomer'}")
    assert "role MINGUS Viewer: 0 rights given, 1 taken away" in result.stdout
    assert result.returncode == 1
    assert "a password has at least 12 characters" in result.stderr
    result = initialise(airflow, home, "--account=newcomer:Wizard:/x")
    assert result.returncode == 2
    assert "MINGUS Viewer" in result.stderr


def test_everybody_reads_runs_and_nobody_reads_the_configuration(everybody: Installation, backup_run: str) -> None:
    assert allowed(everybody, "GET", run_path(backup_run)) == EVERYBODY
    assert allowed(everybody, "GET", "/config") == set()
    assert allowed(everybody, "GET", "/connections") == {ADMIN}
    assert allowed(everybody, "GET", "/eventLogs") == {ADMIN, "anna", "mingus"}


def test_backups_are_started_paused_and_cleared_by_who_backs_up(everybody: Installation, backup_run: str) -> None:
    assert allowed(everybody, "POST", f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": {}}) == {ADMIN, "bert"}
    assert allowed(everybody, "PATCH", f"/dags/{DAG}", {"is_paused": True}) == {ADMIN, "bert"}
    clear = {"dry_run": True, "dag_run_id": backup_run, "only_failed": False}
    assert allowed(everybody, "POST", f"/dags/{DAG}/clearTaskInstances", clear) == {ADMIN, "bert"}
    task = f"{run_path(backup_run)}/taskInstances/select_sources"
    assert allowed(everybody, "PATCH", task, {"new_state": "success"}) == {ADMIN, "bert"}


def test_nobody_but_an_administrator_writes_xcom_or_removes_a_run(everybody: Installation, backup_run: str) -> None:
    path = f"{run_path(backup_run)}/taskInstances/select_sources/xcomEntries"
    forged = {"key": "return_value", "value": [], "map_index": -1}
    refused = EVERYBODY - {ADMIN}
    assert {who: status(everybody, who, "POST", path, forged) for who in refused} == dict.fromkeys(refused, 403)
    removed = {who: status(everybody, who, "DELETE", run_path(backup_run)) for who in refused}
    assert removed == dict.fromkeys(refused, 403)


def test_a_recovery_is_started_by_who_recovers_and_approved_by_a_named_other_person(everybody: Installation) -> None:
    airflow = everybody.airflow
    order = {"source": "ledger", "mode": "restore"}
    runs = {}
    for name in ("good", "marked"):
        directory = everybody.home / name
        run_id = airflow.api_of("rita").trigger(RECOVERY, {**order, "directory": str(directory)})
        runs[name] = Run(everybody, run_id, directory)
    for who in EVERYBODY - {ADMIN, "rita", "Ralf"}:
        body = {"logical_date": None, "conf": {**order, "directory": "/x"}}
        assert status(everybody, who, "POST", f"/dags/{RECOVERY}/dagRuns", body) == 403
    airflow.api.unpause(RECOVERY)
    for run in runs.values():
        run.wait_asked()
    good, marked = runs["good"], runs["marked"]

    # Neither who asked for it, nor who may answer but is not named, nor who may not answer at all.
    answer = {"chosen_options": ["Approve"], "params_input": {}}
    path = f"{good.path}/taskInstances/approve"
    for who in EVERYBODY - {"Ralf"}:
        assert status(everybody, who, "PATCH", f"{path}/-1/hitlDetails", answer) == 403, who
    # Nor by going round the question: only an administrator may try, and the restoring task does not believe him.
    # Not on the run that Ralf approves: Airflow's event log does not say that a deed was refused.
    for who in EVERYBODY - {ADMIN}:
        path = f"{marked.path}/taskInstances/approve"
        assert status(everybody, who, "PATCH", path, {"new_state": "success"}) == 403, who
        clear = {"dry_run": True, "dag_run_id": marked.run_id, "only_failed": False}
        assert status(everybody, who, "POST", f"/dags/{RECOVERY}/clearTaskInstances", clear) == 403, who
    good.answer("Ralf")
    marked.as_user(ADMIN, "PATCH", "/taskInstances/approve", {"new_state": "success"})
    assert good.wait_ended("restore") == "success", good.log("restore")
    assert good.wait_ended("report") == "success", good.states()
    report = good.report("report")
    assert (report["requested_by"], report["approved_by"]) == ("rita", "Ralf")
    marked.assert_refused("no person has answered")


def test_every_dag_of_the_tree_is_somebodys_besides_the_administrators() -> None:
    for path in sorted((ROOT / "dags").glob("*.py")):
        assert any(role.dags and role.reaches(path.stem) for role in ROLES), path.stem
