import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine import ulids
from mingus_engine.codec import containers
from mingus_engine.codec.containers import BlobKind, Cipher, ContainerKind, Header
from mingus_engine.errors import Damaged, FormatTooNew
from tests.mingus_engine.codec.hostile import must_refuse, refusal, truncations
from tests.mingus_engine.codec.strategies import runs, u32

RUN = ulids.new()
KEY = bytes(range(32))
HEADER = Header(containers.PACK_MAGIC, ContainerKind.DATA, 7, RUN, bytes(32))


def decode(raw: bytes) -> Header:
    return Header.decode(raw, containers.PACK_MAGIC, "the object")


@given(st.sampled_from(ContainerKind), u32, runs, st.binary(min_size=32, max_size=32))
def test_headers_come_back(kind: ContainerKind, number: int, run: str, salt: bytes) -> None:
    header = Header(containers.PACK_MAGIC, kind, number, run, salt)
    assert decode(header.encode()) == header


def test_every_bit_of_a_header_counts() -> None:
    """A flipped bit is refused at once, or gives another key or other AAD: no blob opens under it."""
    raw = HEADER.encode()
    sealed = Cipher(HEADER, HEADER.key(KEY, "pack")).seal(BlobKind.DATA, 64, b"content")
    for at, bit in itertools.product(range(len(raw)), range(8)):
        changed = bytearray(raw)
        changed[at] ^= 1 << bit
        if said := refusal(decode, bytes(changed)):
            assert "the object" in said
            continue
        header = decode(bytes(changed))
        with pytest.raises(Damaged, match="the object"):
            Cipher(header, header.key(KEY, "pack")).open(BlobKind.DATA, 64, sealed, "the object")


def test_a_header_that_is_cut_of_another_magic_or_version_is_refused() -> None:
    for cut in list(truncations(HEADER.encode()))[:-1]:
        must_refuse(decode, cut)
    raw = HEADER.encode()
    must_refuse(decode, containers.LOG_MAGIC + raw[8:])
    must_refuse(decode, raw[:8] + b"\2\0" + raw[10:])
    must_refuse(decode, raw[:8] + b"\0\0" + raw[10:])
    with pytest.raises(FormatTooNew):
        decode(raw[:8] + b"\2\0" + raw[10:])


def test_a_blob_opens_only_at_its_place_as_its_kind_in_its_file() -> None:
    cipher = Cipher(HEADER, HEADER.key(KEY, "pack"))
    sealed = cipher.seal(BlobKind.DATA, 64, b"content")
    assert cipher.open(BlobKind.DATA, 64, sealed, "x") == b"content"
    others = [
        (cipher, BlobKind.DATA, 65, sealed),
        (cipher, BlobKind.SHARD, 64, sealed),
        (cipher, BlobKind.DATA, 64, sealed[:-1]),
        (cipher, BlobKind.DATA, 64, sealed + b"\0"),
        (cipher, BlobKind.DATA, 64, b""),
        (cipher, BlobKind.DATA, 64, bytes([sealed[0] ^ 1]) + sealed[1:]),
        (Cipher(HEADER, HEADER.key(bytes(32), "pack")), BlobKind.DATA, 64, sealed),
        (Cipher(HEADER, HEADER.key(KEY, "log")), BlobKind.DATA, 64, sealed),
        (Cipher(HEADER, HEADER.key(KEY, "pack"), b"more"), BlobKind.DATA, 64, sealed),
    ]
    for other in (
        dataclasses.replace(HEADER, number=8),
        dataclasses.replace(HEADER, run=ulids.new()),
        dataclasses.replace(HEADER, kind=ContainerKind.TREE),
        dataclasses.replace(HEADER, magic=containers.LOG_MAGIC),
    ):
        others += [(Cipher(other, HEADER.key(KEY, "pack")), BlobKind.DATA, 64, sealed)]
    for opener, blob_kind, position, bytes_found in others:
        with pytest.raises(Damaged, match="the object"):
            opener.open(blob_kind, position, bytes_found, "the object")


@given(st.integers(0, 2**33), st.binary(min_size=4, max_size=4))
def test_a_directory_length_is_believed_only_where_it_fits(size: int, tail: bytes) -> None:
    length = int.from_bytes(tail, "little")
    if said := refusal(lambda raw: containers.directory_span(size, raw, "the object"), tail):
        assert "the object" in said
        return
    position, found = containers.directory_span(size, tail, "the object")
    assert (position + found + 4, found) == (size, length)
    assert position >= containers.HEADER_BYTES
    assert found <= containers.SEALED_MAX_BYTES
