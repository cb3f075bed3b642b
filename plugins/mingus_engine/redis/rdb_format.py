"""What every reader of an RDB knows: its beginning, its opcodes and types, which server reads which version, LZF.

Source: ``rdb.h`` and ``rdb.c`` of Redis 7.4 and Valkey 9.0. An RDB is ``REDIS0010`` (``VALKEY080`` from version 80 on),
then opcodes and keys, the opcode EOF, and eight bytes: CRC-64 of everything before, zero where the server writes none.
"""

from __future__ import annotations

import anycrc  # type: ignore[import-untyped]

from mingus_engine.errors import Damaged

HEADER_BYTES = 9
CRC_BYTES = 8
# 6 is Redis 2.6; 11 is Redis 7.2 and Valkey up to 8.1, 12 is Redis 7.4 to 8.4, 80 is Valkey 9.
REDIS_VERSIONS = range(6, 13)
VALKEY_VERSIONS = range(80, 81)

OP_SLOT_IMPORT, OP_SLOT_INFO, OP_FUNCTION2, OP_FUNCTION_PRE_GA, OP_MODULE_AUX = 243, 244, 245, 246, 247
OP_IDLE, OP_FREQ, OP_AUX, OP_RESIZE, OP_EXPIRE_MS, OP_EXPIRE, OP_SELECT, OP_EOF = 248, 249, 250, 251, 252, 253, 254, 255

# Strings of these are one length and so many bytes, or one of four encodings.
ENCODED = 0xC0
ENC_INT8, ENC_INT16, ENC_INT32, ENC_LZF = 0xC0, 0xC1, 0xC2, 0xC3
# LZF writes at most 264 bytes for three.
_LZF_GROWTH = 88

# As `TYPE` names them.
TYPE_NAMES = {
    0: "string", 1: "list", 2: "set", 3: "zset", 4: "hash", 5: "zset", 7: "module", 9: "hash", 10: "list", 11: "set",
    12: "zset", 13: "hash", 14: "list", 15: "stream", 16: "hash", 17: "zset", 18: "list", 19: "stream", 20: "set",
    21: "stream", 22: "hash", 23: "hash", 24: "hash", 25: "hash",
}  # fmt: skip

_CRC = anycrc.Model("CRC64-REDIS")


def crc64(data: bytes | memoryview, before: int = 0) -> int:
    """CRC-64 as Redis computes it, continued from *before*."""
    return int(_CRC.calc(data, before))


def version_of(header: bytes, what: str) -> int:
    """The version that the first nine bytes tell.

    :raises Damaged: they are no such header, or of a version that is not known.
    """
    magic, digits = header[:5], header[5:HEADER_BYTES]
    if header[:6] == b"VALKEY":
        magic, digits = header[:6], header[6:HEADER_BYTES]
    if len(header) < HEADER_BYTES or magic not in {b"REDIS", b"VALKEY"} or not digits.isdigit():
        raise Damaged(f"{what}: does not begin as an RDB", hint="")
    version = int(digits)
    if version not in (REDIS_VERSIONS if magic == b"REDIS" else VALKEY_VERSIONS):
        raise Damaged(
            f"{what}: RDB version {version} ({magic.decode()}) is not known",
            hint="known are 6 to 12 of Redis (and Valkey up to 8), and 80 of Valkey 9",
        )
    return version


def unpack_lzf(packed: bytes, length: int, what: str) -> bytes:
    """What LZF packed into *packed*: *length* bytes.

    :raises Damaged: it is something else; nothing is reserved for a length that cannot be.
    """
    require_lzf(len(packed), length, what)
    out, at, end = bytearray(), 0, len(packed)
    try:
        while at < end:
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            count = control >> 5
            if count == 7:
                count += packed[at]
                at += 1
            start = len(out) - ((control & 0x1F) << 8) - packed[at] - 1
            at += 1
            if start < 0 or len(out) + count + 2 > length:
                break
            piece = out[start : start + count + 2]
            while len(piece) < count + 2:  # it repeats itself
                piece += piece[: count + 2 - len(piece)]
            out += piece
    except IndexError:
        at = -1
    if at != end or len(out) != length:
        raise Damaged(f"{what}: a compressed string does not unpack to {length} bytes", hint="")
    return bytes(out)


def require_lzf(packed: int, length: int, what: str) -> None:
    """:raises Damaged: *packed* bytes of LZF cannot be *length* bytes."""
    if not lzf_can_be(packed, length):
        raise Damaged(f"{what}: {packed} compressed bytes cannot be {length}", hint="")


def lzf_can_be(packed: int, length: int) -> bool:
    """Whether *packed* bytes of LZF may be *length* bytes."""
    return 0 < length <= packed * _LZF_GROWTH
