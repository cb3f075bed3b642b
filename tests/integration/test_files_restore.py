"""Restores of files into places that hold something, of parts of a snapshot, and as of a time."""

import fcntl
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine.errors import NoSuchSnapshot, NotRestorable, SettingsError, TargetError, TargetNotEmpty
from mingus_engine.jobs.files.restore import FilesRestoreReport, restore_files
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.files import walk
from tests.integration.test_files import a_bit_of_everything
from tests.support.file_sets import SOURCE, FileSet, described

OLD, NEW = 1_000_000_000_000_000_000, 1_700_000_000_000_000_000


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set")
    yield made
    made.close()


def original(one: FileSet, **options: Any) -> FilesRestoreReport:
    return restore_files(one.settings, SOURCE, original=True, context=one.context, **options)


def write(path: Path, text: str | bytes, mtime_ns: int = NEW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def counts(report: FilesRestoreReport) -> dict[str, int]:
    return {action: found["count"] for action, found in report.actions.items() if found["count"]}


def a_set(one: FileSet) -> None:
    write(one.tree / "a" / "same", "as it was")
    write(one.tree / "a" / "older", "of the snapshot")
    write(one.tree / "a" / "newer", "of the snapshot")
    write(one.tree / "gone", "of the snapshot")
    (one.tree / "link").symlink_to("gone")
    write(one.tree / "large", random.Random(1).randbytes(3_000_000))
    os.link(one.tree / "gone", one.tree / "zz other name")


def changed(one: FileSet) -> None:
    write(one.tree / "a" / "older", "of somebody", OLD)
    write(one.tree / "a" / "newer", "of somebody", NEW + 1)
    write(one.tree / "a" / "theirs", "not in the snapshot")
    (one.tree / "gone").unlink()
    (one.tree / "link").unlink()
    (one.tree / "link").symlink_to("elsewhere")
    with (one.tree / "large").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"another hand")


