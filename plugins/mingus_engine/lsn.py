"""Log sequence numbers: 64-bit positions in the write-ahead log, and the segment files they lie in."""

from __future__ import annotations

import re

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse(text: str) -> int:
    """``16/B374D848`` → number.

    :raises ValueError: it is not an LSN.
    """
    match = _LSN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an LSN")
    return int(match[1], 16) << 32 | int(match[2], 16)


def text(lsn: int) -> str:
    """Number → ``16/B374D848``, as PostgreSQL prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_start(lsn: int, segment_bytes: int) -> int:
    """First LSN of the segment that holds *lsn*."""
    return lsn - lsn % segment_bytes


def segment_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    """Name of the file in ``pg_wal`` that holds *lsn* (24 hexadecimal digits)."""
    number = lsn // segment_bytes
    per_id = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"
