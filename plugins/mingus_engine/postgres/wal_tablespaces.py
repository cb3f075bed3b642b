"""Tablespaces that write-ahead log creates, at the places where they were created.

A server that replays CREATE TABLESPACE makes the link to the original directory, whatever a restore did with the
tablespaces it knew; on the machine of the original it would write into the living cluster's files. So a restore looks
for such records first, at the speed of a search for their shape; the record's own CRC says that it is one.

``xl_tblspc_create_rec`` in PostgreSQL's ``commands/tablespace.h``: OID, then the path with a NUL.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

import crc32c

from mingus_engine.bounds import PAGE_BYTES

_SHORT_BYTES, _LONG_BYTES, _LONG = 24, 40, 0x2
_HEADER_BYTES, _CRC_AT, _FLAGS_AT = 24, 20, 2
# Behind xl_prev: xl_info (CREATE), xl_rmid (tablespaces), padding, CRC, then a short or a long block of main data.
_SHAPE = re.compile(rb"\x00\x05\x00\x00.{4}(?:\xff.|\xfe.{4}).{4}/", re.DOTALL)
_SHAPE_AT = 16
_U32 = struct.Struct("<I")
# Header and a path of MAXPGPATH.
_RECORD_MAX_BYTES = 2048


def created(pages: Iterable[bytes], length: int) -> dict[int, bytes]:
    """OID → place, of every tablespace that the log creates.

    :param pages: the log from the beginning of a page, in whole pages, without gaps. :param length: bytes of it to look
        at, page headers included.
    """
    found: dict[int, bytes] = {}
    log = bytearray()
    seen = 0
    for part in pages:
        for at in range(0, min(len(part), length - seen), PAGE_BYTES):
            header = _LONG_BYTES if part[at + _FLAGS_AT] & _LONG else _SHORT_BYTES
            log += memoryview(part)[at + header : at + min(PAGE_BYTES, length - seen - at)]
        for match in _SHAPE.finditer(log):
            record = _record(log, match.start() - _SHAPE_AT)
            if record is not None:
                oid, place = record
                found[oid] = place
        del log[:-_RECORD_MAX_BYTES]
        seen += len(part)
        if seen >= length:
            break
    return found


def _record(log: bytearray, at: int) -> tuple[int, bytes] | None:
    if at < 0:
        return None
    (total,) = _U32.unpack_from(log, at)
    record = bytes(log[at : at + total]) if _HEADER_BYTES < total <= _RECORD_MAX_BYTES else b""
    if len(record) < total or not record:
        return None
    crc = crc32c.crc32c(record[:_CRC_AT], crc32c.crc32c(record[_HEADER_BYTES:]))
    if crc != _U32.unpack_from(record, _CRC_AT)[0]:
        return None
    data = record[_HEADER_BYTES + (2 if record[_HEADER_BYTES] == 0xFF else 5) :]
    return _U32.unpack_from(data)[0], data[4:].split(b"\0", 1)[0]
