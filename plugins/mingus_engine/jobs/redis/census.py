"""How many keys an RDB has, and how many a server has that loaded it: counted on both sides, compared exactly.

A server that loads an RDB as a primary leaves out what has expired, and lets expire what expires while it is asked. So
each number of the server must lie between the keys that are alive at the end of the asking and those that were alive
when it was started; without keys that expire meanwhile the two are one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from mingus_engine.checks import Check
from mingus_engine.redis.client import ask
from mingus_engine.redis.rdb import Function, Key, RdbWalk
from mingus_engine.redis.rdb_statistics import TTL_BUCKETS, TTL_MORE

_CHECKPOINT_KEYS = 4096
_SCAN_COUNT = 1000
# A table that shrinks while it is scanned may show a key twice; a loaded one soon stops shrinking.
_SCANS_MAX = 5
#: Life of a key that never expires; also in the script below.
NO_EXPIRY = "no expiry"
# One step of a scan, counted where the keys are: by type, and by what is left of a key's life after ARGV[3] (ms).
_STEP = """
local found = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2])
local from, counts = tonumber(ARGV[3]), {}
for _, key in ipairs(found[2]) do
  local kind, at, life = redis.call('TYPE', key).ok, redis.call('PEXPIRETIME', key), 'no expiry'
  if kind ~= 'none' then
    if at >= 0 then
      life = 'more'
      for i = 4, #ARGV, 2 do
        if at - from <= tonumber(ARGV[i]) then life = ARGV[i + 1]; break end
      end
    end
    counts[kind .. '|' .. life] = (counts[kind .. '|' .. life] or 0) + 1
  end
end
local flat = {}
for name, count in pairs(counts) do flat[#flat + 1] = name; flat[#flat + 1] = count end
return {found[1], flat}
"""


@dataclass
class Census:
    """Keys of one database by ``(type, life)``: *most* alive at the first moment, *least* alive at the last one.

    ``life``: name of a bucket of ``TTL_BUCKETS`` by what is left of the key's life at the first moment.
    """

    keys: int = 0
    expires: int = 0
    most: Counter[tuple[str, str]] = field(default_factory=Counter)
    least: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class RdbCensus:
    """Of an RDB. :param functions: libraries of functions."""

    databases: dict[int, Census] = field(default_factory=dict)
    functions: int = 0

    @property
    def keys(self) -> int:
        """In all databases, expired ones too."""
        return sum(census.keys for census in self.databases.values())


def of_rdb(
    chunks: Iterable[bytes | memoryview], what: str, first_ms: int, last_ms: int, checkpoint: Callable[[], None]
) -> RdbCensus:
    """Walk an RDB and count.

    :param first_ms, last_ms: since 1970: a server was started, and had been asked.
    :raises Damaged: it is not a whole RDB.
    """
    found = RdbCensus()
    for item in RdbWalk(chunks, what):
        if isinstance(item, Function):
            found.functions += 1
        if not isinstance(item, Key):
            continue
        census = found.databases.get(item.database)
        if census is None:
            census = found.databases[item.database] = Census()
        census.keys += 1
        if not census.keys % _CHECKPOINT_KEYS:
            checkpoint()
        expires = item.expire_ms
        cell = (item.type_name, _life(expires, first_ms))
        census.expires += expires >= 0
        census.most[cell] += expires < 0 or expires > first_ms
        census.least[cell] += expires < 0 or expires > last_ms
    return found


def of_server(client: redis.Redis, first_ms: int, checkpoint: Callable[[], None]) -> Counter[tuple[str, str]]:
    """The keys of the database that *client* is connected to, by ``(type, life)``.

    :raises redis.RedisError: the connection broke.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(_SCANS_MAX):
        before = int(ask(client, "DBSIZE"))
        counts = _scanned(client, first_ms, checkpoint)
        if counts.total() == before == int(ask(client, "DBSIZE")):
            break
    return counts


def compare(census: RdbCensus, measured: Mapping[int, Counter[tuple[str, str]]]) -> list[Check]:
    """One check of the numbers of keys, one of their types and expiry."""
    wrong_keys, wrong_kinds = [], []
    loaded = expired = 0
    for database in sorted(census.databases.keys() | measured.keys()):
        expected = census.databases.get(database, Census())
        there = measured.get(database, Counter())
        most, least = expected.most.total(), expected.least.total()
        loaded, expired = loaded + there.total(), expired + expected.keys - there.total()
        if not least <= there.total() <= most:
            wrong_keys.append(f"database {database}: {there.total()} instead of {_range(least, most)}")
        wrong_kinds += [
            f"database {database}: {there[cell]} of {cell[0]}, {cell[1]}, instead of"
            f" {_range(expected.least[cell], expected.most[cell])}"
            for cell in sorted(expected.most.keys() | there.keys())
            if not expected.least[cell] <= there[cell] <= expected.most[cell]
        ]
    data: dict[str, Any] = {
        "databases": {str(database): counts.total() for database, counts in sorted(measured.items())},
        "expired": expired,
    }
    detail = f"{loaded} in {len(measured)} databases, as in the RDB" + (f"; {expired} have expired" if expired else "")
    return [
        Check("L4 keys", not wrong_keys, "; ".join(wrong_keys[:5]) or detail, data),
        Check(
            "L4 types and expiry", not wrong_kinds, "; ".join(wrong_kinds[:5]) or "as in the RDB",
            {"types": _by_type(measured)},
        ),
    ]  # fmt: skip


def _scanned(client: redis.Redis, first_ms: int, checkpoint: Callable[[], None]) -> Counter[tuple[str, str]]:
    buckets = [word for seconds, name in TTL_BUCKETS for word in (1000 * seconds, name)]
    counts: Counter[tuple[str, str]] = Counter()
    cursor = b"0"
    while True:
        cursor, flat = ask(client, "EVAL", _STEP, 0, cursor, _SCAN_COUNT, first_ms, *buckets)
        for name, count in zip(flat[::2], flat[1::2], strict=True):
            kind, _, life = name.decode().partition("|")
            counts[kind, life] += int(count)
        checkpoint()
        if cursor == b"0":
            return counts


def _life(expire_ms: int, first_ms: int) -> str:
    if expire_ms < 0:
        return NO_EXPIRY
    return next((name for seconds, name in TTL_BUCKETS if expire_ms - first_ms <= 1000 * seconds), TTL_MORE)


def _by_type(measured: Mapping[int, Counter[tuple[str, str]]]) -> dict[str, int]:
    types: Counter[str] = Counter()
    for counts in measured.values():
        for (kind, _), count in counts.items():
            types[kind] += count
    return dict(sorted(types.items()))


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"
