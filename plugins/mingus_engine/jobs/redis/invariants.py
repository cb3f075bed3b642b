"""What the owner of a Redis says must hold at any moment (``redis.invariants``), asked of a restored server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import redis

from mingus_engine.checks import Check
from mingus_engine.redis.client import ask
from mingus_engine.settings import RedisInvariant

_SCAN_COUNT = 1000
# As in census: a table that shrinks may show a key twice. The same number twice is believed.
_SCANS_MAX = 6


def evaluate(
    connect: Callable[[int], redis.Redis], invariants: Sequence[RedisInvariant], checkpoint: Callable[[], None]
) -> Iterator[Check]:
    """One check per invariant; one that the server refuses is a failed check.

    :param connect: gives a client of a database.
    :raises SourceError: the server is gone.
    """
    for invariant in invariants:
        checkpoint()
        name = f"invariant {invariant.name}"
        client = connect(invariant.database)
        try:
            yield _script(name, client, invariant) if invariant.lua else _count(name, client, invariant, checkpoint)
        except redis.RedisError as error:
            yield Check(name, False, f"the restored server refused: {' '.join(str(error).split())[:300]}")
        finally:
            client.close()


def _script(name: str, client: redis.Redis, invariant: RedisInvariant) -> Check:
    answer = ask(client, "EVAL_RO", invariant.lua, 0)
    held = answer == 1
    return Check(name, held, "holds" if held else f"the script returned {answer!r:.100}, not 1")


def _count(name: str, client: redis.Redis, invariant: RedisInvariant, checkpoint: Callable[[], None]) -> Check:
    count = -1
    for _ in range(_SCANS_MAX):
        before, count = count, _matching(client, invariant.pattern, checkpoint)
        if count == before:
            break
    held = invariant.least <= count and (not invariant.most or count <= invariant.most)
    bounds = f"{invariant.least} or more" if not invariant.most else f"{invariant.least} to {invariant.most}"
    return Check(name, held, f"{count} keys match {invariant.pattern!r}, must be {bounds}", {"keys": count})


def _matching(client: redis.Redis, pattern: str, checkpoint: Callable[[], None]) -> int:
    cursor, count = 0, 0
    while True:
        answer, keys = ask(client, "SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        cursor, count = int(answer), count + len(keys)
        checkpoint()
        if not cursor:
            return count
