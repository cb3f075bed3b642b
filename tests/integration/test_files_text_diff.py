"""What changed in a configuration is shown, what is secret in it never."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine.cli.main import main
from mingus_engine.jobs.files import text_diff
from mingus_engine.jobs.files.text_diff import TextDiff
from tests.support.file_sets import SOURCE, FileSet


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set", set="configuration", shrink_alarm_share=0.0)
    yield made
    made.close()


def compared(one: FileSet, *, path: str = "", **options: int) -> TextDiff:
    old, new = one.snapshots()[-2:]
    return text_diff.diff_between(one.settings, SOURCE, old, new, path=path, context=one.context, **options)


def test_a_changed_line_is_shown_and_a_changed_secret_is_only_said_to_have_changed(one: FileSet) -> None:
    (one.tree / "app.conf").write_text("port = 5432\nhost = db1\npassword = first-word\n")
    (one.tree / "only-secret.conf").write_text("token: abc-old\n")
    (one.tree / "same.conf").write_text("a = 1\n")
    (one.tree / "server.key").write_text("old content")
    one.back_up()
    (one.tree / "app.conf").write_text("port = 5432\nhost = db2\npassword = second-word\n")
    (one.tree / "only-secret.conf").write_text("token: abc-new\n")
    (one.tree / "server.key").write_text("new content")
    os.utime(one.tree / "same.conf", (1, 1))
    one.back_up()
    found = compared(one)
    assert found.text.splitlines() == [
        "--- a/tree/app.conf",
        "+++ b/tree/app.conf",
        "@@ -1,3 +1,3 @@",
        " port = 5432",
        "-host = db1",
        "+host = db2",
        " password = ***",
        "changed tree/only-secret.conf: only in what is masked",
        "changed tree/server.key: a secret by its name, not shown",
    ]
    assert found.counts == {"new": 0, "removed": 0, "changed": 3}


def test_what_is_new_gone_binary_or_of_another_kind_is_named(one: FileSet) -> None:
    (one.tree / "gone").write_text("a\n")
    (one.tree / "binary").write_bytes(b"\0\1")
    (one.tree / "large").write_bytes(b"x" * (text_diff.FILE_MAX_BYTES + 1))
    (one.tree / "link").symlink_to("here")
    (one.tree / "kind").write_text("a")
    (one.tree / "mode").write_text("a")
    one.back_up()
    (one.tree / "gone").unlink()
    (one.tree / "binary").write_bytes(b"\0\2")
    (one.tree / "large").write_bytes(b"y" * (text_diff.FILE_MAX_BYTES + 1))
    (one.tree / "link").unlink()
    (one.tree / "link").symlink_to("there")
    (one.tree / "kind").unlink()
    (one.tree / "kind").mkdir()
    (one.tree / "mode").chmod(0o600)
    (one.tree / "new").write_text("secret: x\nport: 1 \x1b[31m\n")
    one.back_up()
    found = compared(one)
    lines = found.text.splitlines()
    assert {
        "changed tree/binary: no text, not shown",
        f"changed tree/large: {text_diff.FILE_MAX_BYTES + 1} bytes, not shown",
        "changed tree/link: leads to there, before to here",
        "changed tree/kind: is of another kind",
        "changed tree/mode: mode 0644 -> 0600",
        "removed file tree/gone",
        "new file tree/new",
        "+secret: ***",
        "+port: 1 \N{REPLACEMENT CHARACTER}[31m",
    } <= set(lines)
    assert (found.counts["new"], found.counts["removed"]) == (1, 1)
    assert compared(one, path="tree/mode").text == "changed tree/mode: mode 0644 -> 0600"


def test_it_ends_where_it_is_told_to_and_counts_on(one: FileSet) -> None:
    one.back_up()
    for i in range(50):
        (one.tree / f"{i}.conf").write_text("value = 1\n" * 50)
    one.back_up()
    found = compared(one, max_characters=2_000)
    assert found.cut
    assert len(found.text) <= 2_000
    assert found.counts["new"] == 50


def test_each_snapshot_is_compared_with_the_one_before(one: FileSet) -> None:
    (one.tree / "a").write_text("1\n")
    first = one.back_up()
    (one.tree / "a").write_text("2\n")
    second = one.back_up(incremental=False)
    before = text_diff.diff_to_one_before(
        one.settings, SOURCE, first.snapshot, context=one.context, max_characters=1000
    )
    assert before is None
    found = text_diff.diff_to_one_before(
        one.settings, SOURCE, second.snapshot, context=one.context, max_characters=1000
    )
    assert found is not None
    assert found.text.splitlines()[-2:] == ["-1", "+2"]


def test_the_command_line_shows_it(one: FileSet, capsys: pytest.CaptureFixture[str]) -> None:
    (one.tree / "a").write_text("host = 1\npassword = x1\n")
    one.back_up()
    (one.tree / "a").write_text("host = 2\npassword = x2\n")
    one.back_up()
    config = ["--config", str(one.root / "mingus.yaml"), "--quiet"]
    assert main([*config, "diff", *one.snapshots(), "tree/a", "--text"]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == ["-host = 1", "+host = 2", " password = ***"]
    assert main([*config, "diff", "latest", "latest", "--text"]) == 2
