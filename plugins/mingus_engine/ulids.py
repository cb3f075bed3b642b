"""ULIDs: 26 characters that sort by time of making (https://github.com/ulid/spec).

Only a label and a tie-breaker here: order within a source is decided by the DAG of heads and by LSNs,
never by a ULID (DESIGN §4 "Time").
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUE = {c: i for i, c in enumerate(_ALPHABET)}
PATTERN = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_MATCH = re.compile(PATTERN)


def new(at: float | None = None) -> str:
    """A fresh ULID for *at* (seconds since the epoch, default now)."""
    milliseconds = int((time.time() if at is None else at) * 1000)
    return from_bytes(milliseconds.to_bytes(6, "big") + os.urandom(10))


def from_bytes(raw: bytes) -> str:
    """The text of 16 raw bytes."""
    value = int.from_bytes(raw, "big")
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


def to_bytes(text: str) -> bytes:
    """The 16 raw bytes of a ULID.

    :raises ValueError: *text* is not a ULID.
    """
    if not is_ulid(text):
        raise ValueError(f"not a ULID: {text[:40]!r}")
    value = 0
    for c in text:
        value = value << 5 | _VALUE[c]
    return value.to_bytes(16, "big")


def is_ulid(text: str) -> bool:
    """Whether *text* is a canonical ULID."""
    return _MATCH.fullmatch(text) is not None


def made_at(text: str) -> datetime:
    """When the ULID was made, by its maker's clock (UTC, millisecond resolution)."""
    return datetime.fromtimestamp(int.from_bytes(to_bytes(text)[:6], "big") / 1000, UTC)
