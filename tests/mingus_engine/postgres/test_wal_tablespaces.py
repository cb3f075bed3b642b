"""Tablespaces in write-ahead log: found wherever the record lies, and never in what only looks like one."""

from __future__ import annotations

import struct

import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.postgres.wal_tablespaces import created

PAGE = 8192
OTHER = struct.pack("<IIQBBxxI", 40, 1, 0, 0x10, 10, 0) + bytes(16)


def record(oid: int, place: bytes) -> bytes:
    data = struct.pack("<I", oid) + place + b"\0"
    main = (b"\xff" + bytes([len(data)]) if len(data) < 256 else b"\xfe" + struct.pack("<I", len(data))) + data
    head = struct.pack("<IIQBBxx", 24 + len(main), 700, 0, 0x00, 5)
    whole = head + struct.pack("<I", crc32c.crc32c(head, crc32c.crc32c(main))) + main
    return whole + bytes(-len(whole) % 8)


def paged(log: bytes) -> bytes:
    out = bytearray()
    while log:
        long = len(out) % (1 << 20) == 0
        room = PAGE - (40 if long else 24)
        out += struct.pack("<HHIQI", 0xD110, 2 if long else 0, 1, len(out), 0).ljust(40 if long else 24, b"\0")
        out += log[:room].ljust(room, b"\0")
        log = log[room:]
    return bytes(out)


@given(
    before=st.integers(0, 1500), oid=st.integers(16384, 2**32 - 1), length=st.integers(1, 900), part=st.integers(1, 9)
)
def test_a_record_is_found_wherever_it_lies(before: int, oid: int, length: int, part: int) -> None:
    place = b"/" + b"p" * length
    log = paged(OTHER * before + record(oid, place) + OTHER * 300)
    parts = [log[at : at + part * PAGE] for at in range(0, len(log), part * PAGE)]
    assert created(parts, len(log)) == {oid: place}
    assert created(parts, before * len(OTHER)) == {}


def test_a_wrong_checksum_is_no_record() -> None:
    whole = bytearray(record(16400, b"/srv/space"))
    whole[32] ^= 1
    assert created([paged(bytes(whole) + OTHER)], PAGE) == {}


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_garbage_is_none(garbage: bytes, at: int) -> None:
    log = paged(garbage[:at] + b"\x00\x05\x00\x00abcd\xff\x10abcd/" + garbage[at:])
    assert created([log], len(log)) == {}
