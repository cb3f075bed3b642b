"""`mingus check` of files says beforehand why a night's backup would fail."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.jobs import hooks
from mingus_engine.jobs.check import check
from mingus_engine.settings import HookSettings
from tests.support.file_sets import SOURCE, FileSet

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set")
    (made.tree / "file").write_text("content")
    yield made
    made.close()


def found(one: FileSet) -> dict[str, dict[str, Any]]:
    report = check(one.settings, SOURCE, context=one.context)
    return {c["name"]: c for c in report.checks if c["scope"] == f"source {SOURCE}"}


def test_a_set_in_order_passes_and_says_where_it_is_mounted(one: FileSet) -> None:
    report = check(one.settings, SOURCE, context=one.context)
    assert report.ok
    checks = found(one)
    assert {"root tree", "rights", "readable", "attributes"} == set(checks)
    assert "mounted at /" in checks["root tree"]["detail"]
    assert checks["readable"]["detail"] == "2 entries can be listed and opened"


def test_a_missing_or_empty_root_is_named(one: FileSet) -> None:
    (one.tree / "file").unlink()
    assert "is its disk not mounted?" in found(one)["root tree"]["detail"]
    one.tree.rmdir()
    checks = found(one)
    assert "No such file" in checks["root tree"]["detail"]
    assert not checks["root tree"]["ok"]
    report = check(one.settings, SOURCE, context=one.context)
    assert report.exit_code == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
def test_who_may_not_read_everything_is_told_what(one: FileSet) -> None:
    code = (
        "import os, sys; from pathlib import Path; from mingus_engine.settings import load\n"
        "from mingus_engine.sources.files.check import check_source; import threading\n"
        "settings = load(Path(sys.argv[1]) / 'mingus.yaml').sources[0]\n"
        "list(check_source(settings, threading.Event()))  # loads all modules: they may lie where nobody may read\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for check in check_source(settings, threading.Event()): print(check.name, check.ok, check.detail)\n"
    )
    for i in range(20):
        (one.tree / f"{i}").write_text("x")
    (one.tree / "7").chmod(0)
    (one.tree / "closed").mkdir(0o700)
    for path in [one.tree, *one.tree.parents][:5]:
        path.chmod(path.stat().st_mode | 0o755)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(one.root)], capture_output=True, text=True, check=False,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout
    assert "rights True reads only what this user may read" in said
    assert "readable False 2 of 23 entries cannot be read: tree/7: Permission denied; tree/closed/: Permission" in said


def test_hooks_that_cannot_run_and_hooks_that_are_due_are_named(one: FileSet) -> None:
    settings = HookSettings(before=(("/bin/true",),), after=((str(one.root / "gone"),),))
    one.settings = one.settings.with_source(replace(one.settings.source(SOURCE), hooks=settings))
    assert found(one)["hooks"]["detail"] == f"cannot be run: {one.root / 'gone'}"
    with hooks.Hooks(replace(settings, after=()), SOURCE, one.settings.state_path, one.context):
        assert set(found(one)) >= {"hooks"}
        assert f"hooks of {SOURCE}" not in found(one)  # a backup is under way
    hooks.pending_mark(one.settings.state_path, SOURCE).touch()
    due = found(one)[f"hooks of {SOURCE}"]
    assert not due["ok"]
    assert "may stand still" in due["detail"]
