"""The directory target: hostile paths, planted links, refusals that write nothing, sparse files, abandoning."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine.errors import Damaged, TargetError, TargetNotEmpty, TargetTooSmall
from mingus_engine.targets import checksum, durability, wipe
from mingus_engine.targets.base import EntryKind, TargetFile
from mingus_engine.targets.directory import DirectoryTarget
from mingus_engine.targets.paths import split

MARK = ".mingus-restore-incomplete"


def restore(target, path, content, **attributes):
    writer = target.open_file(TargetFile(path, size=len(content), **attributes))
    writer.write(0, content)
    return writer.close()


def write_all(writer, writes):
    for offset, data in writes:
        writer.write(offset, data)


def tree(directory):
    """Every path below a directory, with its kind and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def target(workspace):
    made = DirectoryTarget(workspace / "root")
    made.prepare(0)
    yield made
    made.close()


# -- contents ---------------------------------------------------------------------------------------------------------


def test_a_file_gets_its_bytes_its_mode_its_time_and_its_checksum(target):
    content = os.urandom(100_000)
    total = restore(target, b"a/b/c", content, mode=0o640, mtime_ns=-1_234_567_891)
    path = target.root / "a/b/c"
    assert path.read_bytes() == content
    assert total == crc32c.crc32c(content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime_ns == -1_234_567_891


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 300_000), st.binary(max_size=2000)), max_size=6),
    tail=st.integers(0, 300_000),
)
def test_what_is_left_out_is_a_hole_that_counts_as_zeros(target, pieces, tail):
    expected, writes = bytearray(), []
    for gap, data in pieces:
        expected += bytes(gap)
        writes.append((len(expected), data))
        expected += data
    expected += bytes(tail)
    name = os.urandom(8).hex().encode()
    writer = target.open_file(TargetFile(name, size=len(expected)))
    for offset, data in writes:
        writer.write(offset, memoryview(data))
    assert writer.close() == crc32c.crc32c(expected)
    assert (target.root / name.decode()).read_bytes() == expected


