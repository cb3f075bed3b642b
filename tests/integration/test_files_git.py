"""Sets of code say of which commit they are; a repository that is made to harm runs nothing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.sources.files import git_facts
from tests.support.file_sets import FileSet


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set", set="code")
    yield made
    made.close()


def git(tree: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example", "-c", "init.defaultBranch=main")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        ["git", *who, *arguments], cwd=tree, check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def committed(tree: Path) -> str:
    tree.mkdir(exist_ok=True)
    git(tree, "init", "-q")
    (tree / "code.py").write_text("print(1)\n")
    (tree / ".gitignore").write_text("*.pyc\n")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "first")
    return git(tree, "rev-parse", "HEAD")


def facts(one: FileSet) -> list[dict[str, Any]]:
    one.back_up()
    with one.reader() as reader:
        found: list[dict[str, Any]] = reader.body.facts.get("git", [])
    return found


def test_commit_branch_and_changes_of_each_repository_are_in_the_manifest(one: FileSet) -> None:
    first = committed(one.tree / "app")
    second = committed(one.tree / "library")
    git(one.tree / "app", "remote", "add", "origin", "https://me:hunter2@git.example/shop/app.git")
    (one.tree / "app" / "code.py").write_text("print(2)\n")
    (one.tree / "app" / "new").touch()
    (one.tree / "app" / "code.pyc").touch()
    git(one.tree / "library", "checkout", "-q", "--detach")
    git(one.tree / "library", "pack-refs", "--all")
    app, library = facts(one)
    assert app == {
        "path": "tree/app", "commit": first, "branch": "main", "dirty": 1, "untracked": 1,
        "remote": "https://git.example/shop/app.git",
    }  # fmt: skip
    assert library == {
        "path": "tree/library", "commit": second, "branch": None, "dirty": 0, "untracked": 0, "remote": None,
    }  # fmt: skip


def test_a_root_that_is_a_repository_or_a_further_working_tree_is_one(one: FileSet) -> None:
    commit = committed(one.tree)
    git(one.tree, "worktree", "add", "-q", "-b", "side", str(one.tree / "second"))
    git(one.tree, "pack-refs", "--all")
    root, second = facts(one)
    assert (root["path"], root["branch"], root["commit"], root["untracked"]) == ("tree", "main", commit, 1)
    assert (second["path"], second["branch"], second["commit"], second["dirty"]) == ("tree/second", "side", commit, 0)


def test_a_hostile_repository_runs_nothing(one: FileSet) -> None:
    tree, proof = one.tree / "trap", one.root / "ran"
    committed(tree)
    script = one.root / "script"
    script.write_text(f"#!/bin/sh\ntouch {proof}\n")
    script.chmod(0o755)
    (tree / ".gitattributes").write_text("* filter=trap diff=trap\n")
    for key, value in {
        "core.fsmonitor": str(script), "core.hooksPath": str(one.root), "core.pager": str(script),
        "core.sshCommand": str(script), "filter.trap.clean": str(script), "filter.trap.process": str(script),
        "filter.trap.required": "true", "diff.trap.command": str(script), "diff.external": str(script),
        "core.worktree": "/etc", "core.editor": str(script), "credential.helper": str(script),
        "status.submoduleSummary": "true", "include.path": str(one.root / "more"),
        "remote.origin.url": f"ext::{script}", "extensions.partialClone": "origin", "core.askPass": str(script),
    }.items():  # fmt: skip
        git(tree, "config", key, value)
    (one.root / "more").write_text(f"[core]\n\tfsmonitor = {script}\n[alias]\n\tstatus = !{script}\n")
    sub = tree / "sub"
    committed(sub)
    git(sub, "config", "core.fsmonitor", str(script))
    for hook in ("post-index-change", "fsmonitor-watchman", "pre-commit"):
        shutil.copy(script, tree / ".git" / "hooks" / hook)
    (tree / "code.py").write_text("print(3)\n")
    os.utime(tree / ".gitignore", (1, 1))  # its content must be looked at again: filters would run
    before = (tree / ".git" / "index").read_bytes()
    [found] = facts(one)
    assert not proof.exists()
    assert found["dirty"] == 1
    assert (tree / ".git" / "index").read_bytes() == before
    subprocess.run(["git", "status"], cwd=tree, check=False, capture_output=True)
    assert proof.exists(), "the trap is none"


def test_broken_repositories_neither_fail_nor_hang_a_backup(one: FileSet) -> None:
    for number, what in enumerate(("ref: refs/heads/../../../etc/passwd", "ref: refs/heads/none", "\0", "x" * 100_000)):
        directory = one.tree / f"{number}" / ".git"
        directory.mkdir(parents=True)
        (directory / "HEAD").write_text(what)
    os.mkfifo(directory / "packed-refs")
    (one.tree / "file").mkdir()
    (one.tree / "file" / ".git").write_text("gitdir: /proc/self")
    (one.tree / "link").mkdir()
    (one.tree / "link" / ".git").symlink_to("/")
    found = facts(one)
    assert [f["commit"] for f in found] == [None] * 4
    assert [f["dirty"] for f in found] == [None] * 4


def test_without_git_the_commit_is_read_by_hand(one: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = committed(one.tree)
    monkeypatch.setattr(git_facts.shutil, "which", lambda *_, **__: None)
    [found] = facts(one)
    assert (found["commit"], found["branch"], found["dirty"]) == (commit, "main", None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://token@github.example/a/b.git", "https://github.example/a/b.git"),
        ("https://me:p%40@ss@host/x", "https://host/x"),
        ("ssh://git@host:22/x", "ssh://git@host:22/x"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("https://host/x?private_token=abc", "https://host/x"),
    ],
)
def test_the_address_of_a_remote_holds_no_credentials(url: str, shown: str) -> None:
    assert git_facts.without_credentials(url) == shown
