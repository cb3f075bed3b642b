"""Which servers a source consists of: from the settings, from Sentinels, or from any node of a cluster.

Source: Redis documentation "Guidelines for Redis clients with support for Redis Sentinel", "CLUSTER SLOTS".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from mingus_engine.errors import BackupBroken, SettingsError, SourceError, SourceUnreachable, SourceUnsupported
from mingus_engine.redis.client import ask, connected, mapped, node_of, place
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis.server import read_info

SLOTS = 16384


@dataclass(frozen=True)
class Shard:
    """One primary and its replicas.

    :param name: ``""`` where there is no cluster, else ``shard-<n>``, n from 1 by the lowest slot.
    :param primary: the node the settings name, where there is neither Sentinel nor cluster: it may be a replica.
    :param replicas: known beforehand (Sentinel, cluster); else the primary is asked.
    """

    name: str
    primary: RedisConnection
    replicas: Sequence[RedisConnection] = ()
    slots: Sequence[tuple[int, int]] = field(default=())


def discover(conn: RedisConnection) -> list[Shard]:
    """The shards now, in order of their lowest slot.

    :raises SourceUnreachable: no Sentinel answers, or none knows a primary. :raises BackupBroken: a cluster without
        an owner for some slots. :raises SourceDenied, SourceUnsupported, SettingsError:
    """
    if conn.sentinels:
        return [_by_sentinels(conn)]
    if conn.cluster:
        return _cluster(conn)
    return [Shard("", conn)]


def _by_sentinels(conn: RedisConnection) -> Shard:
    """The first Sentinel that answers and knows is believed if the server it names is a primary."""
    if not conn.sentinel_master:
        raise SettingsError("redis.connection.sentinels needs sentinel_master: the name of the primary")
    problems = []
    for address in conn.sentinels:
        asked = _sentinel(conn, address)
        try:
            with (
                connected(asked, timeout_s=conn.connect_timeout_s, raw=True) as client,
                mapped(asked, "asking the Sentinel"),
            ):
                found = ask(client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", conn.sentinel_master)
                if found is None:
                    raise SourceUnsupported(f"{place(asked)}: this Sentinel knows no {conn.sentinel_master!r}")
                primary = node_of(conn, _text(found[0]), int(found[1]))
                replicas = [_pairs(one) for one in ask(client, "SENTINEL", "REPLICAS", conn.sentinel_master)]
            with connected(primary, raw=True) as client:
                wrong = read_info(client, primary).is_replica
            if wrong:
                raise SourceUnreachable(f"{place(primary)}: is no primary, although a Sentinel says so")
            return Shard("", primary, [node_of(conn, r["ip"], int(r["port"])) for r in replicas if _may_serve(r)])
        except SourceError as error:
            problems.append(error)
    raise SourceUnreachable(
        f"no Sentinel could name the primary {conn.sentinel_master!r}: "
        + "; ".join(error.message for error in problems)[:1000]
    )


def _may_serve(replica: dict[str, str]) -> bool:
    """Whether the Sentinel thinks that it can be asked. Port 0: no server, but a reader of the stream."""
    flags = set(replica.get("flags", "").split(","))
    return replica.get("port") != "0" and not flags & {"s_down", "o_down", "disconnected"}


def _sentinel(conn: RedisConnection, address: str) -> RedisConnection:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise SettingsError(f"redis.connection.sentinels: {address!r} is not host:port")
    return dataclasses.replace(
        node_of(conn, host.strip("[]"), int(port)),
        user=conn.sentinel_user, password=None, password_env=conn.sentinel_password_env, password_file="",
    )  # fmt: skip


def _cluster(conn: RedisConnection) -> list[Shard]:
    with connected(conn, raw=True) as client, mapped(conn, "asking for the cluster's slots"):
        try:
            ranges = ask(client, "CLUSTER", "SLOTS")
        except redis.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise SourceUnsupported(
                    f"{place(conn)}: is no cluster", hint="redis.connection.cluster: false"
                ) from None
            raise
    return shards_of(conn, ranges)


def shards_of(conn: RedisConnection, ranges: Any) -> list[Shard]:
    """The shards of an answer to ``CLUSTER SLOTS``.

    :raises BackupBroken: some slots have no owner.
    """
    nodes: dict[bytes, tuple[RedisConnection, list[RedisConnection]]] = {}
    slots: dict[bytes, list[tuple[int, int]]] = {}
    covered = 0
    for first, last, primary, *replicas in sorted(ranges, key=lambda found: int(found[0])):
        covered += int(last) - int(first) + 1
        nodes.setdefault(primary[2], (_node(conn, primary), [_node(conn, one) for one in replicas]))
        slots.setdefault(primary[2], []).append((int(first), int(last)))
    if covered != SLOTS:
        raise BackupBroken(
            f"{place(conn)}: {SLOTS - covered} of {SLOTS} slots of the cluster have no owner",
            hint="a backup without them would not be whole; `redis-cli --cluster check` says which",
        )
    return [Shard(f"shard-{number}", *nodes[node], slots=tuple(slots[node])) for number, node in enumerate(slots, 1)]


def _node(conn: RedisConnection, found: Any) -> RedisConnection:
    # Without a host: "the one you asked".
    return node_of(conn, _text(found[0]) or conn.host, int(found[1]))


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {_text(name): _text(value) for name, value in flat.items()}
    return {_text(name): _text(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
