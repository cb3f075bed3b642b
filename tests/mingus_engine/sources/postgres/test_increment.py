"""``INCREMENTAL.*`` members merged as they come, against a merge written down plainly; and what is refused."""

from __future__ import annotations

import io
import struct
import tarfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine.bounds import PAGE_BYTES, RELATION_SEGMENT_BLOCKS, SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.sources.base import Stretches
from mingus_engine.sources.postgres.tar import ReadyItem, TarReader
from mingus_engine.sources.slabs import SlabPool

MAGIC = 0xD3AE1F0D
PER_SLAB = SLAB_BYTES // PAGE_BYTES


def page(block: int, generation: int = 1) -> bytes:
    return struct.pack("<II", block, generation) * (PAGE_BYTES // 8)


def increment(blocks: list[int], truncated: int) -> bytes:
    header = struct.pack(f"<III{len(blocks)}I", MAGIC, len(blocks), truncated, *blocks)
    if blocks:
        header += bytes(-len(header) % PAGE_BYTES)
    return header + b"".join(map(page, blocks))


def archive(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def merged(raw: bytes, parents: dict[bytes, int], cuts: list[int] | None = None) -> dict[bytes, bytes]:
    """The files of an archive; a page of the parent is ``page(block, 0)``."""
    reader = TarReader(SlabPool(4, threading.Event()), lambda _: None, parents.get)
    reader.begin(b"")
    found: dict[bytes, bytearray] = {}
    ended: dict[bytes, int] = {}

    def take(items: list[ReadyItem]) -> None:
        for item in items:
            content = found.setdefault(item.file.path, bytearray())
            assert item.file.path not in ended
            assert item.offset == len(content)
            assert item.offset % SLAB_BYTES == 0
            assert item.length <= SLAB_BYTES
            data = item.read(memoryview(b""))
            if isinstance(data, Stretches):
                assert data.length == item.length
                for s in data.stretches:
                    assert s.offset == len(content)
                    if s.data is not None:
                        content += s.data
                    elif s.parent:
                        assert s.offset + s.length <= parents[item.file.path]
                        content += b"".join(
                            page(b // PAGE_BYTES, 0) for b in range(s.offset, s.offset + s.length, PAGE_BYTES)
                        )
                    else:
                        content += bytes(s.length)
            elif data is not None:
                content += data
            if item.last:
                ended[item.file.path] = item.file.size
            item.release()

    at = 0
    for cut in cuts or []:
        take(reader.feed(memoryview(raw)[at : at + cut]))
        at += cut
    take(reader.feed(memoryview(raw)[at:]))
    reader.end()
    assert ended == {path: len(content) for path, content in found.items()}
    return {path: bytes(content) for path, content in found.items()}


def expected(blocks: list[int], truncated: int, parent_blocks: int) -> bytes:
    """The rule of reconstruct.c, block by block."""
    length = max(truncated, max(blocks, default=-1) + 1)
    return b"".join(
        page(b) if b in blocks else page(b, 0) if b < min(truncated, parent_blocks) else bytes(PAGE_BYTES)
        for b in range(length)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2 * PER_SLAB + 9), unique=True, max_size=40).map(sorted),
    st.one_of(st.integers(0, 12), st.integers(PER_SLAB - 2, 3 * PER_SLAB)),
    st.one_of(st.integers(0, 12), st.integers(PER_SLAB - 2, 3 * PER_SLAB)),
    st.lists(st.integers(1, 3 * PAGE_BYTES), max_size=20),
)
def test_an_increment_is_merged_by_the_rule_of_pg_combinebackup(
    blocks: list[int], truncated: int, parent_blocks: int, cuts: list[int]
) -> None:
    raw = archive(("base/5/INCREMENTAL.7", increment(blocks, truncated)), ("base/5/8", b"after it"))
    found = merged(raw, {b"base/5/7": parent_blocks * PAGE_BYTES}, cuts)
    assert found.pop(b"base/5/8") == b"after it"
    assert found == {b"base/5/7": expected(blocks, truncated, parent_blocks)}


def test_a_truncation_length_beyond_the_segment_is_taken_as_the_segment() -> None:
    raw = archive(("base/5/INCREMENTAL.7", increment([], RELATION_SEGMENT_BLOCKS + 5)))
    reader = TarReader(SlabPool(1, threading.Event()), lambda _: None, lambda _: 1 << 30)
    reader.begin(b"")
    items = reader.feed(memoryview(raw))
    assert items[-1].file.size == 1 << 30
    assert sum(item.length for item in items) == 1 << 30


def test_a_file_that_only_looks_like_an_increment_is_a_file_in_a_full_backup() -> None:
    raw = archive(("base/5/INCREMENTAL.7", b"mine"))
    reader = TarReader(SlabPool(1, threading.Event()), lambda _: None)
    reader.begin(b"")
    (item,) = reader.feed(memoryview(raw))
    assert item.file.path == b"base/5/INCREMENTAL.7"


@pytest.mark.parametrize(
    "content",
    [
        b"short",
        struct.pack("<III", MAGIC + 1, 0, 0),
        struct.pack("<III", MAGIC, 0, 0) + b"x",
        struct.pack("<III", MAGIC, 1, 0) + bytes(8180),
        struct.pack("<III", MAGIC, 2**32 - 1, 0) + bytes(PAGE_BYTES),
        increment([3, 3], 0),
        increment([4, 3], 0),
        increment([RELATION_SEGMENT_BLOCKS], 0),
        increment([1, 2], 0)[:-1],
    ],
    ids=["short", "magic", "longer", "no block", "count", "twice", "descending", "beyond the segment", "cut"],
)
def test_an_increment_that_is_not_well_formed_ends_the_backup(content: bytes) -> None:
    with pytest.raises(BackupBroken, match=r"not well-formed|ends inside"):
        merged(archive(("base/5/INCREMENTAL.7", content)), {b"base/5/7": 5 * PAGE_BYTES})


def test_an_increment_of_a_file_that_the_parent_does_not_have_ends_the_backup() -> None:
    with pytest.raises(BackupBroken, match="does not have"):
        merged(archive(("base/5/INCREMENTAL.7", increment([1], 2))), {})
