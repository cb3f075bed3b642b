"""Restoring keys into a cluster: each at the node of its slot, also while slots move; by Sentinels, and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from mingus_engine.errors import TargetError, TargetNotEmpty, TargetUnreachable
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.into import Into, Plan
from mingus_engine.jobs.redis.restore_into import opened_target
from mingus_engine.redis.rdb import Key, RdbWalk
from mingus_engine.settings import DestinationSettings, RedisConnection, RedisDestination
from tests.mingus_engine.jobs.redis.restoring import opened, saved, stored
from tests.support.fixtures import MakeRedis, MakeRedisCluster
from tests.support.processes import run, wait_until
from tests.support.redis import RedisServer, free_port
from tests.support.redis_data import LIBRARY

COUNT = 3000
SLOTS = 16384


@pytest.fixture(scope="module")
def data(session_directory: Path) -> Iterator[bytes]:
    """3,000 sessions and a library of functions; one key in database 4."""
    with RedisServer(session_directory / "clustered", {}) as server:
        server.start().fill(COUNT, ttl_s=3600)
        server.execute("FUNCTION", "LOAD", LIBRARY)
        yield saved(server)


def restore(node: RedisServer, data: bytes, **plan: Any) -> dict[str, Any]:
    with opened(node, cluster=True) as target:
        return Into(target, [stored(data)], Plan(**plan), JobContext()).run()


def sizes(nodes: list[RedisServer]) -> list[int]:
    return [node.execute("DBSIZE") for node in nodes]


def names(data: bytes) -> list[bytes]:
    return [item.name for item in RdbWalk([data]) if isinstance(item, Key)]


def move_slot(slot: int, origin: RedisServer, target: RedisServer, *, done: bool = True) -> None:
    """Move an empty slot; not *done* = leave it half moved: *origin* asks for keys that it lacks to be asked there."""
    there, here = (node.cli("CLUSTER", "MYID").strip() for node in (target, origin))
    target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    origin.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    if done:
        for node in (target, origin):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", there)


def test_every_key_goes_to_the_node_of_its_slot(data: bytes, make_redis_cluster: MakeRedisCluster) -> None:
    nodes = make_redis_cluster().nodes
    bounds = [SLOTS * number // 3 for number in range(4)]
    expected = [sum(bounds[n] <= key_slot(name) < bounds[n + 1] for name in names(data)) for n in range(3)]
    found = restore(nodes[1], data, functions=True)  # any node is as good
    assert found["restored"] == COUNT
    assert sizes(nodes) == expected
    assert all(node.execute("FUNCTION", "LIST") for node in nodes)
    with pytest.raises(TargetNotEmpty, match="nothing was written"):
        restore(nodes[0], data)
    with pytest.raises(TargetNotEmpty, match="has 3,000 of the keys already"):
        restore(nodes[0], data, patterns=(b"session:*",))
    assert restore(nodes[2], data, conflict="skip")["skipped"] == COUNT
    assert restore(nodes[2], data, conflict="replace")["replaced"] == COUNT


def test_a_slot_that_moves_half_way_is_followed(data: bytes, make_redis_cluster: MakeRedisCluster) -> None:
    nodes = make_redis_cluster().nodes
    moving = [key_slot(name) for name in names(data)[:40] if key_slot(name) < SLOTS // 3]
    with opened(nodes[0], cluster=True) as target:
        # Both behind the back of what was just asked for the slots.
        for number, slot in enumerate(moving):
            move_slot(slot, nodes[0], nodes[2], done=number % 2 == 0)
        found = Into(target, [stored(data)], Plan(), JobContext()).run()
    assert found["restored"] == COUNT == sum(sizes(nodes))
    for number, slot in enumerate(moving):
        held = [node.execute("CLUSTER", "COUNTKEYSINSLOT", slot) for node in nodes]
        assert held[2] > 0
        assert held[0] == 0, (number, slot)


def test_a_key_that_its_new_node_refuses_is_no_success(data: bytes, make_redis_cluster: MakeRedisCluster) -> None:
    nodes = make_redis_cluster().nodes
    moving = [name for name in names(data)[:40] if key_slot(name) < SLOTS // 3]
    with opened(nodes[0], cluster=True) as target:
        for slot in {key_slot(name) for name in moving}:
            move_slot(slot, nodes[0], nodes[2])
        nodes[2].execute("CONFIG", "SET", "maxmemory", "1000")
        with pytest.raises(TargetError, match=r"OOM .*; 0 keys were restored before"):
            Into(target, [stored(data)], Plan(patterns=tuple(moving)), JobContext()).run()
    assert sum(sizes(nodes)) == 0


def test_a_cluster_has_one_database(make_redis: MakeRedis, make_redis_cluster: MakeRedisCluster) -> None:
    server = make_redis()
    server.execute("SET", "a", "1", database=4)
    other = saved(server)
    nodes = make_redis_cluster(1).nodes
    with pytest.raises(TargetError, match="is a cluster, which has database 0 alone; the snapshot has keys in 4"):
        restore(nodes[0], other)
    assert restore(nodes[0], other, database_map={4: 0})["restored"] == 1


def test_a_cluster_without_all_its_slots_is_refused(data: bytes, make_redis_cluster: MakeRedisCluster) -> None:
    (node,) = make_redis_cluster(1).nodes
    node.execute("CLUSTER", "DELSLOTS", 77)
    with pytest.raises(TargetError, match="1 slots of the cluster belong to no node"):
        restore(node, data)


def test_the_primary_that_sentinels_name_is_restored_into(
    data: bytes, make_redis: MakeRedis, make_sentinel: MakeRedis
) -> None:
    primary = make_redis()
    replica = make_redis(replicaof=primary)
    sentinel = make_sentinel(primary)
    connection = RedisConnection(
        sentinels=(f"127.0.0.1:{sentinel.port}",), sentinel_master="mymaster", user="", sentinel_user="",
        password_env="", sentinel_password_env="",
    )  # fmt: skip
    chosen = DestinationSettings("staging", kind="redis", redis=RedisDestination(connection))
    with opened_target(chosen, JobContext()) as target:
        assert Into(target, [stored(data)], Plan(), JobContext()).run()["restored"] == COUNT
    wait_until(lambda: replica.execute("DBSIZE") == COUNT, "the replica has the keys, too")
    sentinel.kill()
    with pytest.raises(TargetUnreachable, match="destination staging: no Sentinel"):
        opened_target(chosen, JobContext())


def test_it_goes_over_tls(data: bytes, make_redis: MakeRedis, workspace: Path) -> None:
    certificate, key, port = workspace / "localhost.crt", workspace / "localhost.key", free_port()
    run(["openssl", "req", "-new", "-x509", "-days", "1", "-nodes", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key])  # fmt: skip
    server = make_redis(
        tls_port=port, tls_cert_file=certificate, tls_key_file=key, tls_ca_cert_file=certificate, tls_auth_clients="no",
    )  # fmt: skip
    with opened(server, host="localhost", port=port, tls=True, ca_file=str(certificate)) as target:
        assert Into(target, [stored(data)], Plan(), JobContext()).run()["restored"] == COUNT
    with pytest.raises(TargetError, match="certificate"), opened(server, host="localhost", port=port, tls=True):
        pass
