"""The operator of file sets around the engine's real jobs: real trees, real repositories; no scheduler."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from mingus_airflow.operators import EncryptAndShipOperator, FileBackupOperator, RestoreVerifyOperator
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.wiring import load_settings
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.files.restore import restore_files
from mingus_engine.jobs.initialise import initialise
from mingus_engine.settings import Settings
from tests.support.file_sets import described, tick

pytestmark = pytest.mark.airflow

KEY = "6d" * 32


@pytest.fixture
def tree(workspace: Path) -> Path:
    folder = workspace / "tree"
    (folder / "letters").mkdir(parents=True)
    for number in range(50):
        (folder / "letters" / f"{number}.txt").write_bytes(random.Random(number).randbytes(200))
    (folder / "latest").symlink_to("letters/49.txt")
    return folder


@pytest.fixture
def settings(airflow_home: Path, workspace: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One set of files, with two repositories; and a source of another kind."""
    document = {
        "state_directory": str(workspace / "state"),
        "repositories": [{"name": name, "path": str(workspace / name)} for name in ("primary", "offsite")],
        "sources": [
            {
                "id": "documents",
                "kind": "files",
                "ship_to": ["offsite"],
                "files": {"roots": [{"path": str(tree)}]},
            },
            {"id": "ledger", "kind": "postgres"},
        ],
    }
    path = workspace / "mingus.yaml"
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("MINGUS_CONFIG", str(path))
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEY", KEY)
    loaded = load_settings()
    for name in ("primary", "offsite"):
        initialise(loaded, name, context=JobContext())
    return loaded


def execute(operator: EngineOperator) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)
    return operator.execute({"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name=None)})


def test_what_changed_is_backed_up_shipped_proven_and_comes_back(
    settings: Settings, tree: Path, workspace: Path
) -> None:
    first = execute(FileBackupOperator(task_id="b", source="documents"))
    assert (first["kind"], first["new"]) == ("files full", 50)
    assert first["reasons"]
    (tree / "letters" / "new.txt").write_text("one more")
    tick(workspace)
    second = execute(FileBackupOperator(task_id="b", source="documents"))
    assert (second["kind"], second["parent"], second["new"]) == ("files incremental", first["snapshot"], 1)
    shipped = execute(EncryptAndShipOperator(task_id="s", source="documents", snapshot=second))
    assert shipped["bytes_put"] > 0
    proof = execute(RestoreVerifyOperator(task_id="v", source="documents", snapshot=second))
    assert (proof["ok"], proof["repository"], proof["snapshot"]) == (True, "offsite", second["snapshot"])
    restore_files(
        settings, "documents", directory=workspace / "back", context=JobContext(), repository="offsite",
        snapshot=second["snapshot"],
    )  # fmt: skip
    assert described(workspace / "back" / "tree") == described(tree)
    assert len(json.dumps([first, second, shipped, proof])) < 32768
    assert KEY not in json.dumps([first, second, shipped, proof])


def test_a_full_one_builds_on_nothing(settings: Settings) -> None:
    execute(FileBackupOperator(task_id="b", source="documents"))
    again = execute(FileBackupOperator(task_id="b", source="documents", kind="full"))
    assert (again["kind"], again["depth"], again["unread"]) == ("files full", 0, 0)


def test_a_set_that_lost_its_files_is_flagged_loudly_and_not_built_on(
    settings: Settings, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = execute(FileBackupOperator(task_id="b", source="documents"))
    shutil.move(tree / "letters", tree.parent / "away")
    lost = execute(FileBackupOperator(task_id="b", source="documents"))
    assert lost["flagged"]
    assert f"snapshot {lost['snapshot']} is FLAGGED" in "".join(capsys.readouterr())
    shutil.move(tree.parent / "away", tree / "letters")
    after = execute(FileBackupOperator(task_id="b", source="documents"))
    assert (after["parent"], after["flagged"]) == (good["snapshot"], False)


def test_a_root_that_is_not_there_fails_and_commits_nothing(settings: Settings, tree: Path) -> None:
    shutil.rmtree(tree)
    with pytest.raises(AirflowFailException, match="tree"):
        execute(FileBackupOperator(task_id="b", source="documents"))
    assert execute(EncryptAndShipOperator(task_id="s", source="documents"))["hops"][0]["snapshots"] == []


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [("ledger", "incremental", "of kind postgres, not files"), ("documents", "True", "not one of full, incremental")],
)
def test_what_it_cannot_do_fails_at_once(settings: Settings, source: str, kind: str, said: str) -> None:
    with pytest.raises(AirflowFailException, match=said):
        execute(FileBackupOperator(task_id="b", source=source, kind=kind))


def test_the_report_of_a_configuration_shows_what_changed_without_its_secrets(settings: Settings, tree: Path) -> None:
    path = Path(os.environ["MINGUS_CONFIG"])
    document = yaml.safe_load(path.read_text())
    document["sources"][0]["files"]["set"] = "configuration"
    path.write_text(yaml.safe_dump(document))
    (tree / "app.conf").write_text("host = db1\npassword = first-word\n")
    assert "changes" not in execute(FileBackupOperator(task_id="b", source="documents"))
    (tree / "app.conf").write_text("host = db2\npassword = second-word\n")
    report = execute(FileBackupOperator(task_id="b", source="documents"))
    assert "+host = db2" in report["changes"]["text"]
    assert "second-word" not in json.dumps(report)
