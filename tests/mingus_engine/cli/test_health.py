"""``mingus health``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mingus_engine.cli.main import main


@pytest.fixture
def config(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of one file set and one repository."""
    monkeypatch.setenv("HEALTH_KEY", "7" * 64)
    (workspace / "docs").mkdir()
    file = workspace / "mingus.yaml"
    document = {
        "state_directory": str(workspace / "state"),
        "repositories": [{"name": "one", "path": str(workspace / "one"), "keys": {"environment": "HEALTH_KEY"}}],
        "sources": [{"id": "papers", "kind": "files", "files": {"roots": [{"path": str(workspace / "docs")}]}}],
        "health": {"disk_percent": 100, "storage_free_percent": 0},
    }
    file.write_text(json.dumps(document))
    (workspace / "docs" / "a").write_text("a")
    return file


@pytest.mark.parametrize("options", [[], ["--light"]])
def test_what_is_wrong_is_shown_with_a_hint_and_code_14_until_it_is_right(
    config: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "init", "one"]) == 0
    capsys.readouterr()
    assert main(["--config", str(config), "health", *options]) == 14
    out, err = capsys.readouterr()
    assert "CRITICAL" in out
    assert "nothing can be restored" in out
    assert "recovery-point of papers in one" in err
    assert main(["--config", str(config), "backup", "papers"]) == 0
    capsys.readouterr()
    assert main(["--config", str(config), "--json", "health", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["critical"] == 0
    assert {f["check"] for f in document["findings"]} >= {"connection", "repository", "recovery-point", "host-cpu"}


def test_an_unknown_source_is_a_usage_error_that_names_the_nearest(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "health", "paper"]) == 2
    assert "did you mean 'papers'" in capsys.readouterr().err
