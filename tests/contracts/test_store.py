"""The contract of ``mingus_engine.store.base``, sentence by sentence, for every store and every wrapper."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine.errors import Damaged, MingusError, ObjectMissing
from mingus_engine.settings import RepositorySettings, S3Settings
from mingus_engine.store import unnamed
from mingus_engine.store.base import Store
from mingus_engine.store.faulty import FaultyStore
from mingus_engine.store.local import LocalStore
from mingus_engine.store.opening import open_store
from mingus_engine.store.retrying import RetryingStore
from mingus_engine.store.s3 import S3Store
from mingus_engine.store.throttled import ThrottledStore
from tests.support.s3 import S3Bucket

FAST = 10**12  # a bandwidth that never makes a test wait

LOCAL = ["local", "local-named", "retrying", "throttled", "faulty", "opened"]
REMOTE = ["rclone-sha256", "rclone-md5", "rclone-none", "moto-sha256"]


@dataclass
class Subject:
    """A store under test, and how its objects can be put there behind its back."""

    kind: str
    store: Store
    plant: Callable[[str, bytes], None]
    secrets: tuple[str, ...] = ()


def s3_settings(bucket: S3Bucket, **changes: Any) -> S3Settings:
    values = {"bucket": bucket.name, "prefix": "some/where", "endpoint": bucket.server.endpoint, "tls": False}
    return S3Settings(**{**values, **changes})


@pytest.fixture(params=LOCAL + REMOTE)
def subject(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    kind: str = request.param
    if kind in REMOTE:
        server, _, checksum = kind.partition("-")
        bucket: S3Bucket = request.getfixturevalue(f"{server}_s3")
        made = _s3_subject(kind, bucket, checksum)
    else:
        if kind == "local-named":
            monkeypatch.setattr(unnamed, "create", _no_unnamed_files)
        made = _local_subject(kind, tmp_path / "repository")
    yield made
    made.store.close()


def _no_unnamed_files(folder: int, mode: int) -> int:
    raise unnamed.NotPossible


def _local_subject(kind: str, root: Path) -> Subject:
    plain = LocalStore(root)
    made: dict[str, Callable[[], Store]] = {
        "local": lambda: plain,
        "local-named": lambda: plain,
        "retrying": lambda: RetryingStore(plain, attempts=3),
        "throttled": lambda: ThrottledStore(plain, FAST),
        "faulty": lambda: FaultyStore(plain),
        "opened": lambda: open_store(
            RepositorySettings(name="r", path=str(root), bandwidth_bytes_per_s=FAST), {}, create=True
        ),
    }

    def plant(name: str, data: bytes) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return Subject(kind, made[kind](), plant)


def _s3_subject(kind: str, bucket: S3Bucket, checksum: str) -> Subject:
    def plant(name: str, data: bytes) -> None:
        if bucket.server.directory is not None:
            path = bucket.server.directory / bucket.name / "some/where" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return
        store._client.put_object(Bucket=bucket.name, Key=f"some/where/{name}", Body=data)

    store = S3Store(s3_settings(bucket, checksum=checksum), bucket.environment())
    return Subject(kind, store, plant, (bucket.server.secret_key, bucket.server.access_key))


def put(store: Store, name: str, data: bytes, body: Any = None) -> None:
    store.put(name, data if body is None else body, size=len(data), sha256=hashlib.sha256(data).digest())


def names(store: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix)]


MakeBody = Callable[[str, bytes], Any]


@pytest.fixture
def make_body(tmp_path: Path) -> Iterator[MakeBody]:
    """A body of a kind of BODIES; files are closed after the test."""
    with ExitStack() as files:

        def make(kind: str, data: bytes) -> Any:
            body = BODIES[kind](data, tmp_path)
            return files.enter_context(body) if hasattr(body, "read") else body

        yield make


def as_spool(data: bytes, directory: Path) -> BinaryIO:
    spool = unnamed.open_spool(directory)
    spool.write(data)
    return spool


def as_named_file(data: bytes, directory: Path) -> BinaryIO:
    path = directory / "body"
    path.write_bytes(data)
    return path.open("rb")


BODIES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, directory: data,
    "bytearray": lambda data, directory: bytearray(data),
    "memoryview": lambda data, directory: memoryview(data),
    "file in memory": lambda data, directory: io.BytesIO(data),
    "spool file": as_spool,
    "named file": as_named_file,
}


@pytest.mark.parametrize("size", [0, 1, 3 * 1024 * 1024 + 17])
def test_what_was_put_comes_back(subject: Subject, size: int, make_body: MakeBody) -> None:
    data = os.urandom(size)
    put_names = [f"packs/{number}" for number in range(len(BODIES))]
    for name, kind in zip(put_names, BODIES, strict=True):
        put(subject.store, name, data, make_body(kind, data))
        assert subject.store.get(name) == data, kind
        info = subject.store.stat(name)
        assert (info.name, info.size) == (name, size)
    assert [(entry.name, entry.size) for entry in subject.store.list("")] == [(name, size) for name in put_names]


@pytest.mark.parametrize("kind_of_body", ["file in memory", "spool file", "named file"])
def test_a_file_is_put_whole_wherever_its_position_is_and_can_be_put_again(
    subject: Subject, kind_of_body: str, make_body: MakeBody
) -> None:
    data = os.urandom(100_000)
    body = make_body(kind_of_body, data)
    body.seek(70_000)
    put(subject.store, "first", data, body)
    put(subject.store, "second", data, body)
    assert subject.store.get("first") == subject.store.get("second") == data


def test_the_same_name_with_the_same_bytes_is_a_success(subject: Subject, make_body: MakeBody) -> None:
    data = os.urandom(5000)
    for kind in BODIES:
        put(subject.store, "records/x", data, make_body(kind, data))
    assert names(subject.store) == ["records/x"]
    assert subject.store.get("records/x") == data


def test_other_bytes_under_a_used_name_are_refused_and_the_first_stay(subject: Subject, make_body: MakeBody) -> None:
    put(subject.store, "records/x", b"these bytes")
    for other in (b"other bytes", b"", b"some other length of bytes"):
        for kind in BODIES:
            with pytest.raises(Damaged, match="records/x"):
                put(subject.store, "records/x", other, make_body(kind, other))
    assert subject.store.get("records/x") == b"these bytes"


def test_a_body_of_another_size_than_promised_leaves_nothing(subject: Subject, make_body: MakeBody) -> None:
    data = os.urandom(1000)
    for kind in BODIES:
        for size in (999, 1001):
            with pytest.raises(Damaged, match="promised"):
                subject.store.put("x", make_body(kind, data), size=size, sha256=hashlib.sha256(data).digest())
    assert names(subject.store) == []


def test_bytes_with_another_digest_than_promised_leave_nothing(subject: Subject, make_body: MakeBody) -> None:
    data = os.urandom(1000)
    # A local store trusts the digest of a file's writer (mingus_engine.store.local says why); no other store does.
    for kind in ("bytes", "file in memory", *(["spool file", "named file"] if subject.kind in REMOTE else [])):
        with pytest.raises(Damaged, match="SHA-256"):
            subject.store.put("x", make_body(kind, data), size=1000, sha256=hashlib.sha256(b"").digest())
    assert names(subject.store) == []
    with pytest.raises(ObjectMissing):
        subject.store.get("x")


def test_a_missing_object_is_said_to_be_missing(subject: Subject) -> None:
    put(subject.store, "packs/a", b"data")
    calls: list[Callable[[Store, str], object]] = [
        lambda store, name: store.get(name),
        lambda store, name: store.get_range(name, 0, 1),
        lambda store, name: store.get_range(name, 0, 0),
        lambda store, name: store.stat(name),
    ]
    for name in ("nothing", "packs/b", "packs", "packs/a.b", "pack"):
        for call in calls:
            with pytest.raises(ObjectMissing) as caught:
                call(subject.store, name)
            assert name in str(caught.value)
            assert subject.store.location in str(caught.value)


def test_an_object_longer_than_expected_is_refused(subject: Subject) -> None:
    put(subject.store, "x", bytes(1000))
    assert subject.store.get("x", max_bytes=1000) == bytes(1000)
    with pytest.raises(Damaged, match="1000 bytes"):
        subject.store.get("x", max_bytes=999)


def test_a_range_is_exact(subject: Subject) -> None:
    data = os.urandom(300_000)
    put(subject.store, "x", data)
    for offset, length in ((0, 1), (0, 300_000), (1, 2), (131_071, 70_000), (299_999, 1), (300_000, 0), (7, 0)):
        assert subject.store.get_range("x", offset, length) == data[offset : offset + length]


def test_a_range_beyond_the_end_is_damage(subject: Subject) -> None:
    put(subject.store, "x", b"0123456789")
    for offset, length in ((0, 11), (9, 2), (10, 1), (11, 0), (5000, 1), (5000, 0)):
        with pytest.raises(Damaged, match="x in"):
            subject.store.get_range("x", offset, length)


def test_a_range_that_is_none_is_refused(subject: Subject) -> None:
    put(subject.store, "x", b"0123456789")
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="range"):
            subject.store.get_range("x", offset, length)


# Chosen so that sorting by folder and sorting by whole name differ: "-" and "." sort before "/".
TREE = ["a-b", "a.b", "a/b-c/x", "a/b.c", "a/b/c", "a/b0", "a0", "a_b", "A", "b/a", "packs/s/r/1.ff", "packs/s2/r/1.ff"]


def test_a_listing_is_in_order_of_whole_names(subject: Subject) -> None:
    for name in reversed(TREE):
        put(subject.store, name, name.encode())
    assert names(subject.store) == sorted(TREE)
    assert [entry.size for entry in subject.store.list("")] == [len(name) for name in sorted(TREE)]


def test_a_prefix_is_any_string_not_only_a_folder(subject: Subject) -> None:
    for name in TREE:
        subject.plant(name, b"")
    for prefix in ("a", "a/", "a/b", "a/b/", "a/b.", "a/b-c/", "packs/s", "packs/s/", "packs/s/r/1", "A", "z", "a/b/c"):
        assert names(subject.store, prefix) == sorted(name for name in TREE if name.startswith(prefix)), prefix


def test_a_listing_is_complete_over_several_pages(subject: Subject) -> None:
    planted = [f"logs/{number:05}" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: subject.plant(name, b"x"), planted))
    assert names(subject.store, "logs/") == planted
    assert names(subject.store) == planted


def test_what_is_no_object_is_not_listed(subject: Subject) -> None:
    put(subject.store, "packs/a", b"data")
    for foreign in (".tmp/0123", "packs/.a.swp", "lost+found/x", "packs/a~"):
        if subject.kind.startswith("rclone") and foreign.startswith(".tmp"):
            continue
        subject.plant(foreign, b"junk")
    assert names(subject.store) == ["packs/a"]


BAD_NAMES = [
    *("", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", ".a", "a/.b", "-a"),
    *("a b", "a\nb", "a\n", "a\0b", "a\\b", "ä", "a/" + "b" * 256, "a/" * 450 + "a"),
]


def test_a_name_that_is_none_is_refused_by_every_call(subject: Subject) -> None:
    calls: list[Callable[[Store, str], object]] = [
        lambda store, name: put(store, name, b"x"),
        lambda store, name: store.get(name),
        lambda store, name: store.get_range(name, 0, 1),
        lambda store, name: store.stat(name),
        lambda store, name: store.delete(name),
    ]
    for name in BAD_NAMES:
        for call in calls:
            with pytest.raises(ValueError, match="not an object name"):
                call(subject.store, name)


def test_a_prefix_that_no_name_can_have_is_refused(subject: Subject) -> None:
    for prefix in ("/", "..", "a//", "../x", "a b", ".tmp"):
        with pytest.raises(ValueError, match="no object name starts with"):
            list(subject.store.list(prefix))


def test_deleting_takes_one_object_and_nothing_else(subject: Subject) -> None:
    for name in ("packs/a", "packs/a.b", "packs/b"):
        put(subject.store, name, b"x")
    subject.store.delete("packs/a")
    assert names(subject.store) == ["packs/a.b", "packs/b"]
    with pytest.raises(ObjectMissing):
        subject.store.get("packs/a")


def test_deleting_what_is_not_there_is_a_success(subject: Subject) -> None:
    put(subject.store, "packs/a", b"x")
    for name in ("nothing", "no/folder/here", "packs/b", "pack"):
        subject.store.delete(name)
    if not subject.kind.startswith("rclone"):  # it takes away the file that stands in the way of a folder
        for name in ("packs/a/b", "packs"):
            subject.store.delete(name)
    assert names(subject.store) == ["packs/a"]


def test_a_deleted_name_can_be_put_again(subject: Subject) -> None:
    put(subject.store, "packs/a", b"one")
    subject.store.delete("packs/a")
    put(subject.store, "packs/a", b"two")
    assert subject.store.get("packs/a") == b"two"


def test_the_stores_clock_dates_its_objects(subject: Subject) -> None:
    before = subject.store.now()
    put(subject.store, "x", b"x")
    info = subject.store.stat("x")
    assert before.tzinfo == info.modified.tzinfo == UTC
    # Whole seconds over HTTP, a few milliseconds of the kernel's coarse clock locally.
    assert before - timedelta(seconds=2) <= info.modified <= subject.store.now() + timedelta(seconds=2)
    assert abs(before - datetime.now(UTC)) < timedelta(seconds=60)
    (listed,) = subject.store.list("x")
    assert abs(listed.modified - info.modified) < timedelta(seconds=1), "a HEAD answer may cut the fraction off"
    assert names(subject.store) == ["x"], "asking for the time left something behind"


def test_free_space_is_told_or_unknown(subject: Subject) -> None:
    put(subject.store, "x", b"x")
    free = subject.store.free_bytes()
    assert free is None if subject.kind in REMOTE else (free is not None and free > 0)


def test_many_threads_use_one_store(subject: Subject) -> None:
    contents = {f"packs/{number % 5}/{number}": os.urandom(20_000) for number in range(40)}
    # rclone's server answers 500 now and then when two put one name at the same moment: to be tried again, as jobs do.
    patient = RetryingStore(subject.store, attempts=5)

    def work(item: tuple[str, bytes]) -> bool:
        name, data = item
        put(subject.store, name, data)
        put(patient, "packs/shared", b"the same from all")
        return subject.store.get(name) == data and subject.store.get_range(name, 100, 100) == data[100:200]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, contents.items()))
    assert names(subject.store) == sorted([*contents, "packs/shared"])


# S3 has no lock between asking and putting, it keeps the last put; names carry digests, so that all are equal.
@pytest.mark.parametrize("subject", LOCAL, indirect=True)
def test_of_threads_that_put_other_bytes_under_one_name_one_wins(subject: Subject) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        try:
            put(subject.store, "x", bytes([number]) * 10_000)
        except Damaged:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, success in enumerate(pool.map(work, range(8))) if success]
    assert len(won) == 1
    assert subject.store.get("x") == bytes(won) * 10_000


def test_closing_twice_is_harmless(subject: Subject) -> None:
    put(subject.store, "x", b"x")
    subject.store.close()
    subject.store.close()


def test_no_error_or_description_holds_a_credential(subject: Subject) -> None:
    shown = [repr(subject.store), subject.store.location]
    put(subject.store, "x", b"x")
    calls: list[Callable[[], object]] = [
        lambda: subject.store.get("nothing"),
        lambda: subject.store.get_range("x", 5, 5),
        lambda: put(subject.store, "x", b"y"),
    ]
    for call in calls:
        with pytest.raises(MingusError) as caught:
            call()
        shown += [str(caught.value), repr(caught.value), caught.value.hint, repr(caught.value.__cause__)]
    assert not [text for text in shown for secret in subject.secrets if secret in text]


def test_features_are_facts_of_the_store(subject: Subject) -> None:
    assert subject.store.features.put_proves_content
    in_place = subject.store.features.durable_local_path
    assert in_place == (subject.kind in {"local", "local-named", "retrying"})
    if in_place:
        put(subject.store, "packs/a", b"in place")
        assert (Path(subject.store.location) / "packs/a").read_bytes() == b"in place"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=200), place=st.tuples(st.integers(0, 250), st.integers(0, 250)))
def test_a_range_is_the_slice_or_damage_for_any_place(data: bytes, place: tuple[int, int], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "r")
    name = hashlib.sha256(data).hexdigest()
    put(store, name, data)
    offset, length = place
    if offset + length <= len(data):
        assert store.get_range(name, offset, length) == data[offset : offset + length]
    else:
        with pytest.raises(Damaged):
            store.get_range(name, offset, length)


part = st.from_regex(r"[ab0_][ab0._-]{0,3}", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tree=st.sets(st.lists(part, min_size=1, max_size=3).map("/".join), max_size=12), prefix=part)
def test_a_listing_is_the_sorted_selection_of_any_tree(tree: set[str], prefix: str, tmp_path_factory: Any) -> None:
    # A name that is another's folder cannot be a file too; stores that could hold both are not asked to.
    tree = {name for name in tree if not any(other.startswith(f"{name}/") for other in tree)}
    store = LocalStore(tmp_path_factory.mktemp("tree"))
    for name in tree:
        put(store, name, b"")
    assert names(store) == sorted(tree)
    assert names(store, prefix) == sorted(name for name in tree if name.startswith(prefix))


# The child puts a body whose second half never comes: the store has taken the first when it is killed.
KILLED = """
import hashlib, io, os, sys, time
from mingus_engine.settings import S3Settings
from mingus_engine.store import unnamed
from mingus_engine.store.local import LocalStore
from mingus_engine.store.s3 import S3Store

