"""The weekly recovery test: repositories take turns, results are proofs, a failure says what can still be recovered."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from mingus_engine.errors import NoSuchSnapshot, StoreError
from mingus_engine.jobs import places
from mingus_engine.jobs.inspect import list_snapshots
from mingus_engine.jobs.recovery_test import RecoveryTestFailed, RecoveryTestReport, recovery_test
from mingus_engine.jobs.ship import ship
from mingus_engine.repository import names, records
from mingus_engine.repository.repository import utc_now
from mingus_engine.settings import load
from tests.integration.conftest import Install
from tests.support.file_sets import SOURCE, FileSet
from tests.support.postgres import PgCluster

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "first", "second"


@pytest.fixture
def documents(workspace: Path) -> Iterator[FileSet]:
    """A set in both repositories."""
    made = FileSet.make(workspace / "set", repositories=(FIRST, SECOND))
    for number in range(20):
        (made.tree / f"letter-{number}").write_text(f"Dear {number},\n" * 50)
    made.back_up()
    ship(made.settings, SOURCE, origin=FIRST, destination=SECOND, context=made.context)
    yield made
    made.close()


def outcome(documents: FileSet, **options: Any) -> RecoveryTestReport:
    return recovery_test(documents.settings, SOURCE, context=documents.context, **options)


def failed(documents: FileSet, **options: Any) -> tuple[RecoveryTestFailed, dict[str, dict[str, Any]]]:
    """The failure, and by repository what can still be recovered."""
    with pytest.raises(RecoveryTestFailed) as raised:
        outcome(documents, **options)
    found = raised.value.report.still_recoverable
    assert found is not None
    return raised.value, {one["repository"]: one for one in found}


def in_the_week_of(documents: FileSet, repository: str) -> datetime:
    """A moment at which it is the turn of *repository*."""
    first = utc_now()
    turn = outcome(documents, now=first).repository
    return first if turn == repository else first + timedelta(weeks=1)


def damage(documents: FileSet, repository: str) -> None:
    """Flip a byte in the middle of every pack."""
    for pack in (documents.root / repository / "packs").rglob("*.*"):
        if pack.is_file():
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(content)


def proof_of(documents: FileSet, report: RecoveryTestReport) -> dict[str, Any]:
    """The sealed report of the proof that *report* names, as the repository it was read from has it."""
    with places.opened(documents.settings, report.repository, documents.context) as place:
        listed = [n for i in place.store.list(f"records/{SOURCE}/") if (n := names.record(i.name))]
        (name,) = [n for n in listed if n.kind == records.PROOF and n.ulid == report.proof]
        record = place.get_record(name)
        return {**record.facts, **json.loads(place.open(record.source_envelope))["report"]}


def test_repositories_take_turns_and_each_gets_its_own_proof(documents: FileSet) -> None:
    now = utc_now()
    reports = [outcome(documents, now=now + timedelta(weeks=week)) for week in range(2)]
    assert {report.repository for report in reports} == {FIRST, SECOND}
    for report in reports:
        assert report.ok
        assert report.kind == "files"
        assert report.level == "L4"
        assert report.target is None
        assert report.candidates == [FIRST, SECOND]
        assert report.rto_met is True
        assert report.rto_target_s == 4 * 3600
        assert report.rpo_s is not None
        proof = proof_of(documents, report)
        assert (proof["ok"], proof["snapshot"]) == (True, report.snapshot)
    (info,) = list_snapshots(documents.settings, SOURCE, context=documents.context).snapshots
    assert all(copy.proof is not None and copy.proof.ok for copy in info.copies)


def test_a_repository_without_a_snapshot_of_the_source_has_no_turn(workspace: Path) -> None:
    alone = FileSet.make(workspace / "set", repositories=(FIRST, SECOND))
    (alone.tree / "letter").write_text("Dear you,")
    error, _ = failed(alone)
    assert isinstance(error.__cause__, NoSuchSnapshot)
    assert not error.transient
    assert error.exit_code == NoSuchSnapshot.exit_code
    alone.back_up()
    for week in range(2):
        report = outcome(alone, now=utc_now() + timedelta(weeks=week))
        assert (report.repository, report.candidates) == (FIRST, [FIRST])
    alone.close()


def test_a_damaged_copy_fails_and_the_failure_names_the_proven_one_elsewhere(documents: FileSet) -> None:
    now = in_the_week_of(documents, SECOND)
    good = outcome(documents, repository=FIRST)
    damage(documents, SECOND)
    error, still = failed(documents, now=now)
    report = error.report
    assert report.repository == SECOND
    assert not report.ok
    assert report.proof
    assert proof_of(documents, report)["ok"] is False
    assert still[FIRST]["proven"] == good.snapshot
    assert still[FIRST]["proven_level"] == "L4"
    assert still[SECOND] == {"repository": SECOND, "snapshots": 0}
    assert f"still recoverable: {FIRST}: {good.snapshot}, proven L4 on " in error.message
    assert f"{SECOND}: nothing" in error.message


def test_a_repository_that_does_not_answer_keeps_its_turn(documents: FileSet) -> None:
    now = in_the_week_of(documents, SECOND)
    shutil.move(documents.root / SECOND, documents.root / "away")
    error, still = failed(documents, now=now)
    assert error.report.repository == SECOND
    assert SECOND in error.report.unreachable
    assert "trouble" in still[SECOND]
    assert still[FIRST]["newest"]
    other = outcome(documents, now=now + timedelta(weeks=1))
    assert other.ok
    assert other.repository == FIRST
    assert SECOND in other.unreachable
    shutil.move(documents.root / FIRST, documents.root / "away-too")
    error, _ = failed(documents, now=now)
    assert isinstance(error.__cause__, StoreError) or error.exit_code != NoSuchSnapshot.exit_code


def test_a_restore_that_took_too_long_fails_though_the_snapshot_is_good(documents: FileSet) -> None:
    slow = replace(documents.settings, health=replace(documents.settings.health, rto_s=0))
    with pytest.raises(RecoveryTestFailed, match=r"is good, but restoring took .* more than the 0 s") as raised:
        recovery_test(slow, SOURCE, context=documents.context)
    report = raised.value.report
    assert not report.ok
    assert report.rto_met is False
    proof = proof_of(documents, report)
    assert proof["ok"] is True
    assert proof["rto_met"] is False
    assert proof["rto_target_s"] == 0


def test_a_source_without_a_window_is_restored_as_its_newest_snapshot_is(pg15: PgCluster, install: Install) -> None:
    mingus = install(pg15)
    snapshot = mingus.back_up().snapshot
    report = recovery_test(mingus.settings, "ledger", context=mingus.context(), repository=FIRST)
    assert report.ok
    assert (report.snapshot, report.target) == (snapshot, None)
    assert report.reason
    assert "window" in report.reason


def test_the_command_tests_all_and_fails_when_one_did(documents: FileSet) -> None:
    path = documents.root / "mingus.yaml"
    document = yaml.safe_load(path.read_text())
    (source,) = document["sources"]
    path.write_text(yaml.safe_dump({**document, "sources": [{**source, "id": "empty"}, source]}))
    load(path)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mingus_engine", "--config", str(path), "recovery-test", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    result = run("--json")
    assert result.returncode == 9, result.stderr
    said = json.loads(result.stdout)
    assert [(one["source"], one["ok"]) for one in said["sources"]] == [("empty", False), (SOURCE, True)]
    assert said["ok"] is False
    assert "empty" in said["error"]["message"]
    result = run(SOURCE)
    assert result.returncode == 0, result.stderr
    assert "recovered" in result.stdout
    assert run("empti").returncode == 2
