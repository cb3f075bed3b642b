"""``kill -9`` around every call of a store in a backup of files: nothing is lost, left, or stored twice."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine.repository import packs
from mingus_engine.sources.files.chunking import CHUNK_MAX_BYTES
from tests.integration import killing
from tests.integration.killing import PACK_BYTES, Step
from tests.support.file_sets import SOURCE, FileSet, described, tick

KILLED = -9


@pytest.fixture
def one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSet]:
    """A set of every kind of content, some 13 MB, and small packs."""
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", PACK_BYTES)
    made = FileSet.make(workspace / "set")
    chance = random.Random(11)
    for i in range(40):
        (made.tree / f"middle-{i}").write_bytes(chance.randbytes(200_000))
    (made.tree / "folder").mkdir()
    for i in range(200):
        (made.tree / "folder" / f"{i}").write_bytes(chance.randbytes(i * 7))
    (made.tree / "large").write_bytes(chance.randbytes(5_000_000))
    os.link(made.tree / "large", made.tree / "another name")
    (made.tree / "link").symlink_to("large")
    with (made.tree / "holes").open("wb") as sparse:
        sparse.seek(20_000_000)
        sparse.write(chance.randbytes(100_000))
    yield made
    made.close()


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def _check_nothing_is_left(one: FileSet) -> None:
    assert _files(one.root / "tmp") == []
    assert _files(one.settings.spool_path) == []


def _kill_backups(one: FileSet, *, incremental: bool, keep: int | None) -> None:
    """A backup dies at each of the steps; each time the repository is first made what it was before."""
    place, kept = one.root / "first", one.root / "kept"
    shutil.copytree(place, kept)

    def as_before() -> None:
        shutil.rmtree(place)
        shutil.copytree(kept, place)

    whole = killing.run(one, "back_up", Step(), incremental=incremental)
    assert whole.status == 0
    as_before()
    reference = one.back_up(incremental=incremental).bytes_stored
    before = described(one.tree)
    every = killing.steps(whole, every=keep is None)
    chosen = every if keep is None else list(killing.sampled(every, keep=keep))
    died = 0
    for number, step in enumerate(chosen):
        as_before()
        outcome = killing.run(one, "back_up", step, incremental=incremental)
        assert outcome.status in {KILLED, 0}, f"{step}: ended with {outcome.status}"
        died += outcome.status == KILLED
        try:
            _check_nothing_is_left(one)
            committed = one.snapshots()
            for snapshot in committed:
                assert one.verify("L2", snapshot).ok
            ended = outcome.status == 0 or any(
                path.suffix == ".end" and not (kept / path.relative_to(place)).exists()
                for path in _files(place / "runs" / SOURCE)
            )
            retried = one.back_up(incremental=incremental)
            assert one.snapshots() == sorted([*committed, retried.snapshot])
            if not ended:  # a run that has ended is not resumed
                again = outcome.sealed_bytes + retried.bytes_stored - reference
                # What was open: a pack of each worker, one of which may hold a whole chunk of the large file.
                limit = one.settings.source(SOURCE).workers * PACK_BYTES + CHUNK_MAX_BYTES
                assert again <= limit, f"stored {again} bytes again, {limit} are allowed"
            directory, _ = one.restore(f"back-{number}")
            assert described(directory / "tree") == before
            shutil.rmtree(directory)
        except AssertionError as error:
            raise AssertionError(f"killed at {step}: {error}") from error
    assert died >= 0.7 * len(chosen), "the steps no longer meet the calls"


def _change(one: FileSet) -> None:
    one.back_up()
    tick(one.root)
    chance = random.Random(12)
    for i in range(0, 15, 3):
        (one.tree / f"middle-{i}").write_bytes(chance.randbytes(210_000))
    (one.tree / "folder").rename(one.tree / "elsewhere")
    with (one.tree / "large").open("r+b") as file:
        file.seek(2_000_000)
        file.write(chance.randbytes(100_000))


def test_a_killed_first_backup_leaves_a_valid_repository_and_is_resumed(one: FileSet) -> None:
    _kill_backups(one, incremental=False, keep=7)


def test_a_killed_incremental_backup_leaves_a_valid_repository_and_is_resumed(one: FileSet) -> None:
    _change(one)
    _kill_backups(one, incremental=True, keep=5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("incremental", [False, True])
def test_a_backup_of_files_may_be_killed_around_every_single_call(one: FileSet, incremental: bool) -> None:
    if incremental:
        _change(one)
    _kill_backups(one, incremental=incremental, keep=None)
