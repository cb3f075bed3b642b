"""Restores into directories that others write into: nothing leads out of them, nothing of others is clobbered."""

import ctypes
import os
import threading
from pathlib import Path

import pytest

from mingus_engine.codec.entries import Entry
from mingus_engine.errors import Damaged, TargetError
from mingus_engine.targets.base import EntryKind
from mingus_engine.targets.files.live import LiveTarget

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


def entry(path: bytes, size: int = 3) -> Entry:
    return Entry(path, EntryKind.FILE, 0o644, os.geteuid(), os.getegid(), 5, size)


def live(top: Path, **options: object) -> LiveTarget:
    target = LiveTarget(top, owner_of=lambda _: None, durable=False, **options)  # type: ignore[arg-type]
    target.stand(create=True)
    return target


def put(target: LiveTarget, path: bytes, *, replace: bool = True) -> bool:
    one = entry(path)
    return target.put(one, lambda made: target.write_small(made, [(0, memoryview(b"new"), 3)]), replace=replace)


@pytest.mark.parametrize("path", [b"../x", b"/x", b"a/../../x", b"a//x", b"a/./x", b"a\0b", b"", b"."])
def test_hostile_paths_are_refused(tmp_path: Path, path: bytes) -> None:
    for options in ({}, {"originals": {b"a": os.fsencode(tmp_path / "a")}}):
        target = live(tmp_path / "t", **options)
        try:
            with pytest.raises(Damaged):
                put(target, path)
            with pytest.raises(Damaged):
                target.look(path)
            with pytest.raises(Damaged):
                target.remove(path, folder=False)
        finally:
            target.close()


def test_what_appeared_meanwhile_is_not_clobbered(tmp_path: Path) -> None:
    target = live(tmp_path)
    (tmp_path / "file").write_text("of somebody")
    assert not put(target, b"file", replace=False)
    assert (tmp_path / "file").read_text() == "of somebody"
    assert put(target, b"other", replace=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]
    target.close()


def test_a_directory_that_is_exchanged_for_a_link_again_and_again_leads_nowhere(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    for folder in (outside, top, top / "a"):
        folder.mkdir()
    (outside / "file").write_text("theirs")
    (top / "link").symlink_to(outside)
    done, libc = threading.Event(), ctypes.CDLL(None)

    def exchange() -> None:
        while not done.is_set():
            assert libc.renameat2(-100, os.fsencode(top / "a"), -100, os.fsencode(top / "link"), 2) == 0

    thread = threading.Thread(target=exchange)
    thread.start()
    refused = written = 0
    try:
        while not (refused and written) and refused + written < 20_000:
            target = live(top)
            try:
                put(target, b"a/file")
                target.amend(entry(b"a/file"))
                target.remove(b"a/file", folder=False)
                written += 1
            except TargetError:
                refused += 1
            finally:
                target.close()
    finally:
        done.set()
        thread.join()
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("file", "theirs")]
    assert refused
    assert written


@root_only
def test_a_link_of_another_user_on_the_way_to_a_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "tree").mkdir(parents=True)
    (tmp_path / "way").symlink_to("real")
    originals = {b"tree": os.fsencode(tmp_path / "way" / "tree")}
    live(tmp_path, originals=originals).close()
    os.chown(tmp_path / "way", 12345, 12345, follow_symlinks=False)
    with pytest.raises(TargetError, match="is a link that belongs to user 12345"):
        live(tmp_path, originals=originals)
