"""What is special to directories: links, file systems that are full, read-only, without unnamed files; durability."""

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import (
    Damaged,
    MingusError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from mingus_engine.store import unnamed
from mingus_engine.store.folders import translated
from mingus_engine.store.local import LocalStore

IS_ROOT = os.geteuid() == 0


def put(store: LocalStore, name: str, data: bytes, body: Any = None) -> None:
    store.put(name, data if body is None else body, size=len(data), sha256=hashlib.sha256(data).digest())


def names(store: LocalStore, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix)]


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "repository")


@pytest.fixture
def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(folder: int, mode: int) -> int:
        raise unnamed.NotPossible

    monkeypatch.setattr(unnamed, "create", create)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        IS_ROOT
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_spool_file_on_the_same_file_system_becomes_the_object(store: LocalStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    with unnamed.open_spool(tmp_path / "spool") as spool:
        spool.write(data)
        inode = os.fstat(spool.fileno()).st_ino
        put(store, "packs/a", data, spool)
    facts = (tmp_path / "repository/packs/a").stat()
    assert facts.st_ino == inode, "it was copied"
    assert facts.st_nlink == 1
    assert stat.S_IMODE(facts.st_mode) == 0o640
    assert store.get("packs/a") == data
    assert files_below(tmp_path) == ["repository/packs/a"]


def test_a_spool_file_that_is_an_object_already_is_copied(store: LocalStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    with unnamed.open_spool(tmp_path / "spool") as spool:
        spool.write(data)
        put(store, "packs/a", data, spool)
        put(store, "packs/b", data, spool)
    inodes = {(tmp_path / "repository/packs" / name).stat().st_ino for name in ("a", "b")}
    assert len(inodes) == 2, "two objects share their bytes: damage to one is damage to both"


def test_a_file_with_a_name_is_copied(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"before")
    with path.open("rb") as body:
        put(store, "x", b"before", body)
    path.write_bytes(b"after!")
    assert store.get("x") == b"before"


def test_a_spool_file_of_another_file_system_is_copied(small_disk: Path, store: LocalStore) -> None:
    data = os.urandom(100_000)
    with unnamed.open_spool(small_disk) as spool:
        spool.write(data)
        put(store, "packs/a", data, spool)
    assert store.get("packs/a") == data


def test_a_deleted_file_or_one_that_may_not_be_linked_is_copied(store: LocalStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    path = tmp_path / "body"
    path.write_bytes(data)
    with path.open("rb") as body:
        path.unlink()
        put(store, "packs/a", data, body)
    assert store.get("packs/a") == data


def test_a_spool_file_is_refused_when_it_is_not_as_long_as_promised(store: LocalStore, tmp_path: Path) -> None:
    with unnamed.open_spool(tmp_path / "spool") as spool:
        spool.write(b"123456")
        for size in (5, 7):
            with pytest.raises(Damaged, match="promised"):
                store.put("x", spool, size=size, sha256=bytes(32))
    assert names(store) == []


def test_a_buffered_body_is_flushed_first(store: LocalStore, tmp_path: Path) -> None:
    with (tmp_path / "body").open("w+b", buffering=1 << 20) as body:
        body.write(b"still in the buffer")
        put(store, "x", b"still in the buffer", body)
    assert store.get("x") == b"still in the buffer"


@pytest.fixture
def deeds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made durable and named, in order."""
    done: list[str] = []
    real_fsync, real_link, real_mkdir = os.fsync, os.link, os.mkdir

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        done.append(f"fsync {kind}{' ' + path.name if kind == 'folder' else ''}")
        real_fsync(descriptor)

    def link(source: str, name: str, **options: Any) -> None:
        real_link(source, name, **options)
        done.append(f"link {name}")

    def mkdir(path: str, *arguments: Any, **options: Any) -> None:
        real_mkdir(path, *arguments, **options)
        done.append(f"mkdir {Path(path).name}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "mkdir", mkdir)
    return done


@pytest.mark.parametrize("kind", ["unnamed", "named", "spool"])
def test_a_name_appears_after_its_bytes_are_durable_and_its_folders_are_too(
    kind: str, tmp_path: Path, deeds: list[str], request: pytest.FixtureRequest
) -> None:
    if kind == "named":
        request.getfixturevalue("without_unnamed_files")
    store = LocalStore(tmp_path / "root")
    with unnamed.open_spool(tmp_path / "spool") as spool:
        spool.write(b"data")
        deeds.clear()
        put(store, "packs/s/a", b"data", spool if kind == "spool" else None)
    wanted = ["mkdir root", f"fsync folder {tmp_path.name}", "mkdir packs", "fsync folder root", "mkdir s"]
    wanted += ["fsync folder packs"]
    aside = ["mkdir .tmp", "fsync folder root"] if kind == "named" else []
    assert deeds == [*wanted, *aside, "fsync file", "link a", "fsync folder s"]
    deeds.clear()
    put(store, "packs/s/b", b"data")
    assert deeds == ["fsync file", "link b", "fsync folder s"], "folders known to be durable are not synced again"


def test_folders_made_by_another_process_are_made_durable_too(tmp_path: Path, deeds: list[str]) -> None:
    (tmp_path / "root/packs").mkdir(parents=True)
    deeds.clear()
    put(LocalStore(tmp_path / "root"), "packs/a", b"data")
    assert deeds == ["fsync folder root", "fsync file", "link a", "fsync folder packs"]


def test_an_object_that_was_there_is_made_durable_before_it_counts(tmp_path: Path, deeds: list[str]) -> None:
    store = LocalStore(tmp_path / "root")
    put(store, "a", b"data")
    deeds.clear()
    put(store, "a", b"data")
    assert deeds == ["fsync file", "fsync folder root"]


def test_a_delete_is_durable_also_when_another_process_did_it(tmp_path: Path, deeds: list[str]) -> None:
    store = LocalStore(tmp_path / "root")
    put(store, "packs/a", b"data")
    for _ in range(2):
        deeds.clear()
        store.delete("packs/a")
        assert deeds == ["fsync folder packs"]


def test_a_folder_that_was_removed_by_hand_is_made_again(tmp_path: Path, deeds: list[str]) -> None:
    store = LocalStore(tmp_path / "root")
    put(store, "packs/a", b"data")
    store.delete("packs/a")
    (tmp_path / "root/packs").rmdir()
    deeds.clear()
    put(store, "packs/b", b"data")
    assert deeds[:2] == ["mkdir packs", "fsync folder root"]


@pytest.mark.parametrize("failing", ["fsync", "link", "sendfile"])
def test_a_put_that_fails_on_the_way_leaves_nothing(
    failing: str, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_unnamed_files: None
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"data")
    put(store, "packs/before", b"x")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, failing, fail)
    with path.open("rb") as body, pytest.raises(StoreError) as caught:
        put(store, "packs/a", b"data", body)
    monkeypatch.undo()
    assert not caught.value.transient, "a second fsync after a failed one proves nothing"
    assert files_below(tmp_path / "repository") == ["packs/before"]


def test_old_left_overs_of_dead_puts_are_removed_and_young_ones_are_not(store: LocalStore, tmp_path: Path) -> None:
    aside = tmp_path / "repository/.tmp"
    aside.mkdir(parents=True)
    for name, age_s in (("old", 25 * 3600), ("young", 3600)):
        (aside / name).write_bytes(b"part")
        os.utime(aside / name, (time.time() - age_s,) * 2)
    put(store, "packs/a", b"x")
    assert files_below(tmp_path / "repository") == [".tmp/young", "packs/a"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "a").write_bytes(b"not ours")
    return place


CALLS: list[Callable[[LocalStore, str], object]] = [
    lambda store, name: store.get(name),
    lambda store, name: store.get_range(name, 0, 1),
    lambda store, name: store.stat(name),
    lambda store, name: put(store, name, b"not ours"),
    lambda store, name: list(store.list("")),
]


@pytest.mark.parametrize("call", range(len(CALLS)))
@pytest.mark.parametrize("where", ["file", "folder", "dangling"])
def test_a_symbolic_link_is_never_followed(
    call: int, where: str, store: LocalStore, outside: Path, tmp_path: Path
) -> None:
    put(store, "real/a", b"x")
    root = tmp_path / "repository"
    if where == "folder":
        (root / "packs").symlink_to(outside)
    else:
        (root / "packs").mkdir()
        (root / "packs/a").symlink_to(outside / ("a" if where == "file" else "new"))
    with pytest.raises(Damaged):
        CALLS[call](store, "packs/a")
    assert files_below(outside) == ["a"]


def test_a_delete_through_a_link_takes_nothing_outside(store: LocalStore, outside: Path, tmp_path: Path) -> None:
    put(store, "real/a", b"x")
    (tmp_path / "repository/packs").symlink_to(outside)
    with pytest.raises(Damaged):
        store.delete("packs/a")
    (tmp_path / "repository/link").symlink_to(outside / "a")
    store.delete("link")
    assert files_below(outside) == ["a"]


def test_the_root_may_be_a_link_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "repository").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "repository")
    put(store, "packs/a", b"x")
    assert files_below(tmp_path / "disk") == ["packs/a"]


@pytest.mark.timeout(20)
def test_a_fifo_among_the_objects_is_damage_and_does_not_hang(store: LocalStore, tmp_path: Path) -> None:
    put(store, "packs/a", b"x")
    os.mkfifo(tmp_path / "repository/packs/b")
    for call in CALLS:
        with pytest.raises(Damaged, match="packs/b"):
            call(store, "packs/b")


def test_a_missing_directory_is_no_empty_repository(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "not-mounted", create=False)
    calls: list[Callable[[], object]] = [
        lambda: list(store.list("")),
        lambda: store.get("x"),
        lambda: put(store, "x", b"x"),
        lambda: store.delete("x"),
        store.now,
        store.free_bytes,
    ]
    for call in calls:
        with pytest.raises(StoreError, match="does not exist") as caught:
            call()
        assert type(caught.value) is StoreError
        assert "mounted" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_under_a_listing_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    for name in ("a/1", "b/1"):
        put(store, name, b"x")
    listing = store.list("")
    assert next(listing).name == "a/1"
    (tmp_path / "repository/b").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="vanished"):
        list(listing)


def test_an_object_deleted_under_a_listing_is_not_an_error(store: LocalStore) -> None:
    for name in ("a/1", "a/2", "b/1"):
        put(store, name, b"x")
    listing = store.list("")
    assert next(listing).name == "a/1"
    store.delete("a/2")
    assert [entry.name for entry in listing] == ["b/1"]


def test_a_full_disk_is_said_to_be_full_and_nothing_is_left(small_disk: Path) -> None:
    store = LocalStore(small_disk / "r")
    put(store, "packs/a", bytes(100_000))
    with pytest.raises(StoreFull, match="packs/b"):
        put(store, "packs/b", bytes(2_000_000))
    assert names(store) == ["packs/a"]
    put(store, "packs/c", bytes(500_000))


LIMITED = """
import hashlib, resource, sys
from mingus_engine.errors import StoreFull
from mingus_engine.store.local import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
data = bytes(20_000)
try:
    LocalStore(sys.argv[1]).put("packs/a", data, size=len(data), sha256=hashlib.sha256(data).digest())
except StoreFull:
    sys.exit(5)
"""


def test_a_limit_on_file_sizes_is_a_full_store(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / "r"], check=False, env=environment)
    assert done.returncode == 5
    assert names(LocalStore(tmp_path / "r")) == []


def test_a_read_only_disk_can_be_read_and_refuses_puts(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    put(store, "packs/a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert store.get("packs/a") == b"x"
    assert names(store) == ["packs/a"]
    put(store, "packs/a", b"x")  # it is there: nothing has to be written
    for call in (
        lambda: put(store, "packs/b", b"x"),
        lambda: put(store, "new/b", b"x"),
        lambda: store.delete("packs/a"),
    ):
        with pytest.raises(StoreDenied):
            call()
    assert abs(store.now().timestamp() - time.time()) < 5


DENIED = """
import hashlib, os, sys
from mingus_engine.errors import StoreDenied
from mingus_engine.store.local import LocalStore
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = LocalStore(sys.argv[1], create=False)
refused = 0
for call in (
    lambda: store.put("packs/b", b"x", size=1, sha256=hashlib.sha256(b"x").digest()),
    lambda: store.delete("packs/a"),
    lambda: list(store.list("")),
    lambda: store.get("secret/a"),
):
    try:
        call()
    except StoreDenied:
        refused += 1
store.now()
sys.exit(refused)
"""


def test_missing_rights_are_denied_and_a_listing_is_not_short(tmp_path: Path) -> None:
    root = tmp_path / "r"
    store = LocalStore(root, folder_mode=0o755)
    put(store, "packs/a", b"x")
    put(store, "secret/a", b"x")
    (root / "packs").chmod(0o555)
    (root / "secret").chmod(0o000)
    root.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run([sys.executable, "-c", DENIED, root], check=False, env=environment)
    finally:
        for path in (root, root / "packs", root / "secret"):
            path.chmod(0o755)
    assert done.returncode == 4
    assert names(store) == ["packs/a", "secret/a"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ESTALE, StoreUnreachable),
        (errno.ENOTCONN, StoreUnreachable),
        (errno.ETIMEDOUT, StoreUnreachable),
        (errno.EIO, StoreError),
        (errno.ENOENT, StoreError),
        (errno.ELOOP, Damaged),
    ],
)
def test_an_error_of_the_system_is_one_of_ours(number: int, expected: type[MingusError]) -> None:
    error = translated(OSError(number, "x"), "put", "/srv/r", "packs/a")
    assert type(error) is expected
    assert "packs/a" in error.message
    assert "/srv/r" in error.message


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_of_objects_does_not_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        put(LocalStore(tmp_path / "r"), "packs/a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r/packs/a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "r/packs").stat().st_mode) == 0o750 & ~umask


def test_a_store_on_a_file_system_without_unnamed_files_keeps_its_clock(
    store: LocalStore, tmp_path: Path, without_unnamed_files: None
) -> None:
    put(store, "packs/a", b"x")
    assert abs(store.now() - store.stat("packs/a").modified) < timedelta(seconds=5)
    assert files_below(tmp_path / "repository") == ["packs/a"]


def test_no_descriptor_is_left_open(store: LocalStore, tmp_path: Path) -> None:
    def work() -> None:
        put(store, "packs/a", b"x")
        put(store, "packs/b", b"y", io.BytesIO(b"y"))
        store.get("packs/a")
        list(store.list(""))
        store.delete("packs/b")
        store.now()
        for call in (lambda: store.get("no/no"), lambda: put(store, "packs/a", b"z")):
            with pytest.raises(MingusError):
                call()

    work()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted while listed
    for _ in range(20):
        work()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    size = 96 * 1024 * 1024
    script = f"""
import hashlib, io, resource, sys
from mingus_engine.store.local import LocalStore
class Zeros(io.RawIOBase):
    def __init__(self): self.at = 0
    def seek(self, offset, whence=0):
        self.at = offset if whence == 0 else {size} + offset
        return self.at
    def read(self, count=-1):
        data = bytes(min(count, {size} - self.at)); self.at += len(data); return data
digest = hashlib.sha256()
for _ in range({size} // 1048576): digest.update(bytes(1048576))
store = LocalStore(sys.argv[1])
store.put("warm", b"", size=0, sha256=hashlib.sha256(b"").digest())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put("packs/a", Zeros(), size={size}, sha256=digest.digest())
store.put("packs/a", Zeros(), size={size}, sha256=digest.digest())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "r"],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert int(done.stdout) < 8 * 1024, "KiB"
