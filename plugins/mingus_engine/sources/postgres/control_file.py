"""``global/pg_control`` read from a running server: rewritten in place, so a copy counts only if its CRC is right.

Source: ``catalog/pg_control.h``. The layout of the fields used here is that of versions 13 to 18; the CRC32C lies
behind the last field, whose place differs between versions, so the offsets that can be its are tried.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import crc32c

from mingus_engine.errors import SourceDenied, SourceError

PATH = b"global/pg_control"
_HEAD = struct.Struct("<QIIi4xqQ")
# sizeof(ControlFileData) must stay below a disk sector; its last field ends above 200 bytes in every version.
_CRC_OFFSETS = range(200, 509, 4)
_ATTEMPTS = 20
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The bytes of a whole, untorn ``pg_control``, and whose it is."""

    content: bytes
    system_id: int
    checkpoint: int


def parse(content: bytes) -> ControlFile | None:
    """The fields of *content*; ``None`` when no CRC in it is right (torn, damaged, another byte order)."""
    for offset in _CRC_OFFSETS:
        if content[offset : offset + 4] == crc32c.crc32c(content[:offset]).to_bytes(4, "little"):
            system_id, _, _, _, _, checkpoint = _HEAD.unpack_from(content)
            return ControlFile(content, system_id, checkpoint)
    return None


def read(data_directory: Path) -> ControlFile:
    """Read it until a copy is not torn.

    :raises SourceDenied: it is not there or may not be read.
    :raises SourceError: its CRC stays wrong.
    """
    path = data_directory / PATH.decode()

    def content() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise SourceDenied(
                f"cannot read {path}: {error.strerror}",
                hint="run as the server's operating-system user, or correct data_directory",
            ) from None

    return read_whole(content, str(path))


def read_whole(content: Callable[[], bytes], what: str) -> ControlFile:
    """What *content* gives once it is not torn.

    :raises SourceError: its CRC stays wrong.
    """
    for _ in range(_ATTEMPTS):
        found = parse(content())
        if found is not None:
            return found
        time.sleep(_PAUSE_S)
    raise SourceError(f"{what} has a wrong CRC in {_ATTEMPTS} reads")