def test_pieces_that_follow_each_other_are_written_together_also_when_a_write_ends_early(target, monkeypatch):
    pwritev, calls = os.pwritev, []

    def half(descriptor, pieces, offset):
        calls.append(sum(map(len, pieces)))
        whole = b"".join(pieces)
        return pwritev(descriptor, [whole[: max(1, len(whole) // 2)]], offset)

    monkeypatch.setattr(os, "pwritev", half)
    content = os.urandom(100 * 1000)
    writer = target.open_file(TargetFile(b"f", size=len(content)))
    write_all(writer, [(at, content[at : at + 1000]) for at in range(0, len(content), 1000)])
    assert writer.close() == crc32c.crc32c(content)
    assert (target.root / "f").read_bytes() == content
    assert calls[0] == len(content)


def test_a_hole_takes_no_space(target):
    size = 1 << 30
    writer = target.open_file(TargetFile(b"sparse", size=size))
    writer.write(size // 2, b"x" * 4096)
    assert writer.close() == checksum.append_zeros(
        crc32c.crc32c(b"x" * 4096, checksum.append_zeros(0, size // 2)), size // 2 - 4096
    )
    status = (target.root / "sparse").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < 1 << 20


@given(data=st.binary(max_size=100), length=st.integers(0, 1 << 18))
def test_appended_zeros_give_the_same_checksum_as_real_ones(data, length):
    assert checksum.append_zeros(crc32c.crc32c(data), length) == crc32c.crc32c(data + bytes(length))


def test_zeros_of_a_terabyte_are_combined_at_once():
    half = checksum.append_zeros(123, 1 << 39)
    assert checksum.append_zeros(123, 1 << 40) == checksum.append_zeros(half, 1 << 39)


@pytest.mark.parametrize("writes", [[(0, b"abc"), (2, b"d")], [(8, b"abc")], [(0, b"x" * 11)], [(-1, b"")]])
def test_writes_that_overlap_or_lie_beyond_the_size_are_refused(target, writes):
    writer = target.open_file(TargetFile(b"f", size=10))
    with pytest.raises(Damaged, match="file f of 10 bytes"):
        write_all(writer, writes)
    writer.abort()
    writer.abort()


def test_directories_get_their_modes_and_times_at_the_end(target):
    target.make_directory(TargetFile(b"d", EntryKind.DIRECTORY, mode=0o555, mtime_ns=1_000_000_000))
    restore(target, b"d/f", b"late")
    target.make_directory(TargetFile(b"d/e", EntryKind.DIRECTORY, mode=0o700, mtime_ns=2_000_000_000))
    target.finish()
    status = (target.root / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o555, 1_000_000_000)
    assert (target.root / "d/e").stat().st_mtime_ns == 2_000_000_000


def test_links_are_made_as_they_were_and_not_followed(target):
    target.make_symlink(TargetFile(b"l", EntryKind.SYMLINK, target=b"/etc", mtime_ns=3_000_000_000))
    assert (target.root / "l").readlink() == Path("/etc")
    assert (target.root / "l").lstat().st_mtime_ns == 3_000_000_000
    with pytest.raises(TargetError, match="l/passwd"):
        target.open_file(TargetFile(b"l/passwd", size=0))


def test_many_workers_may_make_the_same_parents(target):
    failures = []

    def work(number):
        try:
            for i in range(50):
                restore(target, b"x/%d/y/%d" % (i, number), b"%d" % number)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len([p for p in target.root.rglob("*") if p.is_file()]) == 201  # and the mark


def test_the_mark_is_there_until_the_end(target):
    assert (target.root / MARK).exists()
    restore(target, b"f", b"")
    target.finish()
    assert tree(target.root) == {"f": b""}


# -- hostile paths ----------------------------------------------------------------------------------------------------

HOSTILE = [
    b"",
    b"/",
    b"/etc/passwd",
    b"..",
    b"../x",
    b"a/../../x",
    b"a/..",
    b"./a",
    b"a/.",
    b"a//b",
    b"a/",
    b"a\0b",
    b"\0",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_refused_by_every_call(target, path):
    before = tree(target.root.parent)
    with pytest.raises(Damaged):
        target.open_file(TargetFile(path, size=0))
    with pytest.raises(Damaged):
        target.make_directory(TargetFile(path, EntryKind.DIRECTORY))
    with pytest.raises(Damaged):
        target.make_symlink(TargetFile(path, EntryKind.SYMLINK, target=b"x"))
    assert tree(target.root.parent) == before


@given(st.lists(st.sampled_from([b"..", b".", b"", b"a", b"\xff", b"\n", b"a b", b"\0"]), max_size=6).map(b"/".join))
def test_a_path_is_either_refused_or_made_of_plain_names(path):
    try:
        parts = split(path)
    except Damaged:
        return
    assert b"/".join(parts) == path
    assert parts
    assert not {b"", b".", b".."} & set(parts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from(["file", "directory", "link"]),
            st.lists(st.sampled_from([b"a", b"b", b"..", b"l", b"\xfe"]), min_size=1, max_size=4).map(b"/".join),
            st.sampled_from([b"..", b"../victim", b"/tmp", b"a", b"."]),
        ),
        max_size=12,
    )
)
def test_no_list_of_entries_writes_outside_of_the_target(workspace, entries):
    place = workspace / os.urandom(8).hex()
    place.mkdir()
    (place / "victim").mkdir()
    before = tree(place)
    target = DirectoryTarget(place / "root", durable=False)
    target.prepare(0)
    for kind, path, leads_to in entries:
        try:
            if kind == "file":
                restore(target, path, b"evil")
            elif kind == "directory":
                target.make_directory(TargetFile(path, EntryKind.DIRECTORY, mode=0o700))
            else:
                target.make_symlink(TargetFile(path, EntryKind.SYMLINK, target=leads_to))
        except (Damaged, TargetError):
            continue
    target.finish()
    target.abandon()
    assert tree(place) == before


def test_a_link_planted_in_the_target_is_not_followed(target, workspace):
    victim = workspace / "victim"
    victim.mkdir()
    (target.root / "base").symlink_to(victim)
    (target.root / "file").symlink_to(victim / "new")
    (target.root / "dangling").symlink_to(victim / "nothing")
    for path in (b"base/x", b"file", b"dangling"):
        with pytest.raises(TargetError, match="did not make"):
            target.open_file(TargetFile(path, size=0))
    with pytest.raises(TargetError, match="did not make"):
        target.make_directory(TargetFile(b"base", EntryKind.DIRECTORY))
    with pytest.raises(TargetError, match="did not make"):
        target.make_symlink(TargetFile(b"base/l", EntryKind.SYMLINK, target=b"x"))
    assert not list(victim.iterdir())


def test_a_second_entry_of_a_path_is_refused(target):
    restore(target, b"f", b"first")
    with pytest.raises(TargetError, match="in the way"):
        target.open_file(TargetFile(b"f", size=0))
    assert (target.root / "f").read_bytes() == b"first"


def test_the_mark_cannot_be_an_entry(target):
    with pytest.raises(Damaged, match="reserved"):
        target.open_file(TargetFile(MARK.encode(), size=0))


def test_names_that_are_no_text_are_restored_and_shown_in_one_line(target):
    name = b"a\nb\xff\x1b[31m"
    restore(target, name, b"1")
    assert os.fsdecode(name) in tree(target.root)
    with pytest.raises(TargetError) as caught:
        restore(target, name, b"2")
    assert caught.value.message.isprintable()


# -- remapped prefixes ------------------------------------------------------------------------------------------------


def test_what_is_below_a_remapped_prefix_goes_to_its_directory(workspace):
    target = DirectoryTarget(workspace / "root", remap={b"pg_tblspc/1": workspace / "ts" / "one"})
    target.prepare({workspace / "root": 1, workspace / "ts/one": 1})
    restore(target, b"pg_tblspc/1/PG/2", b"there")
    target.make_symlink(TargetFile(b"pg_tblspc/1", EntryKind.SYMLINK, target=b"/original"))
    restore(target, b"pg_tblspc/10/x", b"here")
    for call in (target.open_file, target.make_directory):
        with pytest.raises(Damaged):
            call(TargetFile(b"pg_tblspc/1"))
    target.finish()
    assert (workspace / "ts/one/PG/2").read_bytes() == b"there"
    assert (workspace / "root/pg_tblspc/1").readlink() == workspace / "ts/one"
    assert (workspace / "root/pg_tblspc/10/x").read_bytes() == b"here"
    target.abandon()
    assert not list(workspace.iterdir())


def test_a_link_of_a_remapped_prefix_keeps_its_mapping_even_when_someone_swaps_it(workspace):
    (workspace / "victim").mkdir()
    target = DirectoryTarget(workspace / "root", remap={b"t/1": workspace / "one"})
    target.prepare(0)
    (workspace / "root/t").mkdir()
    (workspace / "root/t/1").symlink_to(workspace / "victim")
    restore(target, b"t/1/f", b"x")
    assert (workspace / "one/f").exists()
    assert not list((workspace / "victim").iterdir())


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(workspace, error, match, **arguments):
    before = tree(workspace)
    needed = arguments.pop("needed", 0)
    files = arguments.pop("files", 0)
    with pytest.raises(error, match=match) as caught:
        DirectoryTarget(workspace / "root", **arguments).prepare(needed, files)
    assert tree(workspace) == before
    return caught.value


def test_a_target_that_is_not_empty_is_refused_and_left_as_it_is(workspace):
    (workspace / "root").mkdir(mode=0o755)
    (workspace / "root/keep").write_text("mine")
    refused(workspace, TargetNotEmpty, "keep")
    assert stat.S_IMODE((workspace / "root").stat().st_mode) == 0o755


def test_a_tablespace_directory_that_is_not_empty_is_refused_before_the_root_is_made(workspace):
    (workspace / "ts").mkdir()
    (workspace / "ts/keep").write_text("mine")
    refused(workspace, TargetNotEmpty, "ts.*keep", remap={b"pg_tblspc/1": workspace / "ts"})
    assert not (workspace / "root").exists()


def test_an_interrupted_restore_is_named_as_such(workspace):
    first = DirectoryTarget(workspace / "root")
    first.prepare(0)
    first.close()
    refused(workspace, TargetNotEmpty, "interrupted")


def test_links_and_files_are_no_targets(workspace):
    (workspace / "elsewhere").mkdir()
    (workspace / "root").symlink_to(workspace / "elsewhere")
    refused(workspace, TargetError, "symbolic link")
    (workspace / "root").unlink()
    (workspace / "root").write_text("")
    refused(workspace, TargetError, "not a directory")


def test_directories_in_each_other_are_refused(workspace):
    refused(workspace, TargetError, "lies in", remap={b"t/1": workspace / "root" / "inside"})
    refused(workspace, TargetError, "lies in", remap={b"t/1": workspace / "same", b"t/2": workspace / "same"})


def test_too_little_space_is_refused_with_both_numbers_before_anything_is_written(workspace):
    error = refused(workspace, TargetTooSmall, "bytes free, .* bytes are needed", needed=1 << 62)
    assert str(1 << 62) in error.message


def test_directories_of_one_file_system_share_its_space(workspace):
    status = os.statvfs(workspace)
    most = status.f_bavail * status.f_frsize * 3 // 4
    needed = {workspace / "root": most, workspace / "ts": most}
    refused(workspace, TargetTooSmall, "ts has", needed=needed, remap={b"t/1": workspace / "ts"})


def test_too_few_inodes_are_refused(workspace):
    if not os.statvfs(workspace).f_files:
        pytest.skip("this file system has no fixed number of files")
    refused(workspace, TargetTooSmall, "inodes", files=1 << 50)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and change owners")


@needs_root
def test_a_directory_of_another_user_is_refused(workspace):
    (workspace / "root").mkdir()
    os.chown(workspace / "root", 12345, 12345)
    refused(workspace, TargetError, "belongs to user 12345", owner=(54321, 54321))


@needs_root
def test_everything_belongs_to_the_given_owner(workspace):
    target = DirectoryTarget(workspace / "new" / "root", owner=(54321, 54322), remap={b"t/1": workspace / "ts"})
    target.prepare(0)
    restore(target, b"a/b", b"x", mode=0o4755)
    target.make_directory(TargetFile(b"d", EntryKind.DIRECTORY, mode=0o700))
    target.make_symlink(TargetFile(b"l", EntryKind.SYMLINK, target=b"x"))
    target.finish()
    owners = {(p.lstat().st_uid, p.lstat().st_gid) for p in [*workspace.rglob("*")]}
    assert owners == {(54321, 54322)}
    assert stat.S_IMODE((target.root / "a/b").stat().st_mode) == 0o4755


@pytest.fixture
def small_file_system(workspace):
    """One mebibyte, in memory."""
    place = workspace / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@needs_root
def test_a_file_system_that_fills_up_is_named_and_the_restore_can_be_abandoned(small_file_system):
    with pytest.raises(TargetTooSmall, match="2097152 bytes are needed"):
        DirectoryTarget(small_file_system / "root").prepare(2 << 20)
    target = DirectoryTarget(small_file_system / "root")
    target.prepare(0)
    writer = target.open_file(TargetFile(b"big", size=2 << 20))
    with pytest.raises(TargetTooSmall, match=f"target big: {os.strerror(errno.ENOSPC)}"):
        write_all(writer, [(i << 16, bytes(1 << 16)) for i in range(32)])
    writer.abort()
    target.abandon()
    assert not list(small_file_system.iterdir())


@needs_root
def test_a_delta_needs_space_only_for_what_is_not_there(small_file_system):
    root = small_file_system / "root"
    root.mkdir()
    (root / "a").write_bytes(bytes(700 << 10))
    with pytest.raises(TargetTooSmall, match=f"{400 << 10} bytes are needed"):
        DirectoryTarget(root, delta=True).prepare(1100 << 10)
    assert [path.name for path in root.iterdir()] == ["a"]
    target = DirectoryTarget(root, delta=True)
    target.prepare(900 << 10)
    target.close()


@needs_root
def test_a_read_only_file_system_is_refused(small_file_system):
    subprocess.run(["mount", "-o", "remount,ro", small_file_system], check=True)
    with pytest.raises(TargetError, match="read-only"):
        DirectoryTarget(small_file_system / "root").prepare(0)


# -- abandoning -------------------------------------------------------------------------------------------------------


def test_abandoning_gives_the_directory_back_as_it_was(workspace):
    (workspace / "root").mkdir(mode=0o750)
    (workspace / "root").chmod(0o750)
    target = DirectoryTarget(workspace / "root")
    target.prepare(0)
    restore(target, b"a/b", b"x")
    target.abandon()
    target.abandon()
    assert tree(workspace) == {"root": None}
    assert stat.S_IMODE((workspace / "root").stat().st_mode) == 0o750


def test_abandoning_after_the_end_removes_what_ran_on_it_too_and_follows_no_link(workspace):
    (workspace / "victim").mkdir()
    (workspace / "victim/keep").write_text("mine")
    target = DirectoryTarget(workspace / "deep/er/root")
    target.prepare(0)
    restore(target, b"a/b", b"x")
    target.make_directory(TargetFile(b"closed", EntryKind.DIRECTORY, mode=0o000))
    target.finish()
    target.close()
    (target.root / "made later").mkdir()
    (target.root / "made later/link").symlink_to(workspace / "victim")
    target.abandon()
    assert tree(workspace) == {"victim": None, "victim/keep": b"mine"}


def test_abandoning_leaves_alone_what_prepare_refused(workspace):
    (workspace / "root").mkdir()
    (workspace / "root/keep").write_text("mine")
    target = DirectoryTarget(workspace / "root")
    with pytest.raises(TargetNotEmpty):
        target.prepare(0)
    target.abandon()
    assert (workspace / "root/keep").exists()


def test_abandoning_leaves_alone_a_directory_that_took_the_targets_place(workspace):
    target = DirectoryTarget(workspace / "root")
    target.prepare(0)
    target.close()
    (workspace / "root").rename(workspace / "moved")
    (workspace / "root").mkdir()
    (workspace / "root/keep").write_text("other")
    with pytest.raises(TargetError, match="replaced"):
        target.abandon()
    assert (workspace / "root/keep").exists()


def test_a_tree_deeper_than_any_limit_is_wiped(workspace):
    top = os.open(workspace, os.O_RDONLY)
    current = os.dup(top)
    for _ in range(3000):
        os.mkdir("d", dir_fd=current)
        child = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = child
    os.close(current)
    wipe.wipe(top)
    os.close(top)
    assert not list(workspace.iterdir())


@needs_root
def test_what_is_mounted_below_is_not_wiped(workspace, small_file_system):
    (small_file_system / "keep").write_text("mine")
    top = os.open(workspace, os.O_RDONLY)
    with pytest.raises(OSError, match=r"mounted|busy|cross-device"):
        wipe.wipe(top)
    os.close(top)
    assert (small_file_system / "keep").exists()


@needs_root
def test_an_unprivileged_user_can_wipe_what_was_restored_read_only(workspace):
    script = """
import os, sys
sys.path[:0] = ["plugins"]
from pathlib import Path
from mingus_engine.targets.base import EntryKind, TargetFile
from mingus_engine.targets.directory import DirectoryTarget
os.setgid(65534); os.setuid(65534)
target = DirectoryTarget(Path(sys.argv[1]))
target.prepare(0)
for path in (b"a", b"a/b", b"a/b/c"):
    target.make_directory(TargetFile(path, EntryKind.DIRECTORY, mode=0o500 if path != b"a/b" else 0))
target.finish()
target.abandon()
"""
    (workspace / "own").mkdir()
    os.chown(workspace / "own", 65534, 65534)
    subprocess.run([sys.executable, "-c", script, workspace / "own/root"], check=True)
    assert not list((workspace / "own").iterdir())


def test_without_syncfs_every_file_is_synced(target, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(durability, "_syncfs_reports_errors", lambda: False)
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd)))
    restore(target, b"a/f", b"x")
    target.finish()
    assert {str(target.root / "a/f"), str(target.root / "a"), str(target.root)} <= set(synced)


def test_a_target_finishes_with_one_sync_of_the_file_system(target):
    restore(target, b"a/f", b"x")
    durability.sync_trees([os.open(Path("/"), os.O_RDONLY)])
    target.finish()
