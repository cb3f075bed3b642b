"""Where a value of an RDB ends: of every type and encoding of RDB 6 to 12 and of Valkey's 80.

Only what must be looked at to find the end is looked at; what a listpack or a ziplist holds is the server's to check.

=======================================  ============================================================================
type                                     what it is
=======================================  ============================================================================
0, 9 to 13, 16, 17, 20, 23               one string (text, zipmap, ziplist, intset, listpack)
1, 2, 14 · 4 · 5 · 3                     a count of: strings · pairs · string and 8 bytes · string and number as text
18                                       a count of: a container (1 plain, 2 listpack) and a string
22 of Valkey                             a count of: field, value, and 8 bytes: when the field expires, in ms
22, 24 of Redis                          (24: 8 bytes: when the first expires) a count of: TTL, field, value
25                                       8 bytes: when the first field expires; a listpack
15, 19, 21                               a stream: its listpacks, then :func:`_stream`
7                                        a module's value: its id, then parts of five kinds, and an end
=======================================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mingus_engine.errors import Damaged
from mingus_engine.redis.rdb_format import ENC_INT32, ENC_LZF, ENCODED, VALKEY_VERSIONS, lzf_can_be
from mingus_engine.redis.rdb_input import RdbInput

TYPE_MODULE: Final = 7
_ONE_STRING: Final = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20, 23})
# Of an element: bytes before its strings, strings, bytes after them.
_ELEMENTS: Final = {1: (0, 1, 0), 2: (0, 1, 0), 4: (0, 2, 0), 5: (0, 1, 8), 14: (0, 1, 0), 18: (1, 1, 0)}
_VALKEY_HASH: Final = (0, 2, 8)
_CONTAINERS: Final = frozenset({1, 2})
# A double as text is at most so long; above are not a number and the two infinities.
_TEXT_MAX: Final = 252
_STREAM_ID_BYTES: Final = 16
_TIME_BYTES: Final = 8

Skip = Callable[[RdbInput], None]


def skips(version: int) -> dict[int, Skip]:
    """What leaves out a value of each type that an RDB of *version* may hold; of a module's, what follows its id."""
    found: dict[int, Skip] = {
        3: _text_scores,
        TYPE_MODULE: module_parts,
        15: lambda source: _stream(source, 15),
        19: lambda source: _stream(source, 19),
        21: lambda source: _stream(source, 21),
    }
    found |= {kind: RdbInput.skip_string for kind in _ONE_STRING if kind != 23}
    found |= {kind: _elements_of(*shape) for kind, shape in _ELEMENTS.items()}
    if version in VALKEY_VERSIONS:
        return found | {22: _elements_of(*_VALKEY_HASH)}
    return found | {22: _ttl_fields, 23: RdbInput.skip_string, 24: _hash_with_ttls, 25: _listpack_with_ttls}


def string_end(data: bytes, at: int) -> int:
    """Where the string at *at* ends, maybe beyond *data*.

    :raises IndexError: not even its length is there, or it is none.
    """
    first = data[at]
    if first < 0x40:
        return at + 1 + first
    if first < 0x80:
        return at + 2 + ((first & 0x3F) << 8 | data[at + 1])
    if first == ENC_LZF:
        packed, start = _short_length(data, at + 1)
        length, start = _short_length(data, start)
        if lzf_can_be(packed, length):
            return start + packed
    if ENCODED <= first <= ENC_INT32:
        return at + 1 + (1 << (first - ENCODED))
    raise IndexError


def _short_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    raise IndexError


def elements_end(data: bytes, at: int, shape: tuple[int, int, int]) -> int:
    """Where the elements of *shape*, with their count before them, end.

    :raises IndexError: beyond *data*, or it takes more than a glance.
    """
    left, at = _short_length(data, at)
    while left:
        at, done = _elements(data, at, left, shape)
        if not done:
            raise IndexError
        left -= done
    return at


def _elements(data: bytes, at: int, count: int, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Go over at most *count* whole elements in *data*: where they end, and how many they are."""
    before, strings, after = shape
    end, done = len(data), 0
    try:
        while done < count:
            to = at + before
            if before and data[at] not in _CONTAINERS:
                break
            for _ in range(strings):
                first = data[to]
                to = to + 1 + first if first < 0x40 else string_end(data, to)
            to += after
            if to > end:
                break
            at = to
            done += 1
    except IndexError:
        pass
    return at, done


def ends(version: int) -> dict[int, Callable[[bytes, int], int]]:
    """Per type what finds the end of a value in bytes at hand, where that is quick; an IndexError says that not."""
    found: dict[int, Callable[[bytes, int], int]] = {
        kind: string_end for kind in _ONE_STRING if kind != 23 or version not in VALKEY_VERSIONS
    }

    def of(shape: tuple[int, int, int]) -> Callable[[bytes, int], int]:
        return lambda data, at: elements_end(data, at, shape)

    return found | {kind: of(shape) for kind, shape in _ELEMENTS.items()}


def _elements_of(before: int, strings: int, after: int) -> Skip:
    def skip(source: RdbInput) -> None:
        left = source.length()
        while left:
            source.at, done = _elements(source.data, source.at, left, (before, strings, after))
            left -= done
            if not left:
                return
            # One that is cut off, or larger than what is at hand.
            if before and (container := source.byte()) not in _CONTAINERS:
                raise Damaged(f"{source.where}: no list has a container {container}", hint="")
            for _ in range(strings):
                source.skip_string()
            source.skip(after)
            left -= 1

    return skip


def _text_scores(source: RdbInput) -> None:
    for _ in range(source.length()):
        source.skip_string()
        count = source.byte()
        if count <= _TEXT_MAX:
            source.skip(count)


def _ttl_fields(source: RdbInput) -> None:
    for _ in range(source.length()):
        source.length()
        source.skip_string()
        source.skip_string()


def _hash_with_ttls(source: RdbInput) -> None:
    source.skip(_TIME_BYTES)
    _ttl_fields(source)


def _listpack_with_ttls(source: RdbInput) -> None:
    source.skip(_TIME_BYTES)
    source.skip_string()


def _stream(source: RdbInput, kind: int) -> None:
    """Listpacks; length and last id (from 19 on the first id, the largest that was deleted, and how many were ever
    added); groups: name, last id (from 19 on how many were read), what was delivered and not acknowledged, consumers.
    """
    for _ in range(source.length()):
        source.skip_string()
        source.skip_string()
    _lengths(source, 3 if kind == 15 else 8)
    for _ in range(source.length()):
        source.skip_string()
        _lengths(source, 2 if kind == 15 else 3)
        for _ in range(source.length()):
            source.skip(_STREAM_ID_BYTES + _TIME_BYTES)
            source.length()
        for _ in range(source.length()):
            source.skip_string()
            source.skip(_TIME_BYTES * (2 if kind == 21 else 1))
            source.skip(source.length() * _STREAM_ID_BYTES)


def _lengths(source: RdbInput, count: int) -> None:
    for _ in range(count):
        source.length()


def module_parts(source: RdbInput) -> None:
    """Leave out what a module saved, to its end."""
    while part := source.length():
        if part in {1, 2}:
            source.length()
        elif part in {3, 4}:
            source.skip(4 if part == 3 else 8)
        elif part == 5:
            source.skip_string()
        else:
            raise Damaged(f"{source.where}: no part of a module's value has the number {part}", hint="")


def module_name(number: int) -> str:
    """The nine letters in a module's id (``module.c``: 6 bits each, then 10 bits of version)."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(letters[number >> 10 + 6 * i & 63] for i in reversed(range(9)))
