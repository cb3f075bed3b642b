"""The weekly recovery test in a real Airflow: of every kind of source, and with a copy that is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.errors import DemoError
from tests.end_to_end.conftest import RECOVERY_TEST, Installation

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("proven", "proven_sessions", "proven_letters"),
]


def outcome_of(installation: Installation, **conf: Any) -> tuple[str, str]:
    """Id and final state of a run."""
    run_id = installation.trigger(dag=RECOVERY_TEST, **conf)
    return run_id, installation.wait(run_id, dag=RECOVERY_TEST)


def rows(report: dict[str, Any]) -> dict[str, list[str]]:
    """Source → cells of its row."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in report["table"].splitlines()[2:]]
    return {cells[0]: cells for cells in lines}


def proven_in(installation: Installation, source: str, repository: str) -> bool:
    """What the newest proof of the newest snapshot says, asked of the command line."""
    newest = installation.mingus("list", source, "--repository", repository)["snapshots"][-1]
    (copy,) = newest["copies"]
    return bool(copy["proof"]["ok"])


@pytest.fixture
def damaged_letters(installation: Installation) -> Iterator[Path]:
    """The second copy of the letters with a byte flipped in every pack; put right afterwards."""
    packs, kept = installation.home / "offsite" / "packs" / "letters", installation.home / "kept-packs"
    shutil.copytree(packs, kept)
    for path in packs.rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)
    yield packs
    shutil.rmtree(packs)
    kept.rename(packs)


def test_every_source_is_recovered_and_one_report_says_so(installation: Installation) -> None:
    sources = ["ledger", "sessions", "letters"]
    # Another test's snapshot may be one that is wrong on purpose.
    assert installation.wait(installation.trigger(sources=["ledger"])) == "success"
    run_id, state = outcome_of(installation, sources=sources)
    assert state == "success", installation.task_log(run_id, "report", dag=RECOVERY_TEST)
    report = installation.airflow.api.report(RECOVERY_TEST, run_id, "report")
    assert report["ok"] is True
    assert set(rows(report)) == set(sources)
    for one in report["sources"]:
        assert one["rto_met"] is True
        assert one["candidates"] == ["primary", "offsite"]
        assert proven_in(installation, one["source"], one["repository"])
    assert "| letters | recovered |" in installation.task_log(run_id, "report", dag=RECOVERY_TEST)


@pytest.mark.usefixtures("damaged_letters")
def test_a_damaged_copy_turns_the_run_red_and_the_report_says_what_is_left(installation: Installation) -> None:
    run_id, state = outcome_of(installation, sources=["letters", "sessions"], repository="offsite")
    assert state == "failed"
    # A task that fails returns nothing by itself.
    report = installation.airflow.api.report(RECOVERY_TEST, run_id, "report")
    assert report["failed"] == ["letters"]
    cells = rows(report)
    assert cells["sessions"][1] == "recovered"
    assert cells["letters"][1] == "FAILED"
    newest = installation.mingus("list", "letters", "--repository", "primary")["snapshots"][-1]
    assert f"still recoverable: primary: {newest['snapshot']}" in cells["letters"][-1]
    assert "offsite: nothing" in cells["letters"][-1]
    assert not proven_in(installation, "letters", "offsite")
    log = installation.task_log(run_id, "report", dag=RECOVERY_TEST)
    assert "1 of 2 recovery tests failed. letters: " in log


def test_a_misspelt_source_is_refused(installation: Installation) -> None:
    alice = installation.airflow.api_of("alice")
    with pytest.raises(DemoError, match="was answered 400"):
        alice.trigger(RECOVERY_TEST, {"sources": ["leters"]})
