"""The operator of groups around the engine's real job: real trees, real repositories; no scheduler."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow import metrics
from mingus_airflow.operators import EncryptAndShipOperator, GroupBackupOperator, RestoreVerifyOperator
from mingus_airflow.wiring import load_settings
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.groups import group_runs
from mingus_engine.jobs.initialise import initialise
from mingus_engine.settings import Settings
from tests.mingus_airflow.operators.test_files import KEY, execute

pytestmark = pytest.mark.airflow
MEMBERS = ("letters", "scans")


@pytest.fixture
def settings(airflow_home: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The group ``shop`` of two file sets, with two repositories."""
    for member in MEMBERS:
        (workspace / member).mkdir()
        (workspace / member / "one.txt").write_text(member)
    document = {
        "state_directory": str(workspace / "state"),
        "repositories": [{"name": name, "path": str(workspace / name)} for name in ("primary", "offsite")],
        "sources": [
            {"id": m, "kind": "files", "ship_to": ["offsite"], "files": {"roots": [{"path": str(workspace / m)}]}}
            for m in MEMBERS
        ],
        "groups": [{"name": "shop", "members": list(MEMBERS)}],
    }
    path = workspace / "mingus.yaml"
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("MINGUS_CONFIG", str(path))
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEY", KEY)
    loaded = load_settings()
    for name in ("primary", "offsite"):
        initialise(loaded, name, context=JobContext())
    return loaded


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(metrics, "count", lambda name, labels, by=1: found.append((name, labels["source"])))
    return found


def test_members_are_of_one_moment_and_each_is_shipped_and_proven(
    settings: Settings, counted: list[tuple[str, str]]
) -> None:
    report: dict[str, Any] = execute(GroupBackupOperator(task_id="b", source="shop"))
    assert sorted(counted) == [("backup_success_total", member) for member in MEMBERS]
    for member, made in report["members"].items():
        execute(EncryptAndShipOperator(task_id="s", source=member, snapshot=made))
        proof = execute(RestoreVerifyOperator(task_id="v", source=member, snapshot=made))
        assert (proof["ok"], proof["repository"], proof["snapshot"]) == (True, "offsite", made["snapshot"])
    [run] = group_runs(settings, "shop", context=JobContext(), repository="offsite")
    assert (run.complete, run.id) == (True, report["group"]["id"])


def test_a_member_that_fails_fails_the_group_and_every_member_is_told_of(
    settings: Settings, workspace: Path, counted: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(workspace / "scans")
    with pytest.raises(AirflowFailException, match="scans failed, none committed"):
        execute(GroupBackupOperator(task_id="b", source="shop"))
    assert sorted(counted) == [("backup_failure_total", member) for member in MEMBERS]
    said = "".join(capsys.readouterr())
    assert all(f"{member}: no snapshot of this moment" in said for member in MEMBERS)
    assert group_runs(settings, "shop", context=JobContext()) == []


@pytest.mark.parametrize(
    ("group", "kind", "said"), [("shops", "full", "did you mean 'shop'"), ("shop", "True", "not one of full")]
)
def test_what_it_cannot_do_fails_at_once(settings: Settings, group: str, kind: str, said: str) -> None:
    with pytest.raises(AirflowFailException, match=said):
        execute(GroupBackupOperator(task_id="b", source=group, kind=kind))