def test_a_conflict_is_found_before_anything_is_written(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    changed(one)
    before = described(one.tree)
    with pytest.raises(TargetNotEmpty, match="is there already: tree/a/newer"):
        original(one)
    assert described(one.tree) == before


def test_skip_makes_only_what_is_missing(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    changed(one)
    report = original(one, conflict="skip")
    assert (one.tree / "gone").read_text() == "of the snapshot"
    assert (one.tree / "a" / "older").read_text() == "of somebody"
    assert (one.tree / "a" / "theirs").exists()
    assert (one.tree / "link").readlink() == Path("elsewhere")
    assert counts(report) == {"created": 1, "skipped": 6}


def test_newer_overwrites_only_what_is_older(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    changed(one)
    original(one, conflict="newer")
    assert (one.tree / "a" / "older").read_text() == "of the snapshot"
    assert (one.tree / "a" / "newer").read_text() == "of somebody"
    assert (one.tree / "gone").exists()


def test_overwrite_leaves_what_the_snapshot_does_not_have(one: FileSet) -> None:
    a_set(one)
    was = described(one.tree)
    one.back_up()
    changed(one)
    original(one, conflict="overwrite")
    now = dict(described(one.tree))
    assert now.pop("a/theirs")
    assert now == was


def test_a_delta_makes_the_place_equal_and_writes_what_differs(one: FileSet) -> None:
    a_set(one)
    was = described(one.tree)
    one.back_up()
    changed(one)
    inode = (one.tree / "a" / "same").stat().st_ino
    dry = original(one, delta=True, dry_run=True)
    report = original(one, delta=True)
    assert described(one.tree) == was
    assert (one.tree / "a" / "same").stat().st_ino == inode
    assert counts(report)["removed"] == 1
    assert set(report.changes) - {"~ tree/zz other name"} == set(dry.changes)
    assert "~ tree/large (content, mtime)" in report.changes
    assert "- tree/a/theirs" in report.changes
    again = original(one, delta=True)
    assert set(counts(again)) == {"unchanged"}


def test_a_delta_sees_content_that_has_the_same_size_and_time_where_it_is_asked_to(one: FileSet) -> None:
    write(one.tree / "file", "abc")
    one.back_up()
    write(one.tree / "file", "xyz")
    assert set(counts(original(one, delta=True))) == {"unchanged"}
    assert counts(original(one, delta=True, conflict="overwrite")) == {"overwritten": 1}
    assert (one.tree / "file").read_text() == "abc"


def test_what_the_rules_leave_out_is_not_removed(one: FileSet) -> None:
    one.set(exclude=("*.log", "cache/"))
    write(one.tree / "file", "x")
    one.back_up()
    write(one.tree / "today.log", "x")
    write(one.tree / "cache" / "y", "x")
    write(one.tree / "new" / "y", "x")
    write(one.tree / "new" / "y.log", "x")
    report = original(one, delta=True)
    assert (one.tree / "today.log").exists()
    assert (one.tree / "cache" / "y").exists()
    assert (one.tree / "new" / "y.log").exists()
    assert not (one.tree / "new" / "y").exists()
    assert counts(report)["removed"] == 1


def test_what_lies_on_another_mount_is_neither_backed_up_nor_removed(
    one: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.set(one_file_system=True)
    write(one.tree / "file", "x")
    write(one.tree / "mounted here" / "of the other disk", "x")
    inside = os.fsencode(one.tree.resolve() / "mounted here")
    with monkeypatch.context() as patch:
        patch.setattr(walk, "mount_points", lambda: frozenset({inside}))
        one.back_up()
        (one.tree / "file").unlink()
        write(one.tree / "theirs", "x")
        assert counts(original(one, delta=True)) == {"created": 1, "removed": 1}
    # Not mounted any more: what lies below is what the other disk hid.
    report = original(one, delta=True)
    assert report.kept == ""
    assert (one.tree / "mounted here" / "of the other disk").read_text() == "x"
    with one.reader() as reader:
        paths = {path for table in reader.tables() for path in table.paths}
    assert any(path.endswith(b"/mounted here") for path in paths)
    assert not any(b"other disk" in path for path in paths)


def test_a_bound_directory_is_a_mount_of_its_own(workspace: Path) -> None:
    there, here = workspace / "there", workspace / "a set" / "bound\there"
    write(there / "file", "x")
    here.mkdir(parents=True)
    script = 'mount --bind "$1" "$2" && cat /proc/self/mountinfo'
    said = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", there, here], capture_output=True, check=False
    )
    if said.returncode:  # mounting is not allowed here: what the kernel would have said
        shown = os.fsencode(here).replace(b"\\", rb"\134").replace(b" ", rb"\040").replace(b"\t", rb"\011")
        said.stdout = b"36 35 98:0 /there " + shown + b" rw,noatime - ext4 /dev/root rw\n"
    assert os.fsencode(here) in walk.mount_points_of(said.stdout)


def test_a_flagged_snapshot_removes_nothing(one: FileSet) -> None:
    for i in range(10):
        write(one.tree / f"file-{i}", "x")
    one.back_up()
    for i in range(9):
        (one.tree / f"file-{i}").unlink()
    assert one.back_up().flagged
    write(one.tree / "theirs", "x")
    report = original(one, delta=True)
    assert report.kept
    assert (one.tree / "theirs").exists()


def test_other_names_of_a_file_outside_are_not_changed_through(one: FileSet) -> None:
    write(one.tree / "file", "of the snapshot")
    one.back_up()
    write(one.tree / "file", "of somebody", OLD)
    for options in ({"conflict": "overwrite"}, {"delta": True}):
        outside = one.root / "outside"
        outside.unlink(missing_ok=True)
        write(one.tree / "file", "of somebody", OLD)
        os.link(one.tree / "file", outside)
        (one.tree / "file").chmod(0o640)
        original(one, **options)
        assert (one.tree / "file").read_text() == "of the snapshot"
        assert outside.read_text() == "of somebody"
        assert outside.stat().st_mode & 0o777 == 0o640
    # Only attributes differ: they are not changed through the other name, either.
    outside.unlink()
    os.link(one.tree / "file", outside)
    outside.chmod(0o600)
    original(one, delta=True)
    assert outside.stat().st_mode & 0o777 == 0o600
    assert (one.tree / "file").stat().st_mode & 0o777 != 0o600


@pytest.mark.parametrize("options", [{"conflict": "overwrite"}, {"delta": True}, {"conflict": "skip"}])
def test_a_link_in_place_of_a_directory_leads_nowhere(one: FileSet, options: dict[str, Any]) -> None:
    write(one.tree / "a" / "file", "of the snapshot")
    one.back_up()
    outside = one.root / "outside"
    outside.mkdir()
    write(outside / "file", "theirs")
    shutil.rmtree(one.tree / "a")
    (one.tree / "a").symlink_to(outside)
    report = original(one, **options)
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "theirs"
    if options.get("conflict") == "skip":
        assert (one.tree / "a").is_symlink()
        assert counts(report) == {"skipped": 2}
    else:
        assert (one.tree / "a" / "file").read_text() == "of the snapshot"
        assert not (one.tree / "a").is_symlink()


def test_a_directory_in_place_of_a_file_is_only_replaced_where_nothing_is_lost(one: FileSet) -> None:
    write(one.tree / "x", "a file")
    one.back_up()
    (one.tree / "x").unlink()
    write(one.tree / "x" / "deep" / "theirs", "y")
    with pytest.raises(TargetError, match="hold something are in the way: tree/x"):
        original(one, conflict="overwrite")
    assert (one.tree / "x" / "deep" / "theirs").exists()
    original(one, delta=True)
    assert (one.tree / "x").read_text() == "a file"


def test_a_root_that_is_somewhere_else_now_is_not_believed(one: FileSet) -> None:
    write(one.tree / "x", "y")
    one.back_up()
    (one.root / "moved").mkdir()
    one.set(roots=(type(one.files.roots[0])(str(one.root / "moved"), "tree"),))
    with pytest.raises(SettingsError, match="in the settings it is"):
        original(one, conflict="overwrite")


def test_a_root_that_is_gone_is_made_again(one: FileSet) -> None:
    a_set(one)
    was = described(one.tree)
    one.back_up()
    shutil.rmtree(one.tree)
    original(one)
    assert described(one.tree) == was


def test_left_overs_of_a_killed_restore_are_removed(one: FileSet) -> None:
    write(one.tree / "a" / "file", "x")
    one.back_up()
    left = one.tree / "a" / ".mingus-restore-0123456789abcdef"
    write(left, "half")
    original(one, conflict="skip")
    assert not left.exists()


def test_an_interrupted_restore_is_gone_on_with_and_compares_contents(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    directory, _ = one.restore("back")
    write(directory / ".mingus-restore-incomplete", "")
    status = (directory / "tree" / "large").stat()
    with (directory / "tree" / "large").open("r+b") as file:
        file.write(bytes(100))
    os.utime(directory / "tree" / "large", ns=(NEW, status.st_mtime_ns))
    write(directory / "beside", "of somebody")
    with pytest.raises(TargetNotEmpty, match="interrupted"):
        one.restore("back", conflict="overwrite")
    one.restore("back", delta=True)
    assert described(directory / "tree") == described(one.tree)
    assert sorted(p.name for p in directory.iterdir()) == ["beside", "tree"]


def test_a_dry_run_lists_everything_and_writes_nothing(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    said: list[str] = []
    report = one.restore("back", dry_run=True, tell=lambda change: said.append(str(change)))[1]
    assert not (one.root / "back").exists()
    assert "+ tree/a/same" in said
    assert len(said) == 9
    assert counts(report) == {"created": 9}
    for options in ({"delta": True}, {"conflict": "overwrite"}):
        dry = one.restore("back", dry_run=True, **options)[1]
        assert not (one.root / "back").exists()
        assert counts(dry) == {"created": 9}


def test_chosen_paths_come_with_the_directories_that_they_lie_in(one: FileSet) -> None:
    write(one.tree / "a" / "b" / "file", "x")
    write(one.tree / "a" / "b" / "other", "x")
    write(one.tree / "a-b", "x")
    (one.tree / "a").chmod(0o711)
    os.utime(one.tree / "a", ns=(OLD, OLD))
    one.back_up()
    directory, report = one.restore("back", paths=("tree/a/b/file",))
    assert [str(p.relative_to(directory)) for p in sorted(directory.rglob("*"))] == [
        "tree", "tree/a", "tree/a/b", "tree/a/b/file",
    ]  # fmt: skip
    assert (directory / "tree" / "a").stat().st_mode & 0o777 == 0o711
    assert (directory / "tree" / "a").stat().st_mtime_ns == OLD
    assert report.files == 1
    with pytest.raises(NoSuchSnapshot, match="no file tree/a/nothing"):
        one.restore("other", paths=("tree/a-b", "tree/a/nothing"))
    with pytest.raises(NoSuchSnapshot, match="matches the patterns"):
        one.restore("other", patterns=("*.pdf",))
    assert not (one.root / "other").exists()
    with pytest.raises(SettingsError):
        one.restore("other", paths=("tree/../a",))


def test_another_name_whose_first_was_not_chosen_is_a_file(one: FileSet) -> None:
    write(one.tree / "a", b"content" * 1000)
    for name in ("b", "c"):
        os.link(one.tree / "a", one.tree / name)
    one.back_up()
    directory, _ = one.restore("back", paths=("tree/b", "tree/c"))
    assert (directory / "tree" / "b").read_bytes() == b"content" * 1000
    assert (directory / "tree" / "b").stat().st_ino == (directory / "tree" / "c").stat().st_ino
    (one.root / "live").mkdir()
    write(one.root / "live" / "x", "y")
    directory, _ = one.restore("live", paths=("tree/b", "tree/c"), conflict="skip")
    assert (directory / "tree" / "b").stat().st_ino == (directory / "tree" / "c").stat().st_ino
    assert (directory / "tree" / "c").read_bytes() == b"content" * 1000


def test_a_chosen_restore_changes_nothing_else(one: FileSet) -> None:
    a_set(one)
    one.back_up()
    changed(one)
    (one.tree / "a").chmod(0o700)
    original(one, paths=("tree/a/older",), delta=True)
    assert (one.tree / "a" / "older").read_text() == "of the snapshot"
    assert (one.tree / "a").stat().st_mode & 0o777 == 0o700
    assert (one.tree / "a" / "newer").read_text() == "of somebody"
    assert (one.tree / "a" / "theirs").exists()


def test_a_time_means_the_newest_snapshot_that_had_ended(one: FileSet) -> None:
    ended, ulids = [], []
    for content in ("one", "two", "three"):
        write(one.tree / "file", content)
        ulids.append(one.back_up().snapshot)
        report = one.restore("dry", dry_run=True)[1]
        ended.append(datetime.fromisoformat(report.ended))
    step = timedelta(microseconds=1)

    def at(moment: datetime | str) -> str:
        return one.restore("dry", at=moment, dry_run=True)[1].snapshot

    assert [at(moment) for moment in ended] == ulids
    assert [at(ended[1] - step), at(ended[2] - step), at(ended[2] + step)] == [ulids[0], ulids[1], ulids[2]]
    assert at(f"time:{ended[1].isoformat()}") == ulids[1]
    assert at(ended[1].replace(tzinfo=None).isoformat()) == ulids[1]
    assert at("latest") == ulids[2]
    with pytest.raises(NotRestorable, match="the oldest"):
        at(ended[0] - step)
    with pytest.raises(SettingsError):
        at("yesterday")
    with pytest.raises(SettingsError):
        one.restore("dry", snapshot=ulids[0], at=ended[1], dry_run=True)


def test_few_files_of_many_read_few_shards(one: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8000):
        (one.tree / f"a name that is long enough to fill shards {i:06}").touch()
    one.back_up()
    read: list[int] = []
    real = SnapshotReader.raw_shard

    def counting(reader: SnapshotReader, number: int) -> bytes:
        read.append(number)
        return real(reader, number)

    monkeypatch.setattr(SnapshotReader, "raw_shard", counting)
    with one.reader() as reader:
        shards = len(reader.body.shards)
    _, report = one.restore(
        "back", paths=tuple(f"tree/a name that is long enough to fill shards {i:06}" for i in (5, 6))
    )
    assert report.files == 2
    assert shards > 4
    assert len(set(read)) <= 3


def test_full_disk_is_told_with_what_was_done(one: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(50):
        write(one.tree / f"file-{i:02}", "of the snapshot")
    one.back_up()
    for i in range(50):
        write(one.tree / f"file-{i:02}", "of somebody", OLD)
    real, count = os.pwrite, 0

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(TargetError, match=r"tree/file-.*No space left on device \(before that: 20 overwritten\)"):
            original(one, conflict="overwrite")
    found = [path.read_text() for path in sorted(one.tree.iterdir())]
    assert found.count("of the snapshot") == 20
    assert found.count("of somebody") == 30
    original(one, delta=True)
    assert {path.read_text() for path in one.tree.iterdir()} == {"of the snapshot"}


def test_two_restores_into_one_place_do_not_meet(one: FileSet) -> None:
    write(one.tree / "x", "y")
    one.back_up()
    descriptor = os.open(one.tree, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another restore"):
            original(one, delta=True)
    finally:
        os.close(descriptor)


NAMES = st.sampled_from(["a", "a-", "a.txt", "b", "b.pdf", "c"])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=40), max_size=12)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=TREES, chosen=st.integers(0, 100), pattern=st.sampled_from(["*.pdf", "a/", "/tree/b*", "**/c"]))
def test_a_part_is_what_the_whole_has_there(workspace: Path, tree: dict[str, bytes], chosen: int, pattern: str) -> None:
    one = FileSet.make(workspace / os.urandom(6).hex(), may_be_empty=True)
    try:
        for path, content in tree.items():
            try:
                write(one.tree / path, content)
            except OSError:
                continue
        one.back_up()
        whole = described(one.restore("whole")[0])
        paths = sorted(path for path in whole if path != ".")
        path = paths[chosen % len(paths)]
        part = described(one.restore("part", paths=(path,))[0])
        below = {p for p in whole if p == path or p.startswith(path + "/")}
        above = {p for p in whole if path.startswith(p + "/")} | {"."}
        assert {p: v for p, v in part.items() if p != "."} == {p: whole[p] for p in (below | above) - {"."}}
        try:
            matched = described(one.restore("matched", patterns=(pattern,))[0])
        except NoSuchSnapshot:
            return
        assert {p: v for p, v in matched.items() if p != "."}.items() <= whole.items()
    finally:
        one.close()


@pytest.mark.parametrize("options", [{"delta": True}, {"conflict": "overwrite"}])
def test_every_kind_of_thing_becomes_what_it_was(one: FileSet, options: dict[str, Any]) -> None:
    a_bit_of_everything(one.tree)
    was = described(one.tree)
    one.back_up()
    (one.tree / "fifo").unlink()
    (one.tree / "fifo").write_text("a file")
    (one.tree / "round").unlink()
    (one.tree / "round").mkdir()
    os.setxattr(one.tree / "large", "user.more", b"1")
    os.removexattr(one.tree / "deep", "user.folder")
    os.setxattr(one.tree / "deep", "user.more", b"1")
    (one.tree / "empty").rmdir()
    (one.tree / "empty").write_text("a file")
    (one.tree / "zz").unlink()
    (one.tree / "zz").write_bytes(b"0123456789" * 30_000)
    with (one.tree / "holes").open("r+b") as file:
        file.seek(50 << 20)
        file.write(b"y" * 100_000)
    original(one, **options)
    assert described(one.tree) == was
    assert (one.tree / "holes").stat().st_blocks * 512 < 8 << 20


@pytest.mark.parametrize("delta", [False, True])
def test_another_name_alone_is_not_believed_to_hold_what_size_and_time_say(one: FileSet, delta: bool) -> None:
    write(one.tree / "a", "as it was")
    os.link(one.tree / "a", one.tree / "b")
    one.back_up()
    write(one.tree / "a", "AS IT WAS")
    report = original(one, paths=("tree/b",), conflict="overwrite", delta=delta)
    assert (one.tree / "b").read_text() == "as it was"
    assert counts(report) == {"overwritten": 1}


@pytest.mark.parametrize("conflict", ["skip", "newer"])
def test_a_lost_name_is_not_linked_to_a_kept_file_that_only_looks_like_the_snapshots(
    one: FileSet, conflict: str
) -> None:
    write(one.tree / "a", "as it was")
    os.link(one.tree / "a", one.tree / "b")
    one.back_up()
    status = (one.tree / "a").stat()
    for name in ("a", "b"):
        (one.tree / name).unlink()
    (one.tree / "a").write_text("AS IT WAS")
    os.utime(one.tree / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    original(one, conflict=conflict)
    assert (one.tree / "a").read_text() == "AS IT WAS"
    assert (one.tree / "b").read_text() == "as it was"


def test_what_was_too_large_for_the_snapshot_and_is_smaller_now_is_not_removed(one: FileSet) -> None:
    one.set(file_max_bytes=100)
    write(one.tree / "a", "as it was")
    write(one.tree / "log", "x" * 200)
    one.back_up()
    write(one.tree / "log", "x" * 20)
    report = original(one, delta=True)
    assert (one.tree / "log").exists()
    assert "too large" in report.kept
