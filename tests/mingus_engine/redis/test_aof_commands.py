"""Commands in a stream: where each begins and ends, whatever the pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.redis.aof_commands import Scanner, replayable


def command(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[low:high] for low, high in pairwise(places)]


SET = command(b"set", b"k\r\n*1", b"")
PING, GETACK = command(b"PING"), command(b"REPLCONF", b"GETACK", b"*")
PUBLISH = command(b"publish", b"channel", b"text" * 50)
TRANSACTION = command(b"MULTI") + SET + command(b"INCR", b"n") + command(b"EXEC")

streams = st.lists(st.sampled_from([SET, PING, GETACK, PUBLISH, TRANSACTION, command(b"SELECT", b"3")]), max_size=8)


@given(streams, st.lists(st.integers(0, 10_000), max_size=12), st.integers(0, 10_000))
def test_the_last_whole_command_and_transaction_is_found_whatever_the_pieces(
    parts: list[bytes], cuts: list[int], end: int
) -> None:
    data = b"".join(parts)
    data = data[: end % (len(data) + 1)]
    scanner = Scanner("s", at=100)
    for piece in pieces(data, cuts):
        scanner.feed(piece)
    boundaries = [100 + len(b"".join(parts[:n])) for n in range(len(parts) + 1)]
    assert scanner.boundary == max(b for b in boundaries if b <= 100 + len(data))
    assert scanner.position == 100 + len(data)


@given(streams, st.lists(st.integers(0, 10_000), max_size=12))
def test_what_is_replayed_is_all_but_what_is_no_data(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    given_back = b"".join(replayable(pieces(data, cuts), Scanner("s"), len(data)))
    assert given_back == b"".join(part for part in parts if part not in {PING, GETACK, PUBLISH})


def test_an_unfinished_transaction_is_left_out() -> None:
    whole = SET + TRANSACTION
    data = whole + command(b"MULTI") + SET
    scanner = Scanner("s")
    scanner.feed(data)
    assert scanner.boundary == len(whole)
    assert b"".join(replayable([data], Scanner("s"), len(whole))) == whole
    with pytest.raises(Damaged, match="do not end at"):
        list(replayable([data], Scanner("s"), len(data)))


def test_annotations_are_places_to_cut_unless_in_a_transaction() -> None:
    data = SET + b"#TS:17\r\n" + command(b"MULTI") + b"#TS:18\r\n" + SET + command(b"EXEC")
    scanner = Scanner("s")
    scanner.feed(data)
    behind = len(SET) + len(b"#TS:17\r\n")
    assert [(s.boundary, s.seconds) for s in scanner.stamps] == [(len(SET), 17), (behind, 18)]
    assert scanner.boundary == len(data)


def test_a_large_argument_is_passed_on_in_pieces() -> None:
    large = command(b"SET", b"k", b"x" * 1_000_000)
    parts = pieces(large, list(range(0, len(large), 50_000)))
    given_back = list(replayable(parts, Scanner("s"), len(large)))
    assert b"".join(given_back) == large
    assert max(map(len, given_back)) < 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"SET a b\r\n", b"*1\r\n$4\r\nPINGxx", b"*1\r\n$-1\r\n", b"*0\r\n", b"*1\n", b"*99999999999999999999\r\n",
        b"*1\r\n:4\r\n", b"x" * 2000, b"*1\r\n$99999999999999\r\n", b"\n",
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(data: bytes) -> None:
    with pytest.raises(Damaged):
        Scanner("s").feed(data)