kind, place = sys.argv[1:3]
if kind == "s3":
    settings = S3Settings(bucket=place, endpoint=sys.argv[3], tls=False, checksum="none", prefix="some/where")
    store = S3Store(settings, os.environ)
else:
    store = LocalStore(place)
    if kind == "local-named":
        def create(folder, mode):
            raise unnamed.NotPossible
        unnamed.create = create
SIZE = 4 * 1024 * 1024

class Stuck(io.BytesIO):
    def read(self, size=-1):
        # An unencrypted S3 connection reads the body once to sign it.
        self.passed = getattr(self, "passed", 0) + (self.tell() == 0)
        if self.tell() >= SIZE // 2 and self.passed > (kind == "s3"):
            print("half", flush=True)
            time.sleep(600)
        return super().read(size)

data = bytes(SIZE)
store.put("packs/a", Stuck(data), size=SIZE, sha256=hashlib.sha256(data).digest())
"""


@pytest.mark.parametrize("kind", ["local", "local-named", "s3"])
def test_kill_9_during_a_put_leaves_no_object(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arguments = [kind, str(tmp_path / "r")]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    store: Store = LocalStore(tmp_path / "r")
    if kind == "s3":
        bucket: S3Bucket = request.getfixturevalue("rclone_s3")
        arguments = [kind, bucket.name, bucket.server.endpoint]
        environment |= bucket.environment()
        store = S3Store(s3_settings(bucket, checksum="none"), bucket.environment())
    put(store, "packs/before", b"x")
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, env=environment)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert names(store) == ["packs/before"]
    with pytest.raises(ObjectMissing):
        store.get("packs/a")
    whole = bytes(4 * 1024 * 1024)
    put(store, "packs/a", whole)
    assert store.get("packs/a") == whole
    store.close()
