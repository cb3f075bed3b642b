import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine import bounds, ulids
from mingus_engine.codec import entries as codec
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.entries import BlobRef, Extent, RunTable
from mingus_engine.jobs.file_map import FileMap
from mingus_engine.sources.base import FileKind, SourceFile

BLOCK = bounds.BLOCK_BYTES
RUN = ulids.new()


class Blobs:
    """Blobs by the place they were put to."""

    def __init__(self) -> None:
        self.put_ones: list[tuple[BlobKind, bytes]] = []

    def put(self, kind: BlobKind, raw: bytes) -> BlobRef:
        self.put_ones.append((kind, raw))
        return BlobRef(RUN, 1, len(self.put_ones) - 1, len(raw))


def new_map(size: int = 0) -> FileMap:
    return FileMap(SourceFile(b"f", FileKind.FILE, 0o600, size=size))


def piece(offset: int, length: int, seed: int = 0) -> tuple[int, int, list[Extent], bytes]:
    """One extent, and a hash per block that says which block of the file it is."""
    blocks = range(offset // BLOCK, -(-(offset + length) // BLOCK))
    hashes = b"".join(b.to_bytes(16, "big") for b in blocks)
    return offset, length, [Extent(offset, length, 0, 0, offset % 2**31, 100, 0)] if length else [], hashes


@settings(max_examples=40)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=20), st.integers(1, BLOCK), st.randoms())
def test_pieces_in_any_order_make_one_gapless_entry(lengths: list[int], tail: int, r) -> None:  # type: ignore[no-untyped-def]
    pieces, at = [], 0
    for blocks in lengths:
        pieces.append(piece(at, blocks * BLOCK))
        at += blocks * BLOCK
    pieces.append(piece(at, tail))
    at += tail
    r.shuffle(pieces)
    m = new_map(at)
    for i in range(len(pieces)):
        m.submit(i == len(pieces) - 1)
    finished = [m.piece(*p) for p in pieces]
    assert finished == [False] * (len(pieces) - 1) + [True], "the last one done, and only that, finishes the file"
    entry = m.entry(RunTable([RUN]), Blobs().put)
    assert entry is not None
    found = codec.decode_extents(entry.extents, "x")
    assert (found[0].offset, found[-1].offset + found[-1].length, entry.size) == (0, at, at)
    assert entry.hashes == b"".join(b.to_bytes(16, "big") for b in range(-(-at // BLOCK)))


def test_a_file_is_not_finished_before_its_last_item_was_submitted() -> None:
    m = new_map()
    m.submit(False)
    assert not m.piece(*piece(0, BLOCK))
    m.submit(True)
    assert m.piece(*piece(BLOCK, 5))


def test_a_hole_in_what_could_be_read_cuts_the_file_before_it() -> None:
    m = new_map()
    for i in range(3):
        m.submit(i == 2)
    m.piece(*piece(0, BLOCK))
    m.piece(*piece(BLOCK, 0))
    assert m.piece(*piece(2 * BLOCK, BLOCK))
    entry = m.entry(RunTable([RUN]), Blobs().put)
    assert entry is not None
    assert entry.size == BLOCK


def test_a_vanished_file_has_no_entry_whichever_item_noticed() -> None:
    m = new_map()
    m.submit(False)
    m.submit(True)
    assert not m.vanish()
    assert m.piece(*piece(BLOCK, BLOCK))
    assert m.entry(RunTable([RUN]), Blobs().put) is None


@pytest.mark.parametrize("step", [4, 5, 7], ids=lambda n: f"items of {n} blocks")
def test_a_large_files_map_is_cut_at_every_span(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAP_SPAN_BYTES", 8 * BLOCK)
    size = 35 * BLOCK + 99
    m, blobs, table = new_map(size), Blobs(), RunTable([RUN])
    offsets = list(range(0, size, step * BLOCK))
    random.Random(step).shuffle(offsets)
    for i in range(len(offsets)):
        m.submit(i == len(offsets) - 1)
    for at in offsets:
        m.piece(*piece(at, min(step * BLOCK, size - at)))
    entry = m.entry(table, blobs.put)
    assert entry is not None
    assert (entry.extents, entry.hashes) == (b"", b"")
    at, hashes = 0, b""
    for i, (where_extents, where_hashes) in enumerate(entry.map_locations()):
        kind, raw = blobs.put_ones[where_extents.position]
        assert kind is BlobKind.EXTENTS
        _, found = codec.decode_extents_blob(raw, "x")
        assert found[0].offset == at == i * 8 * BLOCK
        at = found[-1].offset + found[-1].length
        assert at <= (i + 1) * 8 * BLOCK, "no extent crosses the bound"
        for extent in found:
            start = extent.offset - extent.blob_offset
            assert start % (step * BLOCK) == 0, "a cut extent still points to its own bytes"
        kind, raw = blobs.put_ones[where_hashes.position]
        assert kind is BlobKind.HASHES
        assert len(raw) == 16 * -(-(at - i * 8 * BLOCK) // BLOCK)
        hashes += raw
    assert at == size == entry.size
    assert hashes == b"".join(b.to_bytes(16, "big") for b in range(36))


def test_a_fragmented_file_moves_its_map_out_of_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ENTRY_INLINE_MAX_BYTES", 10 * 48)
    for blocks, inline in ((10, True), (11, False)):
        m = new_map()
        for i in range(blocks):
            m.submit(i == blocks - 1)
            m.piece(*piece(i * BLOCK, BLOCK))
        entry = m.entry(RunTable([RUN]), Blobs().put)
        assert entry is not None
        assert (bool(entry.extents), bool(entry.maps)) == (inline, not inline)
