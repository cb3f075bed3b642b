"""A blob's plain form, before it is sealed: ``codec (1) · plain length (4, LE) · payload``.

The length is checked against ``bounds.BLOB_PLAIN_MAX_BYTES`` before anything is decompressed, so that a hostile blob
cannot make a reader allocate more.
"""

from __future__ import annotations

import struct

import zstandard

from mingus_engine import bounds
from mingus_engine.errors import Damaged

STORED = 0
ZSTD = 1
PREFIX = struct.Struct("<BI")
# zstd's own choices for 256 KiB serve text. On database pages: level 1 with a table of 16 KiB, which leaves room in
# the first-level cache, is 5 % faster and stores 0.4 % more; level 3 with longer matches is 16 % faster and stores 1 %
# less.
_TUNED: dict[int, dict[str, int]] = {
    1: {"hash_log": 12},
    3: {"hash_log": 15, "chain_log": 15, "min_match": 5},
}
# Compressing must save at least 1/64, or the reader's time to decompress is wasted.
_GAIN_SHIFT = 6


class Compressor:
    """Makes plain forms. One per thread: a zstd context is not shared.

    :param level: zstd level, 1 to 19.
    """

    def __init__(self, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level,
            source_size=bounds.BLOB_PLAIN_BYTES,
            write_content_size=False,
            write_checksum=False,
            **_TUNED.get(level, {}),
        )
        self._zstd = zstandard.ZstdCompressor(compression_params=parameters)

    def plain_form(self, data: bytes | memoryview, *, compress: bool = True) -> bytes:
        """*data* with its prefix, compressed where that helps; not even tried without *compress*."""
        if len(data) > bounds.BLOB_PLAIN_MAX_BYTES:
            raise ValueError(f"blob of {len(data)} bytes is over {bounds.BLOB_PLAIN_MAX_BYTES}")
        return self.plain_form_long(data) if compress else b"".join((PREFIX.pack(STORED, len(data)), data))

    def plain_form_long(self, data: bytes | memoryview) -> bytes:
        """The same for bodies of objects, which have a bound of their own (``bounds.BODY_MAX_BYTES``)."""
        length = len(data)
        packed = self._zstd.compress(data)
        if len(packed) < length - (length >> _GAIN_SHIFT):
            return PREFIX.pack(ZSTD, length) + packed
        return b"".join((PREFIX.pack(STORED, length), data))


class Decompressor:
    """Reads plain forms. One per thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=8 * bounds.MIB)

    def data(self, plain_form: bytes | memoryview, what: str, max_bytes: int = bounds.BLOB_PLAIN_MAX_BYTES) -> bytes:
        """The data of a plain form.

        :raises Damaged: unknown codec, a length over *max_bytes*, or not the length that was promised.
        """
        if len(plain_form) < PREFIX.size:
            raise Damaged(f"{what}: shorter than its prefix")
        codec, length = PREFIX.unpack_from(plain_form)
        payload = memoryview(plain_form)[PREFIX.size :]
        if length > max_bytes:
            raise Damaged(f"{what}: promises {length} bytes, at most {max_bytes} are allowed")
        if codec == STORED:
            data = bytes(payload)
        elif codec == ZSTD:
            try:
                # A frame may say its own length, which zstd would trust before ours.
                if zstandard.frame_content_size(payload) > length:
                    raise Damaged(f"{what}: its frame promises more than {length} bytes")
                data = self._zstd.decompress(payload, max_output_size=max(length, 1), allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise Damaged(f"{what}: does not decompress: {error}") from None
        else:
            raise Damaged(f"{what}: unknown codec {codec}")
        if len(data) != length:
            raise Damaged(f"{what}: {len(data)} bytes instead of {length}")
        return data
