"""Injected faults come when and as they were told: tests of other modules stand on that."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import Damaged, StoreFull, StoreUnreachable
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore


def put(store: Any, name: str, data: bytes = b"data") -> None:
    store.put(name, data, size=len(data), sha256=hashlib.sha256(data).digest())


def build(root: Path, *faults: Fault, **options: Any) -> FaultyStore:
    plain = LocalStore(root)
    for name in ("packs/a", "packs/b", "packs/c"):
        put(plain, name)
    return FaultyStore(plain, faults, **options)


def outcomes(store: FaultyStore, count: int) -> str:
    """``.`` and ``x`` for gets that succeed and fail."""
    result = ""
    for _ in range(count):
        try:
            store.get("packs/a")
            result += "."
        except StoreUnreachable:
            result += "x"
    return result


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("get", "raise"), "x...."),
        (Fault("get", "raise", nth=3), "..x.."),
        (Fault("get", "raise", nth=2, times=2), ".xx.."),
        (Fault("get", "raise", nth=2, times=None), ".xxxx"),
        (Fault("get", "raise", name="packs/[ab]"), "x...."),
        (Fault("get", "raise", name="records/*"), "....."),
        (Fault("stat", "raise", times=None), "....."),
    ],
)
def test_a_fault_comes_at_its_calls_and_no_others(fault: Fault, expected: str, tmp_path: Path) -> None:
    assert outcomes(build(tmp_path, fault), 5) == expected


def test_several_faults_count_their_own_calls(tmp_path: Path) -> None:
    store = build(tmp_path, Fault("get", "raise", nth=1), Fault("get", "raise", nth=3))
    assert outcomes(store, 4) == "x.x."
    store.add(Fault("get", "raise", nth=2))
    assert outcomes(store, 3) == ".x."


def test_a_fault_raises_what_it_was_told(tmp_path: Path) -> None:
    store = build(tmp_path, Fault("put", "raise", error=lambda: StoreFull("no space in the test")))
    with pytest.raises(StoreFull, match="no space in the test"):
        put(store, "packs/new")
    assert [entry.name for entry in store.list("packs/n")] == []


def test_an_error_after_the_deed_leaves_it_done(tmp_path: Path) -> None:
    store = build(tmp_path, Fault("put", "raise_after"), Fault("delete", "raise_after"))
    with pytest.raises(StoreUnreachable):
        put(store, "packs/new")
    with pytest.raises(StoreUnreachable):
        store.delete("packs/a")
    assert [entry.name for entry in store.list("")] == ["packs/b", "packs/c", "packs/new"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (("truncate", -1), b"0123"),
        (("truncate", 2), b"01"),
        (("truncate", 0), b""),
        (("flip", 0), b"1" + b"1234"),
        (("flip", -1), b"0123" + b"5"),
    ],
)
def test_bytes_are_damaged_silently_on_the_way_in_and_out(
    fault: tuple[Any, int], expected: bytes, tmp_path: Path
) -> None:
    action, position = fault
    store = build(tmp_path, *(Fault(op, action, position=position) for op in ("put", "get", "get_range")))  # type: ignore[arg-type]
    put(store, "packs/new", b"01234")
    assert store.inner.get("packs/new") == expected
    put(store, "packs/whole", b"01234")
    assert store.get("packs/whole") == expected
    assert store.get_range("packs/whole", 0, 5) == expected
    assert store.get("packs/whole") == store.get_range("packs/whole", 0, 5) == b"01234"


@pytest.mark.parametrize(
    ("action", "position", "expected"),
    [
        ("drop", 0, "bc"),
        ("drop", -1, "ab"),
        ("drop", 1, "ac"),
        ("duplicate", 1, "abbc"),
        ("duplicate", -1, "abcc"),
    ],
)
def test_a_listing_lacks_or_repeats_an_object(action: Any, position: int, expected: str, tmp_path: Path) -> None:
    store = build(tmp_path, Fault("list", action, position=position))
    assert "".join(entry.name[-1] for entry in store.list("packs/")) == expected
    assert "".join(entry.name[-1] for entry in store.list("packs/")) == "abc"


def test_a_listing_breaks_after_its_position(tmp_path: Path) -> None:
    listing = build(tmp_path, Fault("list", "break", position=1)).list("")
    assert [next(listing).name, next(listing).name] == ["packs/a", "packs/b"]
    with pytest.raises(StoreUnreachable):
        next(listing)


def test_a_delay_waits_and_then_does_it(tmp_path: Path) -> None:
    slept: list[float] = []
    store = build(tmp_path, Fault("get", "delay", delay_s=7.5), sleep=slept.append)
    assert store.get("packs/a") == b"data"
    assert slept == [7.5]


@pytest.mark.parametrize(("action", "there"), [("die", False), ("die_after", True)])
def test_the_process_dies_before_or_after_the_deed(action: str, there: bool, tmp_path: Path) -> None:
    script = f"""
import hashlib, sys
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore
store = FaultyStore(LocalStore(sys.argv[1]), [Fault("put", {action!r}, nth=2)])
for name in ("first", "second", "third"):
    store.put(name, b"x", size=1, sha256=hashlib.sha256(b"x").digest())
"""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "r"], check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    listed = [entry.name for entry in LocalStore(tmp_path / "r").list("")]
    assert listed == (["first", "second"] if there else ["first"])


def test_calls_are_counted_for_tests(tmp_path: Path) -> None:
    store = build(tmp_path)
    store.get("packs/a")
    list(store.list("packs/"))
    with pytest.raises(Damaged):
        store.get_range("packs/b", 0, 100)
    assert [(call.operation, call.name) for call in store.calls] == [
        ("get", "packs/a"),
        ("list", "packs/"),
        ("get_range", "packs/b"),
    ]
