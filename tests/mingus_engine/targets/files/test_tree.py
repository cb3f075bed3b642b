import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine.codec.attributes import Attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.errors import Damaged, TargetError
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.files.tree import TreeTarget

HOSTILE = [
    b"../out",
    b"a/../../out",
    b"/out",
    b"a//b",
    b".",
    b"..",
    b"a/..",
    b"",
    b"a\0b",
    b".mingus-restore-incomplete",
]


def entry(
    path: bytes, kind: FileKind = FileKind.FILE, content: bytes = b"", extra: bytes = b"", **more: object
) -> Entry:
    values = {"mode": 0o640, "uid": 0, "gid": 0, "mtime_ns": 5, "size": len(content), **more}
    return Entry(path, kind, extra=extra, **values)  # type: ignore[arg-type]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[TreeTarget]:
    made = TreeTarget(tmp_path / "target", owner_of=lambda _: None, durable=False)
    made.prepare()
    yield made
    made.close()


def put(target: TreeTarget, path: bytes, content: bytes = b"x") -> None:
    target.write_small(entry(path, content=content), [(0, memoryview(content), len(content))])


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_leads_out_is_refused_in_every_kind(target: TreeTarget, tmp_path: Path, path: bytes) -> None:
    put(target, b"a/file")  # the directory is known and open
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Damaged):
        put(target, path)
    with pytest.raises(Damaged):
        target.make_special(entry(path, FileKind.FIFO))
    with pytest.raises(Damaged):
        target.make_symlink(entry(path, FileKind.SYMLINK, target=b"x"))
    with pytest.raises(Damaged):
        target.make_link(entry(path), b"a/file")
    with pytest.raises(Damaged):
        target.make_link(entry(b"name"), path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_that_the_snapshot_itself_planted_is_not_followed(target: TreeTarget, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target.make_symlink(entry(b"way", FileKind.SYMLINK, target=os.fsencode(outside)))
    for attempt in (
        lambda: put(target, b"way/file"),
        lambda: put(target, b"way"),
        lambda: target.make_special(entry(b"way/fifo", FileKind.FIFO)),
        lambda: target.make_directory(entry(b"way/folder", FileKind.DIRECTORY)),
        lambda: target.make_link(entry(b"name"), b"way/file"),
    ):
        with pytest.raises(TargetError):
            attempt()
    assert not list(outside.iterdir())


def test_a_hard_link_is_made_to_a_file_of_the_restore_only(target: TreeTarget, tmp_path: Path) -> None:
    put(target, b"first", b"content")
    (tmp_path / "secret").write_text("of somebody else")
    target.make_symlink(entry(b"planted", FileKind.SYMLINK, target=os.fsencode(tmp_path / "secret")))
    same = entry(b"sub/second", content=b"content")
    assert not target.make_link(same, b"planted")
    assert not target.make_link(same, b"missing")
    assert not target.make_link(entry(b"sub/second", content=b"another size"), b"first")
    assert target.make_link(same, b"first")
    assert (tmp_path / "target" / "sub" / "second").stat().st_nlink == 2


def test_an_unknown_kind_is_refused(target: TreeTarget) -> None:
    for kind in (0, 1, 7, 255):
        with pytest.raises(Damaged):
            target.make_special(entry(b"thing", kind))  # type: ignore[arg-type]
    with pytest.raises(Damaged):  # a device without its numbers
        target.make_special(entry(b"thing", FileKind.BLOCK_DEVICE))


def test_an_attribute_that_cannot_be_set_is_counted_and_named(target: TreeTarget) -> None:
    extra = Attributes(xattrs=((b"nonsense.name", b"1"),)).encode()
    target.write_small(entry(b"file", content=b"x", extra=extra), [(0, memoryview(b"x"), 1)])
    assert target.lost == {"xattr": 1}
    assert "nonsense.name" in target.named["xattr"][0]
