"""What a walk over an RDB counts: keys and when they expire, per database and type; functions and modules.

A restored server can be compared with it exactly, apart from the keys that had expired or have expired since: a server
that loads an RDB as a primary leaves such out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mingus_engine.redis.rdb import Aux, Function, Key, ModuleAux, RdbWalk
from mingus_engine.redis.rdb_check import RdbFacts

#: Upper bounds in seconds of what is left of a key's life, with the name of each; and of what lies below, and above.
TTL_BUCKETS = ((60, "1 min"), (3600, "1 h"), (86400, "1 d"), (7 * 86400, "7 d"), (30 * 86400, "30 d"))
TTL_EXPIRED, TTL_MORE = "expired", "more"
_CHECKPOINT_KEYS = 4096


@dataclass
class DatabaseStatistics:
    """Of one database. *expires*: keys with a time to live; *expired*: those of them whose time was over.

    :param types: per type, as ``TYPE`` names it, how many keys. :param ttls: per bucket of :data:`TTL_BUCKETS` how
        many of the keys that expire. :param value_bytes: of all values as they are stored.
    """

    keys: int = 0
    expires: int = 0
    expired: int = 0
    value_bytes: int = 0
    types: Counter[str] = field(default_factory=Counter)
    ttls: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "keys": self.keys,
            "expires": self.expires,
            "expired": self.expired,
            "value_bytes": self.value_bytes,
            "types": dict(sorted(self.types.items())),
            "ttls": dict(self.ttls),
        }


@dataclass
class RdbStatistics:
    """Of an RDB. *at_ms*: the moment that expired keys and what is left of a life are reckoned from.

    :param functions: libraries of functions. :param modules: names of modules that have values or other data in it.
    """

    at_ms: int
    facts: RdbFacts
    databases: dict[int, DatabaseStatistics] = field(default_factory=dict)
    functions: int = 0
    modules: tuple[str, ...] = ()

    @property
    def keys(self) -> int:
        """In all databases."""
        return sum(database.keys for database in self.databases.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "at_ms": self.at_ms,
            "rdb": self.facts.as_dict(),
            "databases": {str(number): found.as_dict() for number, found in sorted(self.databases.items())},
            "functions": self.functions,
            "modules": list(self.modules),
        }


def statistics(
    chunks: Iterable[bytes | memoryview],
    what: str = "RDB",
    *,
    at_ms: int | None = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> RdbStatistics:
    """Walk the RDB whose bytes are *chunks*, and count.

    :param at_ms: what "expired" means, ms since 1970; ``None`` = when the RDB was made (its field ``ctime``).
    :param checkpoint: called now and then, may raise.
    :raises Damaged: it is not a whole RDB of a version that is known.
    """
    walk = RdbWalk(chunks, what)
    counted: dict[int, DatabaseStatistics] = {}
    functions, modules, now, seen = 0, set[str](), at_ms or 0, 0
    for item in walk:
        if isinstance(item, Key):
            database = counted.get(item.database)
            if database is None:
                database = counted[item.database] = DatabaseStatistics()
            _count(database, item, now)
            if item.module:
                modules.add(item.module)
            seen += 1
            if not seen % _CHECKPOINT_KEYS:
                checkpoint()
        elif isinstance(item, Aux):
            if item.name == b"ctime" and at_ms is None and item.value.isdigit():
                now = 1000 * int(item.value)
        elif isinstance(item, Function):
            functions += 1
        elif isinstance(item, ModuleAux):
            modules.add(item.module)
    if walk.facts is None:
        raise RuntimeError("a walk that ended without facts")
    return RdbStatistics(now, walk.facts, counted, functions, tuple(sorted(modules)))


def _count(database: DatabaseStatistics, key: Key, now: int) -> None:
    database.keys += 1
    database.value_bytes += key.size
    database.types[key.type_name] += 1
    if key.expire_ms >= 0:
        left = key.expire_ms - now
        database.expires += 1
        if left < 0:
            database.expired += 1
            database.ttls[TTL_EXPIRED] += 1
        else:
            database.ttls[next((name for bound, name in TTL_BUCKETS if left <= 1000 * bound), TTL_MORE)] += 1
