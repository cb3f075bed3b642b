"""Restoring keys into a cluster: each at the node of its slot, also while slots move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from mingus_engine.errors import TargetError, TargetNotEmpty
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.into import Into, Plan
from mingus_engine.redis.rdb import Key, RdbWalk
from tests.mingus_engine.jobs.redis.restoring import opened, saved, stored
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer
from tests.support.redis_clusters import SLOTS, move_slot, start_cluster
from tests.support.redis_data import LIBRARY

COUNT = 3000


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


def test_every_key_goes_to_the_node_of_its_slot(data: bytes, make_redis: MakeRedis) -> None:
    nodes = start_cluster(make_redis)
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


def test_a_slot_that_moves_half_way_is_followed(data: bytes, make_redis: MakeRedis) -> None:
    nodes = start_cluster(make_redis)
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


def test_a_cluster_has_one_database(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.execute("SET", "a", "1", database=4)
    other = saved(server)
    nodes = start_cluster(make_redis, 1)
    with pytest.raises(TargetError, match="is a cluster, which has database 0 alone; the snapshot has keys in 4"):
        restore(nodes[0], other)
    assert restore(nodes[0], other, database_map={4: 0})["restored"] == 1


def test_a_cluster_without_all_its_slots_is_refused(data: bytes, make_redis: MakeRedis) -> None:
    (node,) = start_cluster(make_redis, 1)
    node.execute("CLUSTER", "DELSLOTS", 77)
    with pytest.raises(TargetError, match="1 slots of the cluster belong to no node"):
        restore(node, data)
