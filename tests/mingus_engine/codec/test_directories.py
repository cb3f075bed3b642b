from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine.codec import directories
from mingus_engine.codec.directories import BlobEntry, DirectoryBuilder
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations
from tests.mingus_engine.codec.strategies import blob_entries


def decode(raw: bytes) -> list[BlobEntry]:
    return list(directories.decode(raw, "the object"))


def encoded(entries: list[BlobEntry]) -> bytes:
    builder = DirectoryBuilder()
    for entry in entries:
        before = builder.encoded_bytes
        builder.add(entry)
        assert builder.encoded_bytes - before <= directories.directory_bytes(entry.segments)
    raw = builder.encode()
    assert (len(raw), len(builder)) == (builder.encoded_bytes, len(entries))
    return raw


@settings(max_examples=30)
@given(st.lists(blob_entries(), max_size=5))
def test_what_goes_in_comes_out_and_its_length_is_known_before(entries: list[BlobEntry]) -> None:
    assert decode(encoded(entries)) == entries


@settings(max_examples=30)
@given(st.lists(blob_entries(), min_size=1, max_size=3))
def test_every_truncation_is_refused_and_no_flip_is_another_exception(entries: list[BlobEntry]) -> None:
    raw = encoded(entries)
    for cut in truncations(raw):
        must_refuse(decode, cut)
    for changed in flips(raw):
        may_refuse(decode, changed)


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_in_damaged(raw: bytes) -> None:
    may_refuse(decode, raw)
    may_refuse(decode, b"\1\0" + raw)


def test_a_newer_and_an_impossible_version_are_refused() -> None:
    raw = encoded([])
    must_refuse(decode, b"\2\0" + raw[2:])
    must_refuse(decode, b"\0\0" + raw[2:])


def test_counts_that_cannot_be_are_refused_at_once() -> None:
    must_refuse(decode, b"\1\0" + b"\xff" * 8)
