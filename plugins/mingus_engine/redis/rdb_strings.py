"""Lengths and strings of an RDB, read from bytes that are at hand.

====================  =========================================================================
first byte            what follows
====================  =========================================================================
``00LLLLLL``          a length below 64
``01LLLLLL``          a length below 16,384: with the next byte
``0x80``, ``0x81``    a length of 4, of 8 bytes, the most significant first
``0xC0`` to ``0xC2``  instead of a string a number of 1, 2, 4 bytes, the least significant first
``0xC3``              instead of a string two lengths, packed and unpacked, and its LZF
====================  =========================================================================
"""

from __future__ import annotations

from mingus_engine.errors import Damaged
from mingus_engine.redis.rdb_format import ENC_INT8, ENC_INT32, ENC_LZF, ENCODED, unpack_lzf


class NotWhole(Exception):
    """The bytes at hand end too early."""


def length(data: bytes, at: int, what: str) -> tuple[int, int]:
    """The length at *at*, and where it ends.

    :raises NotWhole: :raises Damaged: it is none.
    """
    try:
        first = data[at]
        if first < 0x40:
            return first, at + 1
        if first < 0x80:
            return (first & 0x3F) << 8 | data[at + 1], at + 2
    except IndexError:
        raise NotWhole from None
    width = {0x80: 4, 0x81: 8}.get(first)
    if width is None:
        raise Damaged(f"{what}: no length begins with the byte {first:#04x}", hint="")
    end = at + 1 + width
    if end > len(data):
        raise NotWhole
    return int.from_bytes(data[at + 1 : end], "big"), end


def string(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """The string at *at*, numbers as their digits, and where it ends.

    :raises NotWhole: :raises Damaged:
    """
    if at >= len(data):
        raise NotWhole
    first = data[at]
    if first < ENCODED:
        count, start = length(data, at, what)
        return _bytes(data, start, count), start + count
    if first <= ENC_INT32:
        width = 1 << (first - ENC_INT8)
        return b"%d" % int.from_bytes(_bytes(data, at + 1, width), "little", signed=True), at + 1 + width
    if first == ENC_LZF:
        packed, start = length(data, at + 1, what)
        count, start = length(data, start, what)
        return unpack_lzf(_bytes(data, start, packed), count, what), start + packed
    raise Damaged(f"{what}: no string begins with the byte {first:#04x}", hint="")


def _bytes(data: bytes, start: int, count: int) -> bytes:
    if start + count > len(data):
        raise NotWhole
    return data[start : start + count]
