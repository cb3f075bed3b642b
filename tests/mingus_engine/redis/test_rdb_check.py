"""A stream is a whole RDB, or it is refused: truncated, flipped, with a stale tail."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.redis.rdb_check import RdbCheck, RdbFacts
from mingus_engine.redis.rdb_format import crc64, unpack_lzf


def aux(key: bytes, value: bytes) -> bytes:
    return b"\xfa" + bytes([len(key)]) + key + bytes([len(value)]) + value


def rdb(keys: int = 3, magic: bytes = b"REDIS0010", *, checksum: bool = True) -> bytes:
    """A small RDB as Redis 7.0 writes it."""
    body = magic + aux(b"redis-ver", b"7.0.15") + aux(b"redis-bits", b"64")[:-3] + b"\xc0\x40"
    body += aux(b"repl-id", b"f" * 40) + b"\xfa\x0brepl-offset\xc1\x39\x30" + b"\xfe\x00\xfb" + bytes([keys, 0])
    for i in range(keys):
        body += b"\x00\x05key-%d" % i + b"\x05value"
    body += b"\xff"
    return body + (crc64(body) if checksum else 0).to_bytes(8, "little")


def check(data: bytes, step: int = 1 << 20) -> RdbFacts:
    checking = RdbCheck("the RDB")
    for at in range(0, len(data), step):
        checking.feed(memoryview(data)[at : at + step])
    return checking.finish()


def test_a_whole_rdb_is_taken_and_says_what_it_is() -> None:
    facts = check(rdb())
    assert facts == RdbFacts(
        10, len(rdb()), True,
        {"redis-ver": "7.0.15", "redis-bits": "64", "repl-id": "f" * 40, "repl-offset": "12345"},
    )  # fmt: skip
    assert facts.server_version == "7.0.15"


@given(st.integers(1, 40))
def test_pieces_of_any_size_give_the_same(step: int) -> None:
    assert check(rdb(), step) == check(rdb())
    assert check(rdb() + b"\n", step) == check(rdb())


def test_one_newline_may_follow_and_is_not_counted() -> None:
    assert check(rdb() + b"\n") == check(rdb())


@pytest.mark.parametrize("tail", [b"\0", b"\n\n", b"x", b"\xff", b"\0" * 8, rdb(1)[9:]])
def test_anything_else_behind_the_end_is_refused(tail: bytes) -> None:
    with pytest.raises(Damaged, match="not whole"):
        check(rdb() + tail)


def test_the_stale_tail_of_a_longer_file_is_refused() -> None:
    older, newer = rdb(30), rdb(2)
    with pytest.raises(Damaged, match="not whole"):
        check(newer + older[len(newer) :])


def test_every_shorter_stream_is_refused() -> None:
    whole = rdb()
    for end in range(len(whole)):
        with pytest.raises(Damaged, match=r"the RDB: (is not whole|ends after|does not begin)"):
            check(whole[:end])


def test_every_flipped_bit_is_refused() -> None:
    whole = rdb()
    for at in range(len(whole)):
        for bit in range(8):
            with pytest.raises(Damaged):
                check(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])


def test_an_rdb_without_a_checksum_says_so() -> None:
    facts = check(rdb(checksum=False))
    assert not facts.checksum
    assert facts.bytes == len(rdb())


@pytest.mark.parametrize("magic", [b"REDIS0013", b"REDIS0005", b"VALKEY011", b"REDIS0080", b"REDIS 10", b"RUDIS0010"])
def test_an_unknown_version_is_refused_at_the_beginning(magic: bytes) -> None:
    with pytest.raises(Damaged, match=r"not known|does not begin"):
        RdbCheck().feed(rdb(magic=magic))


def test_valkeys_version_is_known() -> None:
    assert check(rdb(magic=b"VALKEY080")).version == 80


def test_the_error_names_a_newer_version_and_those_that_are_known() -> None:
    with pytest.raises(Damaged, match="RDB version 14") as caught:
        RdbCheck().feed(rdb(magic=b"REDIS0014"))
    assert "6 to 12" in caught.value.hint


def test_a_compressed_string_unpacks_and_a_bomb_is_refused() -> None:
    assert unpack_lzf(b"\x01ab\xe0\x01\x01", 2 + 10, "x") == b"ab" * 6
    for packed, length in [(b"\x01ab", 3), (b"\x01ab", 1), (b"\xe0", 9), (b"\xe0\xff\x05", 264), (b"\x00a", 1 << 40)]:
        with pytest.raises(Damaged):
            unpack_lzf(packed, length, "x")


@given(st.binary(max_size=60), st.integers(0, 400))
def test_garbage_is_never_taken_for_a_compressed_string_of_another_length(packed: bytes, length: int) -> None:
    with suppress(Damaged):
        assert len(unpack_lzf(packed, length, "x")) == length
