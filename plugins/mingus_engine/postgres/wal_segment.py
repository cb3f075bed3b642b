"""Files of ``pg_wal`` by their names, and what a segment says of itself on its first page.

Source: PostgreSQL's ``access/xlog_internal.h`` (``XLogLongPageHeaderData``), little-endian.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from mingus_engine.errors import Damaged
from mingus_engine.postgres.wal_records import PAGE_MAGICS

SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
PARTIAL = re.compile(r"([0-9A-F]{24})\.partial")
HISTORY = re.compile(r"([0-9A-F]{8})\.history")
BACKUP = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")

# magic, info, timeline, page address, remaining length, padding, system id, segment size, page size
_LONG_HEADER = struct.Struct("<HHIQIIQII")
HEADER_BYTES = _LONG_HEADER.size
_IS_LONG = 0x2


@dataclass(frozen=True)
class SegmentHeader:
    """What the first page says. ``timeline`` may be an older one than the file's: a promotion copies the beginning.

    :param start: LSN of the first byte. :param version: major version of PostgreSQL.
    """

    system_id: int
    version: int
    timeline: int
    start: int
    segment_bytes: int


def read_header(raw: bytes, what: str) -> SegmentHeader:
    """The header of a segment that begins with *raw*.

    :raises Damaged: it is none of a version we know.
    """
    if len(raw) < HEADER_BYTES:
        raise Damaged(f"{what}: shorter than a page header", hint="")
    magic, info, timeline, start, _, _, system_id, segment_bytes, _ = _LONG_HEADER.unpack_from(raw)
    if magic not in PAGE_MAGICS or not info & _IS_LONG:
        raise Damaged(f"{what}: does not begin as a WAL segment of PostgreSQL 15 to 18", hint="")
    if not 1 << 20 <= segment_bytes <= 1 << 30 or segment_bytes & (segment_bytes - 1) or start % segment_bytes:
        raise Damaged(f"{what}: segment size {segment_bytes} cannot be", hint="")
    return SegmentHeader(system_id, PAGE_MAGICS[magic], timeline, start, segment_bytes)


def segment_position(name: str, segment_bytes: int) -> tuple[int, int]:
    """Timeline and first LSN of the segment file *name* (24 hexadecimal digits).

    :raises ValueError: it is no such name.
    """
    match = SEGMENT.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a WAL segment")
    number = int(match[2], 16) * ((1 << 32) // segment_bytes) + int(match[3], 16)
    return int(match[1], 16), number * segment_bytes
