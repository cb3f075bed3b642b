"""The bytes of an RDB cut into items: every one of them, in order, and only if the RDB is whole."""

from __future__ import annotations

import random
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine.bounds import BLOCK_BYTES, SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.redis.rdb_format import crc64
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.redis import rdb_stream
from mingus_engine.sources.redis.rdb_stream import Framing, RdbStream, TransferCut
from mingus_engine.sources.slabs import SlabPool

FILE = SourceFile(b"dump.rdb", FileKind.FILE, 0o640)
MARK = b"0123456789abcdef" * 2 + b"01234567"


def made_rdb(size: int = 0, *, checksum: bool = True) -> bytes:
    """One string key of *size* bytes of noise, at most 2^32."""
    noise = random.Random(size).randbytes(size)
    body = b"REDIS0010\xfe\x00\x00\x01k\x80" + size.to_bytes(4, "big") + noise + b"\xff"
    return body + (crc64(body, 0) if checksum else 0).to_bytes(8, "little")


class Sender:
    """Gives *data* in pieces of at most *piece* bytes."""

    def __init__(self, data: bytes, piece: int = 1 << 30) -> None:
        self.data, self.piece, self.at = data, piece, 0

    def __call__(self, target: memoryview) -> int:
        count = min(len(target), self.piece, len(self.data) - self.at)
        target[:count] = self.data[self.at : self.at + count]
        self.at += count
        return count


def received(data: bytes, framing: Framing, piece: int = 1 << 30, *, walk: bool = False) -> tuple[bytes, RdbStream]:
    """What the items hold; they must be as the contract of sources wants them."""
    pool = SlabPool(3, threading.Event())
    stream = RdbStream(FILE, "server", pool, Sender(data, piece), walk=walk)
    got, ended = bytearray(), False
    for item in stream.items(framing):
        assert not ended
        assert item.offset == len(got)
        assert item.last or item.length == SLAB_BYTES
        got += item.read(memoryview(b"")) or b""
        ended = item.last
        item.release()
    assert ended
    held = [pool.take() for _ in range(3)]  # all slabs came back
    assert len(held) == 3
    return bytes(got), stream


def framed(rdb: bytes, kind: str) -> tuple[bytes, Framing]:
    """What a server sends behind the first line."""
    return (rdb, Framing(length=len(rdb))) if kind == "length" else (rdb + MARK, Framing(mark=MARK))


KINDS = pytest.mark.parametrize("kind", ["length", "mark"])
# The mark, and the end of the RDB before it, around the ends of slabs.
SIZES = [0, 1, BLOCK_BYTES, *(SLAB_BYTES + near for near in (-90, -66, -65, -64, -40, -25, -24, -1, 0, 1, 40)),
         2 * SLAB_BYTES - 50, 3 * SLAB_BYTES]  # fmt: skip


@KINDS
@pytest.mark.parametrize("size", SIZES)
def test_every_byte_arrives_whatever_the_size(kind: str, size: int) -> None:
    rdb = made_rdb(size)
    got, stream = received(*framed(rdb, kind))
    assert got == rdb
    assert stream.facts is not None
    assert stream.facts.bytes == stream.received_bytes == len(rdb)
    small = len(rdb) <= rdb_stream.COUNTED_MAX_BYTES
    assert (stream.counted is not None) == small
    assert stream.counted is None or stream.counted.keys == 1


@settings(max_examples=60)
@given(piece=st.integers(1, 3000), size=st.integers(0, 5000), kind=st.sampled_from(["length", "mark"]))
def test_every_byte_arrives_whatever_the_pieces(piece: int, size: int, kind: str) -> None:
    rdb = made_rdb(size)
    assert received(*framed(rdb, kind), piece)[0] == rdb


@KINDS
def test_a_change_of_any_byte_is_refused(kind: str) -> None:
    rdb = made_rdb(20)
    for at in range(len(rdb)):
        changed = bytearray(rdb)
        changed[at] ^= 0x01
        with pytest.raises(BackupBroken):
            received(*framed(bytes(changed), kind))


@KINDS
def test_an_rdb_that_ends_early_anywhere_is_refused(kind: str) -> None:
    rdb = made_rdb(20)
    whole, framing = framed(rdb, kind)
    for length in range(len(whole)):
        with pytest.raises(TransferCut, match=f"after {min(length, len(whole))} bytes"):
            received(whole[:length], framing)
    for length in range(len(rdb)):  # the server itself thinks that this is all
        with pytest.raises(BackupBroken):
            received(*framed(rdb[:length], kind))


@KINDS
@pytest.mark.parametrize(
    "tail", [b"x", b"\n", b"\n\n", b"*1\r\n$4\r\nPING\r\n", made_rdb(20)[-100:], bytes(8), bytes(9)]
)
def test_anything_behind_the_end_is_refused(kind: str, tail: bytes) -> None:
    with pytest.raises(BackupBroken):
        received(*framed(made_rdb(20) + tail, kind))


@KINDS
def test_what_has_no_checksum_is_walked_or_refused(kind: str) -> None:
    rdb = made_rdb(9 << 20, checksum=False)
    with pytest.raises(BackupBroken, match="no checksum"):
        received(*framed(rdb, kind))
    got, stream = received(*framed(rdb, kind), walk=True)
    assert got == rdb
    assert stream.counted is not None
    assert stream.counted.keys == 1
    for damaged in (rdb[:-9] + bytes(9), rdb[:5] + b"0099" + rdb[9:], rdb[:11] + b"\x77" + rdb[12:]):
        with pytest.raises(BackupBroken):
            received(*framed(damaged, kind), walk=True)


def test_a_reader_that_stops_lets_go_of_everything() -> None:
    pool = SlabPool(3, threading.Event())
    rdb = made_rdb(9 << 20)
    before = threading.active_count()
    stream = RdbStream(FILE, "server", pool, Sender(rdb), walk=True)
    with closing(stream.items(Framing(length=len(rdb)))) as items:
        next(items).release()
    assert len([pool.take() for _ in range(3)]) == 3
    assert threading.active_count() == before
