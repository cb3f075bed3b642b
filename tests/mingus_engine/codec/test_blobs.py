import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine import bounds
from mingus_engine.codec import blobs
from mingus_engine.codec.blobs import Compressor, Decompressor
from mingus_engine.errors import Damaged
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations


def data(raw: bytes) -> bytes:
    return Decompressor().data(raw, "the object")


@given(st.binary(max_size=300), st.integers(1, 50), st.sampled_from([1, 3, 9]))
def test_what_goes_in_comes_out(piece: bytes, times: int, level: int) -> None:
    content = piece * times
    form = Compressor(level).plain_form(content)
    assert data(form) == content
    assert len(form) <= len(content) + blobs.PREFIX.size


def test_what_does_not_compress_is_stored_and_what_does_is_not() -> None:
    incompressible = bytes(range(256))
    assert Compressor(3).plain_form(incompressible)[0] == blobs.STORED
    assert Compressor(3).plain_form(bytes(4096))[0] == blobs.ZSTD


def test_more_than_a_blob_may_hold_is_not_made() -> None:
    Compressor(1).plain_form(bytes(bounds.BLOB_PLAIN_MAX_BYTES))
    with pytest.raises(ValueError, match="4194305"):
        Compressor(1).plain_form(bytes(bounds.BLOB_PLAIN_MAX_BYTES + 1))


@pytest.mark.parametrize("content", [b"", b"x", b"incompressible?", b"compressible " * 100], ids=len)
def test_every_truncation_is_refused(content: bytes) -> None:
    for cut in truncations(Compressor(3).plain_form(content)):
        must_refuse(data, cut)


def test_no_flipped_bit_ends_in_another_exception() -> None:
    for changed in flips(Compressor(3).plain_form(b"compressible " * 100)):
        may_refuse(data, changed)


@given(st.binary(max_size=100))
def test_random_bytes_end_in_a_value_or_in_damaged(raw: bytes) -> None:
    may_refuse(data, raw)
    may_refuse(data, struct.pack("<BI", 1, 1000) + raw)
    may_refuse(data, struct.pack("<BI", 1, 1000) + b"\x28\xb5\x2f\xfd" + raw)


def bomb(said: bool) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=said).compress(bytes(256 * bounds.MIB))


@pytest.mark.parametrize("said", [True, False], ids=["length in its frame", "no length"])
@pytest.mark.parametrize("promised", [0, 1, 1000])
def test_a_bomb_is_refused_without_its_memory(said: bool, promised: int) -> None:
    form = blobs.PREFIX.pack(blobs.ZSTD, promised) + bomb(said)
    tracemalloc.start()
    must_refuse(data, form)
    assert tracemalloc.get_traced_memory()[1] < 4 * bounds.MIB
    tracemalloc.stop()


def test_a_length_over_the_bound_is_refused_before_it_is_allocated() -> None:
    form = blobs.PREFIX.pack(blobs.ZSTD, 2**32 - 1) + zstandard.ZstdCompressor().compress(b"x")
    with pytest.raises(Damaged, match="4294967295"):
        data(form)


def test_more_than_the_bound_is_refused_though_it_is_all_there() -> None:
    form = Compressor(1).plain_form_long(bytes(bounds.BLOB_PLAIN_MAX_BYTES + 1))
    must_refuse(data, form)
    assert len(Decompressor().data(form, "a body", bounds.BODY_MAX_BYTES)) == bounds.BLOB_PLAIN_MAX_BYTES + 1


def test_bytes_behind_the_frame_and_second_frames_are_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")
    for behind in (b"\0", frame):
        must_refuse(data, blobs.PREFIX.pack(blobs.ZSTD, 3) + frame + behind)
    assert data(blobs.PREFIX.pack(blobs.ZSTD, 3) + frame) == b"abc"


def test_a_window_of_gigabytes_is_refused() -> None:
    huge = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=huge).compressobj()
    frame = compressor.compress(b"x" * 100) + compressor.flush()
    must_refuse(data, blobs.PREFIX.pack(blobs.ZSTD, 100) + frame)


def test_an_unknown_codec_is_refused() -> None:
    must_refuse(data, blobs.PREFIX.pack(2, 1) + b"x")
