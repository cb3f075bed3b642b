"""Backups of files: what is restored is what was there, whatever kind of thing it is and whatever happens meanwhile."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mingus_engine import bounds, rescue
from mingus_engine.errors import Cancelled, SourceError, TargetError, TargetNotEmpty
from mingus_engine.jobs.context import JobContext, Progress
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files import reading
from tests.support.file_sets import SOURCE, FileSet, described, tick

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


@pytest.fixture
def file_set(workspace: Path) -> Iterator[Callable[..., FileSet]]:
    made: list[FileSet] = []

    def make(**files: object) -> FileSet:
        made.append(FileSet.make(workspace / f"set-{len(made)}", **files))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are trusted at once; whoever changes something must see to it that they differ (``tick``)."""
    monkeypatch.setattr(reading, "RACY_NS", 0)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def a_bit_of_everything(tree: Path) -> None:
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "empty").mkdir(mode=0o2750)
    (tree / "deep-er").write_text("sorts between a folder and what is in it")
    for i in range(300):
        (tree / "deep" / f"small-{i}").write_bytes(b"%d\n" % i * (i % 40))
    (tree / "nothing").touch(mode=0o4711)
    (tree / "middle").write_bytes(b"0123456789" * 30_000)
    (tree / "large").write_bytes(noise(9_500_000))
    os.link(tree / "middle", tree / "deep" / "another name")
    os.link(tree / "middle", tree / "zz")
    os.link(tree / "deep" / "small-7", tree / "deep" / "er" / "seven")
    (tree / os.fsdecode(b"no utf-8 \xff\nand two lines")).write_bytes(b"x" * 100)
    (tree / "dangling").symlink_to("nowhere")
    (tree / "round").symlink_to(".")
    (tree / "out").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo", 0o621)
    with (tree / "holes").open("wb") as sparse:
        sparse.seek(100 * bounds.MIB)
        sparse.write(noise(70_000, 2))
        sparse.truncate(180 * bounds.MIB)
    os.setxattr(tree / "large", "user.comment", b"\0\xff")
    os.setxattr(tree / "deep", "user.folder", b"yes")
    os.utime(tree / "large", ns=(0, -987_654_321_123_456_789))
    os.utime(tree / "zz", ns=(0, 4_102_444_800_000_000_001))
    os.utime(tree / "round", ns=(0, 1_000_000_007), follow_symlinks=False)
    (tree / "deep" / "er").chmod(0o555)


