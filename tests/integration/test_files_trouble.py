"""Backups of files when something is in the way: stores, rights, writers. With the other modules, every trap of files.

Which test proves which trap (of DESIGN "Files" and the list of what broke other systems):

=============================================  ========================================================================
files that change, shrink or vanish            test_a_large_file_that_changes_…, test_a_file_that_shrinks_…, and, in
                                               test_files, test_a_tree_that_is_written_meanwhile_…
one vanished file fails nothing, hides none    test_what_vanishes_is_counted_and_fails_nothing
unreadable in the middle                       test_rights_taken_away_in_the_middle_are_told, and test_files
                                               test_what_cannot_be_read_is_listed_and_too_much_of_it_fails
sparse files, hard links, names that are no    test_files.test_everything_comes_back_as_it_was
UTF-8 or hold newlines, FIFOs, devices,
xattrs, setuid, times before 1970 and ahead
access control lists                           test_files.test_access_control_lists_come_back_…
sockets                                        test_files.test_a_socket_is_left_out_and_counted
symlink loops, links out of the tree           test_files.test_links_are_followed_where_asked_and_a_loop_ends
a million small files                          benchmarks/files_suite.py measures memory and time
one huge file                                  test_a_huge_file_with_little_in_it_costs_what_is_in_it
a restore that leaves its target               test_files, and mingus_engine/targets/files
owners                                         test_owners_come_back_by_name_where_the_ids_differ
kill -9                                        test_files_killed
=============================================  ========================================================================
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import bounds
from mingus_engine.errors import StoreUnreachable
from mingus_engine.jobs.files import owning
from mingus_engine.jobs.files.walking import Walking
from mingus_engine.sources.files import parts
from mingus_engine.store.faulty import Fault
from mingus_engine.store.retrying import RetryingStore
from tests.integration.test_files import a_bit_of_everything, noise
from tests.support.file_sets import FileSet, described
from tests.support.installation import replaced_bare_store
from tests.support.s3 import S3Bucket

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}


@pytest.fixture
def file_set(workspace: Path) -> Iterator[Callable[..., FileSet]]:
    made: list[FileSet] = []

    def make(**options: Any) -> FileSet:
        made.append(FileSet.make(workspace / f"set-{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def paths_of(report: Any, name: str) -> list[str]:
    return next((c["data"]["paths"] for c in report.checks if c["name"] == name), [])


# -- what happens while it is read ------------------------------------------------------------------------------------


def after_first_part(monkeypatch: pytest.MonkeyPatch, deed: Callable[[], None], times: int) -> None:
    """*deed* happens whenever the first part of a large file was read, *times* times."""
    real, left = parts.parts, [times]

    def reading(*arguments: Any, **options: Any) -> Iterator[parts.Part]:
        for number, part in enumerate(real(*arguments, **options)):
            yield part
            if not number and left[0]:
                left[0] -= 1
                deed()

    monkeypatch.setattr(f"{Walking.__module__}.parts", reading)


def test_a_large_file_that_changes_while_it_is_read_is_read_again(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    large = one.tree / "large"
    large.write_bytes(noise(30_000_000))

    def change() -> None:
        with large.open("r+b") as file:
            file.seek(1_000)
            file.write(b"changed")

    after_first_part(monkeypatch, change, times=1)
    report = one.back_up()
    assert paths_of(report, "changed") == []
    directory, _ = one.restore("back")
    assert (directory / "tree" / "large").read_bytes() == large.read_bytes()
    assert one.verify().ok


def test_one_that_never_stands_still_is_stored_and_named_and_read_the_next_time(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    large = one.tree / "large"
    large.write_bytes(noise(30_000_000))

    def grow() -> None:
        with large.open("ab") as file:
            file.write(b"more")

    with monkeypatch.context() as patched:
        after_first_part(patched, grow, times=10)
        report = one.back_up()
    assert paths_of(report, "changed") == ["tree/large"]
    assert one.verify().ok
    report = one.back_up()
    assert paths_of(report, "changed") == []
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def test_a_file_that_shrinks_while_it_is_read_is_read_as_what_it_became(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    large = one.tree / "large"
    large.write_bytes(noise(30_000_000))
    after_first_part(monkeypatch, lambda: os.truncate(large, 6_000_000), times=1)
    report = one.back_up()
    assert paths_of(report, "changed") == []
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def test_what_vanishes_is_counted_and_fails_nothing(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    (one.tree / "a-large").write_bytes(noise(30_000_000))
    (one.tree / "folder").mkdir()
    for i in range(20):
        (one.tree / "folder" / f"{i}").write_bytes(noise(10, i))
    (one.tree / "z-large").write_bytes(noise(30_000_000))

    def remove() -> None:
        (one.tree / "folder" / "7").unlink()
        (one.tree / "z-large").unlink(missing_ok=True)

    after_first_part(monkeypatch, remove, times=1)
    report = one.back_up()
    directory, _ = one.restore("back")
    here = {path.relative_to(one.tree) for path in one.tree.rglob("*")}
    assert {path.relative_to(directory / "tree") for path in (directory / "tree").rglob("*")} == here
    assert "tree/z-large" in paths_of(report, "vanished")
    assert report.files == 20
    assert not report.flagged


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
def test_rights_taken_away_in_the_middle_are_told(file_set: Callable[..., FileSet]) -> None:
    """Run by somebody who is not root: a folder is closed when its files are known and not yet read."""
    one = file_set(unreadable_max_share=0.9)
    (one.tree / "folder").mkdir()
    for i in range(40):
        (one.tree / "folder" / f"{i:02}").write_bytes(noise(100_000, i))
    code = (
        "import os, sys; from tests.support.file_sets import FileSet; from mingus_engine.settings import load\n"
        "from pathlib import Path; from mingus_engine.jobs.files import contents\n"
        "root = Path(sys.argv[1]); one = FileSet(root, load(root / 'mingus.yaml'), sys.argv[2]); one.back_up()\n"
        "for path in [root, *root.parents][:4]: path.chmod(path.stat().st_mode | 0o755)\n"
        "for path in [root, *root.rglob('*')]: os.chown(path, 65534, 65534)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "real, count = contents.read_whole, []\n"
        "def reading(*a, **k):\n"
        "    count.append(1); len(count) == 20 and (one.tree / 'folder').chmod(0o600)\n"
        "    return real(*a, **k)\n"
        "contents.read_whole = reading\n"
        "report = one.back_up(incremental=False); found = {c['name']: c['data'].get('count') for c in report.checks}\n"
        "print(report.unreadable, found['unreadable'], report.files); (one.tree / 'folder').chmod(0o700)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(one.root), one.variable], capture_output=True, text=True, check=False,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    unreadable, counted, files = map(int, ran.stdout.split())
    assert unreadable == counted > 15
    assert files + unreadable == 40


def test_a_huge_file_with_little_in_it_costs_what_is_in_it(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    size = 20 * bounds.GIB
    with (one.tree / "huge").open("wb") as file:
        for at in (0, 7 * bounds.GIB + 5, size - 3):
            file.seek(at)
            file.write(b"abc")
    report = one.back_up()
    assert report.bytes_read == size
    assert report.bytes_given < bounds.MIB
    directory, _ = one.restore("back")
    back = directory / "tree" / "huge"
    assert back.stat().st_size == size
    assert back.stat().st_blocks * 512 < bounds.MIB
    with back.open("rb") as file:
        for at in (0, 7 * bounds.GIB + 5, size - 3):
            file.seek(at)
            assert file.read(3) == b"abc"


# -- owners -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
def test_owners_come_back_by_name_where_the_ids_differ(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    (one.tree / "of nobody").touch()
    os.chown(one.tree / "of nobody", 65534, 65534)
    (one.tree / "of no name").touch()
    os.chown(one.tree / "of no name", 54321, 54322)
    one.back_up()

    class Other:
        """Another machine: its nobody has another number."""

        pw_uid, gr_gid = 4711, 4712

    real = owning.pwd.getpwnam, owning.grp.getgrnam
    here = {"nobody", "nogroup"}
    monkeypatch.setattr(owning.pwd, "getpwnam", lambda name: Other() if name in here else real[0](name))
    monkeypatch.setattr(owning.grp, "getgrnam", lambda name: Other() if name in here else real[1](name))
    directory, _ = one.restore("back", owners="names")
    named, nameless = (directory / "tree" / name for name in ("of nobody", "of no name"))
    assert (named.stat().st_uid, named.stat().st_gid) == (4711, 4712)
    assert (nameless.stat().st_uid, nameless.stat().st_gid) == (54321, 54322)
    directory, _ = one.restore("ids", owners="ids")
    assert (directory / "tree" / "of nobody").stat().st_uid == 65534


# -- stores -----------------------------------------------------------------------------------------------------------


def test_files_go_to_an_object_store_and_come_back(file_set: Callable[..., FileSet], rclone_s3: S3Bucket) -> None:
    one = file_set(bucket=rclone_s3)
    a_bit_of_everything(one.tree)
    one.back_up()
    (one.tree / "deep" / "small-9").write_text("changed")
    (one.tree / "large").rename(one.tree / "moved")
    report = one.back_up()
    assert report.parent is not None
    assert report.bytes_stored < bounds.MIB
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)
    assert one.verify().ok


def test_a_store_that_throttles_and_cuts_connections_slows_a_backup_down_and_harms_nothing(
    file_set: Callable[..., FileSet], rclone_s3: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryingStore, "__init__", _hurried(RetryingStore.__init__))
    one = file_set(bucket=rclone_s3)
    for i in range(60):
        (one.tree / f"{i}").write_bytes(noise(200_000, i))
    faults = [
        Fault("put", "raise", name="packs/*", nth=1, times=3),  # 503, slow down
        Fault("put", "raise_after", name="packs/*", nth=1, times=1),  # it was stored, and the answer was cut
        Fault("list", "raise", nth=2, times=2),
        Fault("put", "raise", name="snapshots/*", nth=1, times=2),
        Fault("put", "raise_after", name="snapshots/*", nth=1, times=1),
        Fault("get", "raise", name="snapshots/*", nth=1, times=2),
    ]
    with replaced_bare_store("first", faults, []):
        report = one.back_up()
    assert len(one.snapshots()) == 1
    with replaced_bare_store("first", [Fault("get_range", "raise", name="packs/*", nth=2, times=3)], []):
        directory, _ = one.restore("back", report.snapshot)
    assert described(directory / "tree") == described(one.tree)


def test_a_store_that_goes_away_for_good_fails_the_backup_which_the_next_one_resumes(
    file_set: Callable[..., FileSet], rclone_s3: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryingStore, "__init__", _hurried(RetryingStore.__init__))
    one = file_set(bucket=rclone_s3)
    for i in range(90):
        (one.tree / f"{i:02}").write_bytes(noise(1_500_000, i))
    gone = [Fault("put", "raise", name="packs/*", nth=2, times=None)]
    with replaced_bare_store("first", gone, []), pytest.raises(StoreUnreachable):
        one.back_up()
    assert one.snapshots() == []
    report = one.back_up()
    assert report.bytes_reused > 50_000_000
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def _hurried(real: Callable[..., None]) -> Callable[..., None]:
    """A retrying store's ``__init__`` that does not wait between its tries."""

    def hurried(self: RetryingStore, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **{**options, "sleep": lambda _: threading.Event().is_set()})

    return hurried
