"""Versions of servers, and which RDB each can read (TRAPS "Redis" 5).

Source: ``rdb.h`` of the releases. A server refuses an RDB that is newer than it; Valkey also refuses the versions that
Redis gave out after the two parted (12 to 79).
"""

from __future__ import annotations

import re

from mingus_engine.redis.rdb_format import HEADER_BYTES

NAMES = {"redis": "Redis", "valkey": "Valkey"}
# The first release (major, minor) that writes a version.
_REDIS = (((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((5, 0), 9), ((4, 0), 8), ((3, 2), 7), ((0, 0), 6))
_VALKEY = (((9, 0), 80), ((0, 0), 11))
# What is newer than every release that is known here may read more than these tell.
_KNOWN_BELOW = {"redis": (9, 0), "valkey": (10, 0)}
_VERSION = re.compile(r"(\d+)\.(\d+)")


def of(text: str) -> tuple[int, int]:
    """Major and minor of ``7.0.15``; (0, 0) when it is no version."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def reads(engine: str, version: str) -> int:
    """The newest RDB version that a server reads."""
    table = _VALKEY if engine == "valkey" else _REDIS
    return next(rdb for first, rdb in table if of(version) >= first)


def can_read(engine: str, version: str, rdb: int) -> bool:
    """Whether a server reads an RDB of version *rdb*; one newer than what is known here is not doubted."""
    if of(version) >= _KNOWN_BELOW.get(engine, (0, 0)):
        return True
    if engine == "valkey" and 11 < rdb < 80:
        return False
    return rdb <= reads(engine, version)


def shown(engine: str, version: str) -> str:
    """``Redis 7.0.15``."""
    return f"{NAMES.get(engine, engine)} {version}".rstrip()


def rdb_version(head: bytes) -> int:
    """The version that the first bytes of an RDB name, also one that nothing here can read; 0 = they are no RDB."""
    found = re.match(rb"(?:REDIS(\d{4})|VALKEY(\d{3}))", head[:HEADER_BYTES])
    return int(found[1] or found[2]) if found else 0