def test_everything_comes_back_as_it_was(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    a_bit_of_everything(one.tree)
    if os.geteuid() == 0:
        os.chown(one.tree / "middle", 12345, 54321)
        os.mknod(one.tree / "device", 0o20644, os.makedev(1, 7))
        os.setxattr(one.tree / "nothing", "trusted.mingus", b"1")
    report = one.back_up()
    assert not report.flagged
    directory, restored = one.restore("back")
    assert described(directory / "tree") == described(one.tree)
    assert restored.lost == {}
    # The holes are holes again, as far as 64 KiB blocks go.
    assert (directory / "tree" / "holes").stat().st_blocks * 512 < bounds.MIB
    assert one.verify().ok


def test_access_control_lists_come_back_and_are_not_inherited_by_others(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    folder = one.tree / "shared"
    folder.mkdir()
    (folder / "plain").write_text("has no list of its own")
    # version 2; user::rwx, user:12345:rwx, group::r-x, mask::rwx, other::---
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, 12345), (4, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, bits, who in entries
    )
    try:
        os.setxattr(folder, "system.posix_acl_default", acl)
        os.setxattr(folder, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    one.back_up()
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def test_the_rescue_script_restores_contents_modes_times_and_links(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    a_bit_of_everything(one.tree)
    one.back_up()
    back = one.root / "rescued"
    rescue.main([str(one.root / "first"), "restore", SOURCE, str(back)], os.environ[one.variable])

    def plain(top: Path) -> dict[str, tuple[object, ...]]:
        # Mode, mtime, size, content, target: without owners, attributes and what are names of one file.
        return {path: (v[0], *v[2:6]) for path, v in described(top).items() if path != "fifo"}

    assert plain(back / "tree") == plain(one.tree)


def test_a_socket_is_left_out_and_counted(file_set: Callable[..., FileSet]) -> None:
    import socket

    one = file_set()
    (one.tree / "file").write_text("x")
    before = Path.cwd()
    os.chdir(one.tree)  # its name would be too long
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(before)
    report = one.back_up()
    assert [c["detail"] for c in report.checks if c["name"] == "socket"] == ["1 sockets, left out"]
    assert report.files == 1


@pytest.mark.usefixtures("trusting")
def test_what_did_not_change_is_not_read_and_stores_nothing(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    a_bit_of_everything(one.tree)
    first = one.back_up()
    tick(one.root)
    second = one.back_up()
    assert second.parent == first.snapshot
    # Other names of a file are not counted as unread, for they are not looked at.
    assert (second.bytes_given, second.bytes_stored) == (0, 0)
    assert (second.new, second.changed, second.removed) == (0, 0, 0)
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


@pytest.mark.usefixtures("trusting")
def test_moved_copied_and_shifted_content_is_not_stored_again(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    (one.tree / "letters").mkdir()
    for i in range(50):
        (one.tree / "letters" / f"{i}").write_bytes(noise(5_000, i))
    (one.tree / "archive").write_bytes(noise(20_000_000, 99))
    first = one.back_up()
    tick(one.root)
    (one.tree / "letters").rename(one.tree / "moved")
    shutil.copyfile(one.tree / "archive", one.tree / "copy")
    (one.tree / "shifted").write_bytes(b"a few bytes before " + (one.tree / "archive").read_bytes())
    second = one.back_up()
    assert first.bytes_stored > 20_000_000
    assert second.bytes_stored < 4_500_000  # the first chunk of the shifted one is new
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


@pytest.mark.usefixtures("trusting")
def test_rot_is_found_by_reading_again_and_flags_the_snapshot(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    for name, size in (("small", 5_000), ("middle", 300_000), ("large", 6_000_000)):
        (one.tree / name).write_bytes(noise(size))
    good = one.back_up()
    status = {path: path.stat() for path in one.tree.iterdir()}
    real = os.fstat, os.lstat

    for path in one.tree.iterdir():
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"rotten")
    # A disk that rots changes no time: what the system says of the files stays what it was.
    by_inode = {s.st_ino: s for s in status.values()}

    def as_before(found: os.stat_result) -> os.stat_result:
        return by_inode.get(found.st_ino, found)

    patched = pytest.MonkeyPatch()
    patched.setattr(os, "fstat", lambda descriptor: as_before(real[0](descriptor)))
    patched.setattr(os, "lstat", lambda path, **kwargs: as_before(real[1](path, **kwargs)))
    try:
        unread = one.back_up()
        assert not unread.flagged  # nothing was read
        one.set(reread_every_days=1)
        patched.setattr("mingus_engine.jobs.files.back_up._FilesBackUp._is_due", lambda self, facts: True)
        read = one.back_up()
    finally:
        patched.undo()
    assert good.snapshot != read.snapshot
    assert read.method == "every file read"
    [check] = [c for c in read.checks if c["name"] == "silent"]
    assert check["data"]["count"] == 3
    assert read.flagged


def test_a_file_changed_a_moment_before_is_read_again_although_it_looks_the_same(
    file_set: Callable[..., FileSet],
) -> None:
    one = file_set()
    (one.tree / "file").write_bytes(b"before")
    one.back_up()
    with one.reader() as reader:
        entry = next(e for e, _ in reader.files() if e.kind == FileKind.FILE)
    assert entry.extra == b""  # no mark to be compared with


def test_an_emptied_or_shrunken_set_is_flagged_and_never_a_parent(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    for i in range(20):
        (one.tree / f"{i}").write_bytes(noise(1000, i))
    good = one.back_up()
    shutil.rmtree(one.tree)
    one.tree.mkdir()
    empty = one.back_up()
    assert empty.flagged
    assert one.back_up(incremental=False).flagged
    (one.tree / "9").write_bytes(noise(1000, 9))
    shrunken = one.back_up()
    assert shrunken.flagged
    assert shrunken.parent == good.snapshot
    one.set(shrink_alarm_share=0.0)
    assert not one.back_up().flagged


def test_a_set_that_is_encrypted_by_somebody_is_flagged(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    for i in range(40):
        (one.tree / f"{i}.txt").write_text(f"a letter to customer {i}\n" * 300)
    assert not one.back_up().flagged
    for i in range(20):
        (one.tree / f"{i}.txt").write_bytes(noise(6_000, i))
    for i in range(20, 30):
        (one.tree / f"{i}.txt").unlink()
        (one.tree / f"{i}.txt.locked").write_bytes(noise(6_000, i))
    report = one.back_up()
    assert report.flagged
    [check] = [c for c in report.checks if c["name"] == "replaced"]
    assert check["data"]["count"] == 30


def test_a_missing_root_fails_and_names_it(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    shutil.rmtree(one.tree)
    with pytest.raises(SourceError, match="tree"):
        one.back_up()


def test_exclusions_and_inclusions_are_those_of_gitignore(file_set: Callable[..., FileSet]) -> None:
    one = file_set(exclude=["*.tmp", "/cache/", "!keep.tmp", "build/**/*.o"], file_max_bytes=1_000_000)
    for path in ("a.tmp", "keep.tmp", "cache/x", "sub/cache/x", "build/a/b/c.o", "build/a/b/c.c"):
        (one.tree / path).parent.mkdir(parents=True, exist_ok=True)
        (one.tree / path).write_text(path)
    (one.tree / "huge").write_bytes(bytes(1_000_001))
    one.back_up()
    with one.reader() as reader:
        files = [e.path.decode() for e, _ in reader.files() if e.kind == FileKind.FILE]
    assert files == ["tree/build/a/b/c.c", "tree/keep.tmp", "tree/sub/cache/x"]
    one.set(include=("*.c",))
    one.back_up()
    with one.reader() as reader:
        assert [e.path for e, _ in reader.files() if e.kind == FileKind.FILE] == [b"tree/build/a/b/c.c"]


def test_links_are_followed_where_asked_and_a_loop_ends(file_set: Callable[..., FileSet]) -> None:
    one = file_set(links="follow")
    outside = one.root / "outside"
    outside.mkdir()
    (outside / "file").write_text("of another place")
    (one.tree / "folder").symlink_to(outside)
    (one.tree / "file").symlink_to(outside / "file")
    (one.tree / "self").symlink_to("self")
    (one.tree / "up").symlink_to("..")
    (outside / "back").symlink_to(one.tree)
    report = one.back_up()
    with one.reader() as reader:
        kinds = {e.path: e.kind for e, _ in reader.files()}
    assert kinds[b"tree/folder/file"] == kinds[b"tree/file"] == FileKind.FILE
    assert kinds[b"tree/self"] == FileKind.SYMLINK
    assert any(c["name"] == "loop" for c in report.checks)


@root_only
def test_what_cannot_be_read_is_listed_and_too_much_of_it_fails(file_set: Callable[..., FileSet]) -> None:
    """Run by somebody who is not root, in a process of its own."""
    one = file_set(unreadable_max_share=0.1)
    for i in range(30):
        (one.tree / f"{i}").write_text("x")
    # The first backup, as root, loads all modules: they may lie where nobody else may read.
    code = (
        "import os, sys; from tests.support.file_sets import FileSet; from mingus_engine.settings import load\n"
        "from pathlib import Path\n"
        "root = Path(sys.argv[1]); one = FileSet(root, load(root / 'mingus.yaml'), sys.argv[2]); one.back_up()\n"
        "for denied in range(int(sys.argv[3])): (one.tree / f'{denied}').chmod(0)\n"
        "for path in [root, *root.parents][:4]: path.chmod(path.stat().st_mode | 0o755)\n"
        "for path in root.rglob('*'): tree = one.tree in path.parents or os.chown(path, 65534, 65534)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "report = one.back_up(); print([c['data']['paths'] for c in report.checks if c['name'] == 'unreadable'])\n"
    )

    def run(denied: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, str(one.root), one.variable, str(denied)], capture_output=True, text=True,
            check=False, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip

    said = run(1)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "[['tree/0: Permission denied']]"
    said = run(10)
    assert said.returncode != 0
    assert "10 of 30 files cannot be read" in said.stderr


def test_a_tree_that_is_written_meanwhile_gives_whole_files_and_says_which_are_not(
    file_set: Callable[..., FileSet],
) -> None:
    one = file_set()
    for i in range(400):
        (one.tree / f"{i:03}").write_bytes(b"%03d" % i * 2_000)
    (one.tree / "growing").write_bytes(noise(12_000_000))
    stop = threading.Event()

    def write() -> None:
        chance = random.Random(5)
        while not stop.is_set():
            name = one.tree / f"{chance.randrange(500):03}"
            if chance.random() < 0.3:
                name.unlink(missing_ok=True)
            else:
                name.write_bytes(b"%03d" % chance.randrange(1000) * chance.randrange(4_000))
            with (one.tree / "growing").open("ab") as file:
                file.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [one.back_up(incremental=bool(i)) for i in range(4)]
    finally:
        stop.set()
        writer.join()
    for i, report in enumerate(reports):
        changed = next((c["data"]["paths"] for c in report.checks if c["name"] == "changed"), [])
        directory, _ = one.restore(f"back-{i}", report.snapshot)
        for path in (directory / "tree").iterdir():
            content = path.read_bytes()
            if path.name != "growing" and f"tree/{path.name}" not in changed:
                assert content == content[:3] * (len(content) // 3)
            if path.name == "growing":
                assert content.startswith(noise(12_000_000))
        shutil.rmtree(directory)
    assert one.back_up().files == sum(path.is_file() for path in one.tree.iterdir())


def test_a_killed_backup_is_resumed_and_stores_nothing_twice(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    for i in range(40):
        (one.tree / f"{i:02}").write_bytes(noise(4_000_000, i))
    code = (
        "import sys; from tests.support.file_sets import FileSet; from mingus_engine.settings import load\n"
        "from pathlib import Path\n"
        "root = Path(sys.argv[1]); FileSet(root, load(root / 'mingus.yaml'), sys.argv[2]).back_up()\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", code, str(one.root), one.variable], env={**os.environ, **ENVIRONMENT}
    )
    packs = one.root / "first" / "packs"
    deadline = time.monotonic() + 60
    while victim.poll() is None and not list(packs.rglob("*.*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    left = sum(path.stat().st_size for path in packs.rglob("*") if path.is_file())
    report = one.back_up()
    assert left > 30_000_000, "it was killed too early or too late to say anything"
    assert report.bytes_stored < 160_000_000 - left * 0.9
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def test_a_cancelled_backup_ends_and_the_next_one_is_whole(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    for i in range(2_000):
        (one.tree / f"{i}").write_bytes(noise(3_000, i))
    (one.tree / "large").write_bytes(noise(40_000_000))
    context = JobContext()

    def stop(_: Progress) -> None:
        context.cancel.set()

    context.on_progress = stop
    with pytest.raises(Cancelled):
        one.back_up(context=context)
    one.back_up()
    directory, _ = one.restore("back")
    assert described(directory / "tree") == described(one.tree)


def test_a_restore_needs_an_empty_directory_and_a_failed_one_leaves_nothing(
    file_set: Callable[..., FileSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_set()
    a_bit_of_everything(one.tree)
    one.back_up()
    (one.root / "full").mkdir()
    (one.root / "full" / "mine").write_text("stays")
    with pytest.raises(TargetNotEmpty):
        one.restore("full")
    assert (one.root / "full" / "mine").read_text() == "stays"
    real, count = os.pwrite, 0

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 200:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TargetError, match="No space left"):
        one.restore("small")
    assert not (one.root / "small").exists()


def test_several_roots_lie_beside_each_other_under_their_labels(file_set: Callable[..., FileSet]) -> None:
    one = file_set()
    other = one.root / "tree-2"
    other.mkdir()
    (other / "file").write_text("2")
    (one.tree / "file").write_text("1")
    (one.root / "alone").write_text("a root that is a file")
    roots = [*one.files.roots]
    for path, label in ((other, ""), (one.root / "alone", "single"), (other, "tree.again")):
        roots.append(type(roots[0])(str(path), label))
    one.set(roots=tuple(roots))
    for incremental in (False, True):
        one.back_up(incremental=incremental)
        directory, _ = one.restore(f"back-{incremental}")
        assert (directory / "single").read_text() == "a root that is a file"
        assert (directory / "tree-2" / "file").read_text() == "2"
        assert (directory / "tree.again" / "file").read_text() == "2"
        assert described(directory / "tree") == described(one.tree)
