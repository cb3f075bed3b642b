"""Files by the command line, as processes of their own: restored, killed, found, compared."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.file_sets import SOURCE, FileSet, described, tick

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set")
    yield made
    made.close()


def started(one: FileSet, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mingus_engine", "--config", str(one.root / "mingus.yaml"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"},
    )  # fmt: skip


def mingus(one: FileSet, *arguments: str, code: int = 0) -> str:
    with started(one, *arguments) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, err
    return out if not code else err


def document(one: FileSet, *arguments: str) -> Any:
    return json.loads(mingus(one, "--json", *arguments))


def test_a_restore_by_the_command_line_says_what_it_would_do_and_does_it(one: FileSet) -> None:
    (one.tree / "docs").mkdir()
    (one.tree / "docs" / "a.pdf").write_text("of the snapshot")
    (one.tree / "docs" / "b.txt").write_text("of the snapshot")
    one.back_up()
    (one.tree / "docs" / "a.pdf").write_text("of somebody else")
    (one.tree / "docs" / "b.txt").unlink()
    dry = document(one, "restore", SOURCE, "--original", "--pattern", "*.pdf", "--conflict", "overwrite", "--dry-run")
    assert [(line["sign"], line["path"]) for line in dry["list"]] == [
        ("=", "tree"), ("=", "tree/docs"), ("~", "tree/docs/a.pdf"),
    ]  # fmt: skip
    assert (one.tree / "docs" / "a.pdf").read_text() == "of somebody else"
    assert "is there already: tree/docs/a.pdf" in mingus(one, "restore", SOURCE, "--original", code=8)
    shown = mingus(one, "restore", SOURCE, "--original", "--path", "tree/docs/a.pdf", "--delta")
    assert "~ tree/docs/a.pdf (size, mtime)" in shown
    assert (one.tree / "docs" / "a.pdf").read_text() == "of the snapshot"
    assert not (one.tree / "docs" / "b.txt").exists()
    assert "+ tree/docs/b.txt" in mingus(one, "restore", SOURCE, "--original", "--delta", "--dry-run", "--verbose")
    for wrong in (["--conflict", "replace", "x"], ["x", "--original"]):
        mingus(one, "restore", SOURCE, *wrong, code=2)


def test_a_file_is_found_in_the_snapshots_that_have_it_and_where_it_changed(one: FileSet) -> None:
    (one.tree / "b.txt").write_text("b")
    ulids = []
    for content in ("1", "1", "22"):
        if content == "22" or not ulids:
            (one.tree / "a.txt").write_text(content)
        tick(one.root)
        ulids.append(one.back_up().snapshot)
    assert [f["path"] for f in document(one, "find", "*.txt")["found"]] == ["tree/a.txt", "tree/b.txt"]
    every = document(one, "find", "a.*", "--all")
    assert [(f["snapshot"], f["change"]) for f in every["found"]] == list(
        zip(ulids, ("new", "same", "changed"), strict=True)
    )
    changed = document(one, "find", "*.txt", "--all", "--changed")["found"]
    assert [(f["snapshot"], f["path"]) for f in changed] == [
        (ulids[0], "tree/a.txt"), (ulids[0], "tree/b.txt"), (ulids[2], "tree/a.txt"),
    ]  # fmt: skip
    assert document(one, "find", "nothing")["found"] == []


def test_two_snapshots_are_compared_entry_by_entry(one: FileSet) -> None:
    large = random.Random(1).randbytes(9_000_000)
    for name in ("changed", "gone", "kind", "mode", "same"):
        (one.tree / name).write_text(name)
    (one.tree / "large").write_bytes(large)
    (one.tree / "link").symlink_to("here")
    one.back_up()
    tick(one.root)
    (one.tree / "changed").write_text("CHANGED")
    (one.tree / "gone").unlink()
    (one.tree / "kind").unlink()
    (one.tree / "kind").mkdir()
    (one.tree / "mode").chmod(0o600)
    (one.tree / "new").touch()
    (one.tree / "large").write_bytes(large[:-1] + b"?")
    (one.tree / "link").unlink()
    (one.tree / "link").symlink_to("there")
    one.back_up()
    with one.repository() as repository:
        first, second = sorted(name.ulid for name in repository.list_snapshots(SOURCE))
    found = document(one, "diff", first, second)
    signs = {line["path"]: line["sign"] for line in found["differences"]}
    assert signs.pop("tree") == "m"
    assert {path.removeprefix("tree/"): sign for path, sign in signs.items()} == {
        "changed": "M", "gone": "D", "kind": "T", "mode": "m", "new": "A", "large": "M", "link": "M",
    }  # fmt: skip
    assert found["counts"] == {"A": 1, "D": 1, "T": 1, "M": 3, "m": 2}
    assert mingus(one, "diff", first, "latest", "tree/new", "--source", SOURCE) == "A tree/new\n"
    mingus(one, "diff", second, second, "tree/nothing", code=8)


def test_cat_gives_small_files_holes_and_large_ones(one: FileSet) -> None:
    contents = {"a": b"", "b": b"small\n" * 10, "c": random.Random(1).randbytes(6_000_000)}
    for name, content in contents.items():
        (one.tree / name).write_bytes(content)
    with (one.tree / "d").open("wb") as file:
        file.write(b"begin")
        file.truncate(3_000_000)
    contents["d"] = (one.tree / "d").read_bytes()
    one.back_up()
    for name in "bcd":
        command = [sys.executable, "-m", "mingus_engine", "--config", str(one.root / "mingus.yaml")]
        ran = subprocess.run(
            [*command, "cat", "latest", f"tree/{name}"], capture_output=True, check=True, timeout=DEADLINE_S,
            env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        )  # fmt: skip
        assert ran.stdout == contents[name]


@pytest.mark.parametrize("place", ["--original", "back"])
def test_a_killed_restore_leaves_whole_files_and_is_gone_on_with(one: FileSet, place: str) -> None:
    chance = random.Random(7)
    contents = {f"{i:04}": chance.randbytes(chance.randrange(1, 3000)) for i in range(1500)}
    for name, content in contents.items():
        folder = one.tree / name[:2]
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    was = described(one.tree)
    one.back_up()
    top = one.tree if place == "--original" else one.root / "back" / "tree"
    where = place if place == "--original" else str(one.root / "back")
    theirs = {name: b"of somebody" + content for name, content in contents.items()}
    if place == "--original":
        for name, content in theirs.items():
            (one.tree / name[:2] / name).write_bytes(content)
            os.utime(one.tree / name[:2] / name, (1, 1))
    for beyond in ("03", "10"):
        with started(one, "restore", SOURCE, where, "--delta") as process:
            until = time.monotonic() + DEADLINE_S
            probe = top / beyond / f"{beyond}50"
            while process.poll() is None and not (probe.exists() and probe.stat().st_mtime > 1):
                assert time.monotonic() < until
            process.kill()
        for path in top.rglob("*"):
            if path.is_file() and not path.name.startswith(".mingus"):
                assert path.read_bytes() in (contents[path.name], theirs[path.name])
    mingus(one, "restore", SOURCE, where, "--delta")
    assert described(top) == was
