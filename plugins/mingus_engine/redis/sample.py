"""Some keys and every function of a server, as digests: taken with a backup, compared after a restore.

Digests are of values, not of ``DUMP``: hashes and sets are dumped in the order of a table whose seed each process
makes up, so equal ones differ. A stream's digest covers its entries, groups, consumers and what is pending.

A backup reads the keys before the server forks and again right after: what was equal both times is in the RDB exactly
so (``steady``); the rest is left out and counted. A restored server must then give the same (``compare``), except for
keys whose time has come. What a key costs the server is bounded: large values are only looked at (type, expiry).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import redis

from mingus_engine.bounds import KIB
from mingus_engine.checks import Check
from mingus_engine.errors import Damaged
from mingus_engine.redis.client import ask

#: Where a snapshot has it, below ``shard-<n>/`` in a cluster.
SAMPLE_PATH = b"mingus-origin/sample.json"
#: A value that takes more of the server's memory is not read: it would hold everybody else up.
VALUE_MAX_BYTES = 256 * KIB
# One SCAN looks at so many buckets, some 50 µs of the server's time; keys are read in batches of the same order.
_SCAN_COUNT = 200
_BATCH_KEYS = 100
# Streams are rare where keys are many, and their groups are what restores get wrong: so many are looked for besides.
_STREAMS = 20
_STREAM_SCANS = 200
_DATABASES_MAX = 1 << 20
NO_EXPIRY = -1


class SampledKey(NamedTuple):
    """One key. ``digest``: hex, empty = the value was not read. ``expires_at_ms``: since 1970, -1 = never."""

    database: int
    key: bytes
    type: str
    digest: str
    expires_at_ms: int


@dataclass(frozen=True)
class Sample:
    """What was found. ``functions``: SHA-256 (hex) of each library's code by its name, ``None`` = could not be asked.

    :param unsteady: keys that were taken, but changed or went while the server forked; they are not in ``keys``.
    """

    keys: Sequence[SampledKey]
    functions: Mapping[str, str] | None = None
    unsteady: int = 0

    @property
    def types(self) -> dict[str, int]:
        """How many keys of each type."""
        return dict(Counter(key.type for key in self.keys))

    def encode(self) -> bytes:
        """The file :data:`SAMPLE_PATH`; its layout is in docs/FORMAT.md."""
        document = {
            "keys": [[k.database, b64encode(k.key).decode(), k.type, k.digest, k.expires_at_ms] for k in self.keys],
            "functions": dict(self.functions) if self.functions is not None else None,
            "unsteady": self.unsteady,
        }
        return json.dumps(document, separators=(",", ":")).encode()


def decode(raw: bytes, what: str) -> Sample:
    """:raises Damaged: *raw* is no :meth:`Sample.encode`."""
    try:
        document = json.loads(raw)
        keys = [
            SampledKey(int(database), b64decode(key, validate=True), str(kind), str(digest), int(expires))
            for database, key, kind, digest, expires in document["keys"]
        ]
        if any(not 0 <= key.database < _DATABASES_MAX for key in keys):
            raise ValueError("number of a database")
        functions = document["functions"]
        if functions is not None:
            functions = {str(name): str(digest) for name, digest in functions.items()}
        return Sample(keys, functions, int(document["unsteady"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{what}: is no sample of keys: {error}") from None


def take(client: redis.Redis, databases: Mapping[int, int], limit: int, *, seconds: float = 10.0) -> Sample:
    """At most *limit* keys from a random place of every database, some streams more, and all functions.

    :param client: of any database; is left on database 0. :param databases: number → how many keys it has.
    :param seconds: after which no more keys are looked for.
    :raises redis.RedisError: a command is refused, or the connection broke.
    """
    deadline = time.monotonic() + seconds
    keys: list[SampledKey] = []
    total = sum(databases.values())
    for database, count in sorted(databases.items()):
        if not count or not limit or time.monotonic() > deadline:
            continue
        share = max(1, limit * count // total)
        found = dict.fromkeys(islice(_some(client, database, deadline), share))
        found |= dict.fromkeys(islice(_streams(client, database, deadline), _STREAMS))
        keys += _read(client, [(database, key) for key in found], deadline)
    ask(client, "SELECT", 0)
    return Sample(keys, functions(client))


def again(client: redis.Redis, sample: Sample, *, seconds: float = 600.0) -> Sample:
    """The keys of *sample* as they are now; those that are not there are left out.

    :raises redis.RedisError: as :func:`take`.
    """
    names = [(key.database, key.key) for key in sample.keys]
    keys = list(_read(client, names, time.monotonic() + seconds))
    ask(client, "SELECT", 0)
    return Sample(keys, functions(client))


def steady(first: Sample, second: Sample) -> Sample:
    """What was the same in both; a value that could not be read in one of them keeps its type and expiry."""
    now = {(key.database, key.key): key for key in second.keys}
    kept = []
    for key in first.keys:
        other = now.get((key.database, key.key))
        if other is not None and not (key.digest and other.digest):
            key, other = key._replace(digest=""), other._replace(digest="")
        if other == key:
            kept.append(key)
    same = first.functions if first.functions == second.functions else None
    return Sample(kept, same, first.unsteady + len(first.keys) - len(kept))


def compare(recorded: Sample, measured: Sample, now_ms: int) -> list[Check]:
    """Whether a restored server, *measured* by :func:`again`, holds what was recorded.

    :param now_ms: the restored server's clock since 1970: keys that expire before need not be there.
    """
    there = {(key.database, key.key): key for key in measured.keys}
    missing = changed = expired = 0
    for key in recorded.keys:
        other = there.get((key.database, key.key))
        if other is None:
            due = key.expires_at_ms != NO_EXPIRY and key.expires_at_ms <= now_ms
            expired, missing = expired + due, missing + (not due)
        elif other._replace(digest=other.digest if key.digest else "") != key:
            changed += 1
    numbers = {"keys": len(recorded.keys), "missing": missing, "changed": changed, "expired": expired}
    detail = f"{len(recorded.keys) - missing - changed - expired} of {len(recorded.keys)} keys as recorded"
    if expired:
        detail += f", {expired} expired since"
    if missing or changed:
        detail += f", {missing} missing, {changed} different"
    return [
        Check("sampled keys", not missing and not changed, detail, numbers),
        *_functions_compared(recorded, measured),
    ]


def functions(client: redis.Redis) -> dict[str, str] | None:
    """SHA-256 of each library's code by its name; ``None``: the server has no functions, or does not tell.

    :raises redis.RedisError: the connection broke.
    """
    try:
        libraries = ask(client, "FUNCTION", "LIST", "WITHCODE")
    except redis.ResponseError:
        return None
    found = {}
    for library in map(_pairs, libraries):
        name = bytes(library[b"library_name"]).decode("utf-8", "replace")
        found[name] = hashlib.sha256(bytes(library[b"library_code"])).hexdigest()
    return found


def _functions_compared(recorded: Sample, measured: Sample) -> list[Check]:
    if recorded.functions is None:
        return []
    ours, theirs = recorded.functions, measured.functions or {}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    detail = f"differ: {', '.join(wrong)[:500]}" if wrong else f"{len(ours)} libraries as recorded"
    return [Check("functions", not wrong, detail)]


def _some(client: redis.Redis, database: int, deadline: float) -> Iterator[bytes]:
    """Keys from a random place on, all in the end; a key may come twice."""
    cursor, wrapped = secrets.randbits(63), False
    while time.monotonic() < deadline:
        cursor, keys = _scan(client, database, cursor)
        yield from keys
        if cursor == 0:
            if wrapped:
                return
            wrapped = True


def _streams(client: redis.Redis, database: int, deadline: float) -> Iterator[bytes]:
    cursor = 0
    for _ in range(_STREAM_SCANS):
        cursor, keys = _scan(client, database, cursor, "TYPE", "stream")
        yield from keys
        if cursor == 0 or time.monotonic() > deadline:
            return


def _scan(client: redis.Redis, database: int, cursor: int, *more: str) -> tuple[int, list[bytes]]:
    ((cursor, keys),) = _asked(client, database, [("SCAN", cursor, "COUNT", _SCAN_COUNT, *more)])
    return int(cursor), keys


def _read(client: redis.Redis, names: Sequence[tuple[int, bytes]], deadline: float) -> Iterator[SampledKey]:
    """What there is of the keys *names*, which are grouped by database."""
    for at in range(0, len(names), _BATCH_KEYS):
        if time.monotonic() > deadline:
            return
        batch = names[at : at + _BATCH_KEYS]
        for database in sorted({database for database, _ in batch}):
            yield from _read_batch(client, database, [key for of, key in batch if of == database])


def _read_batch(client: redis.Redis, database: int, keys: Sequence[bytes]) -> Iterator[SampledKey]:
    asked: list[tuple[Any, ...]] = []
    for key in keys:
        asked += [("TYPE", key), ("PEXPIRETIME", key), ("MEMORY", "USAGE", key)]
    answers = _asked(client, database, asked)
    found = []
    for key, kind, expires, used in zip(keys, answers[::3], answers[1::3], answers[2::3], strict=True):
        if expires != -2 and used is not None:
            found.append((SampledKey(database, key, kind.decode(), "", expires), int(used)))
    small = [one for one, used in found if used <= VALUE_MAX_BYTES and one.type in _READERS]
    values = _asked(client, database, [_READERS[one.type](one.key) for one in small])
    digests = {one.key: _digest(one.type, value) for one, value in zip(small, values, strict=True)}
    for one, _ in found:
        yield one._replace(digest=digests.get(one.key, ""))


def _asked(client: redis.Redis, database: int, commands: Iterable[Sequence[Any]]) -> list[Any]:
    """The answers to *commands* in one round trip. An answer may be an error only if a value changed its type."""
    pipeline = client.pipeline(transaction=False)
    ask(pipeline, "SELECT", database)
    for command in commands:
        ask(pipeline, *command)
    answers: list[Any] = pipeline.execute(raise_on_error=False)[1:]
    for answer in answers:
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    return answers


_READERS: Mapping[str, Callable[[bytes], Sequence[Any]]] = {
    "string": lambda key: ("GET", key),
    "list": lambda key: ("LRANGE", key, 0, -1),
    "set": lambda key: ("SMEMBERS", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    "hash": lambda key: ("HGETALL", key),
    "stream": lambda key: ("XINFO", "STREAM", key, "FULL", "COUNT", 0),
}


def _digest(kind: str, value: Any) -> str:
    """Of a value as its reader gave it; empty = it was gone, or of another type by then."""
    if value is None or isinstance(value, Exception):
        return ""
    state = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in _parts(kind, value):
        # Prefixed with its length: ("ab", "c") must not be ("a", "bc").
        raw = part if isinstance(part, bytes) else str(part).encode()
        state.update(b"%d:" % len(raw) + raw)
    return state.hexdigest()


def _parts(kind: str, value: Any) -> Iterable[bytes | int | str]:
    """What makes up a value, in an order of its own."""
    if kind == "string":
        return [value]
    if kind == "set":
        return sorted(value)
    if kind == "hash":
        return [part for pair in sorted(_pairs(value).items()) for part in pair]
    if kind == "stream":
        return _stream_parts(_pairs(value))
    return list(value)


def _stream_parts(stream: Mapping[bytes, Any]) -> Iterator[bytes | int | str]:
    yield from (stream[b"length"], stream[b"last-generated-id"])
    for number, fields in stream[b"entries"]:
        yield from (number, len(fields or ()), *(fields or ()))
    for group in map(_pairs, stream[b"groups"]):
        yield from ("group", group[b"name"], group[b"last-delivered-id"])
        for number, consumer, _, deliveries in group[b"pending"] if b"pending" in group else group[b"pel"]:
            yield from (number, consumer, deliveries)
        for consumer in map(_pairs, group[b"consumers"]):
            yield from ("consumer", consumer[b"name"])


def _pairs(flat: Any) -> dict[bytes, Any]:
    """A map as RESP 2 gives it, names and values in turn; or as RESP 3 does."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
