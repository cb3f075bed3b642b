"""``auto-aof-rewrite-percentage``: 0 while the files of an append-only file are opened, then what it was.

While it is 0 the server begins no rewrite by itself. Whoever dies in between leaves the 0 behind, and a server whose
file is never rewritten again fills its disk: so the old value is noted in the run's ``.start`` before it is changed,
and the next run puts it right (TRAPS "Redis" 1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from mingus_engine.errors import SourceDenied, SourceError
from mingus_engine.redis.client import connected, mapped, place
from mingus_engine.settings import RedisConnection

NAME = "auto-aof-rewrite-percentage"
#: Of a configuration file that does not name it (Redis 7.0, ``config.c``).
DEFAULT = 100
# A server that restarts has its configured value by itself; one that hangs longer is told of by the error.
PUT_BACK_WITHIN_S = 30.0
_PAUSE_S = 0.2
_LINE = re.compile(rf"\s*{NAME}\s+\"?(\d+)\"?\s*", re.IGNORECASE)


def live_value(client: redis.Redis, conn: RedisConnection) -> int:
    """The value now.

    :raises SourceDenied: CONFIG is not allowed.
    """
    with mapped(conn, f"reading {NAME}"):
        found = client.config_get(NAME)
    try:
        return int(next(iter(found.values())) or "")
    except (StopIteration, ValueError):
        raise SourceDenied(f"{place(conn)}: CONFIG GET {NAME} gives nothing") from None


def configured_value(file: Path) -> int | None:
    """The value that the configuration *file* gives the server when it starts; ``None`` = it cannot be told."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = DEFAULT
    for line in lines:
        if line.strip().lower().startswith("include "):
            return None
        if match := _LINE.fullmatch(line):
            found = int(match[1])
    return found


def left_over(live: int, recorded: tuple[int, bool] | None, configured: int | None) -> int:
    """What the value was before a dead run changed it; *live* when nothing is to be put right. Pure.

    :param recorded: what the newest run that changed it noted, and whether that run came to its end.
    :param configured: see :func:`configured_value`.
    """
    if live:
        return live
    if recorded is not None and not recorded[1] and recorded[0]:
        return recorded[0]
    if recorded is not None and not recorded[0]:
        return 0
    return configured or 0


@contextmanager
def held_at_zero(client: redis.Redis, conn: RedisConnection, value: int, log: Callable[[str], None]) -> Iterator[None]:
    """No rewrite begins by itself inside the block; afterwards the setting is *value* again, in every outcome.

    :raises SourceDenied: CONFIG SET is not allowed. :raises SourceError: it could not be put back.
    """
    if value:
        with mapped(conn, f"setting {NAME}"):
            client.config_set(NAME, 0)
    try:
        yield
    except BaseException:
        if value:
            # The first error is the one to tell.
            with suppress(SourceError):
                _put_back(conn, value, log)
        raise
    if value:
        _put_back(conn, value, log)


def put_right(conn: RedisConnection, value: int, log: Callable[[str], None]) -> None:
    """Set a left-over 0 to *value*. :raises SourceError: it could not be."""
    _put_back(conn, value, log)


def _put_back(conn: RedisConnection, value: int, log: Callable[[str], None]) -> None:
    """Set it to *value* unless it is no longer 0: then somebody set it, or the server was started anew."""
    deadline = time.monotonic() + PUT_BACK_WITHIN_S
    while True:
        try:
            with connected(conn, timeout_s=PUT_BACK_WITHIN_S) as client:
                if live_value(client, conn) == 0:
                    with mapped(conn, f"putting {NAME} back to {value}"):
                        client.config_set(NAME, value)
                return
        except SourceError as error:
            if time.monotonic() > deadline or not error.transient:
                log(f"{NAME} is 0 and could not be put back to {value}: {error.message}")
                raise SourceError(
                    f"{error.message}: {NAME} is still 0",
                    hint=f"CONFIG SET {NAME} {value}; the next run does it by itself",
                ) from None
        time.sleep(_PAUSE_S)
