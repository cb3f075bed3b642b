"""Counting an RDB: what a server that loads it will say of itself."""

from __future__ import annotations

from collections import Counter

import pytest

from mingus_engine.errors import Cancelled, Damaged
from mingus_engine.redis.rdb_statistics import statistics
from tests.support.fixtures import MakeRedis
from tests.support.redis_data import fill_every_encoding


def test_the_counts_are_those_of_the_server_that_loads_it(make_redis: MakeRedis) -> None:
    origin, loaded = make_redis(), make_redis(start=False)
    fill_every_encoding(origin)
    origin.execute("SAVE")
    data = (origin.directory / "dump.rdb").read_bytes()
    (loaded.directory / "dump.rdb").write_bytes(data)
    loaded.start()
    found = statistics([data], at_ms=1000 * int(origin.execute("TIME")[0]) + 1000)
    assert found.functions == 1
    assert sorted(found.databases) == [0, 3, 15]
    for number, database in found.databases.items():
        with loaded.client(number) as client:
            assert client.dbsize() == database.keys - database.expired
            types = Counter(client.type(key).decode() for key in client.scan_iter(count=1000))
            types.update({"string": database.expired})
            assert types == database.types
    sessions = found.databases[3]
    assert (sessions.keys, sessions.expires, sessions.expired) == (502, 502, 1)
    assert sessions.ttls == {"expired": 1, "1 h": sessions.ttls["1 h"], "1 d": 501 - sessions.ttls["1 h"]}
    assert found.keys == sum(database.keys for database in found.databases.values())
    assert found.as_dict()["databases"]["15"] == {
        "keys": 1, "expires": 0, "expired": 0, "value_bytes": 2, "types": {"string": 1}, "ttls": {},
    }  # fmt: skip


def test_what_is_left_of_a_life_is_reckoned_from_when_the_rdb_was_made(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.execute("SET", "a", "b", "EX", "50")
    server.execute("SAVE")
    found = statistics([(server.directory / "dump.rdb").read_bytes()])
    assert found.at_ms == 1000 * int(found.facts.aux["ctime"])
    assert found.databases[0].ttls == {"1 min": 1}


def test_a_caller_can_end_it_and_damage_does(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.fill(5000)
    server.execute("SAVE")
    data = (server.directory / "dump.rdb").read_bytes()

    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        statistics([data], checkpoint=stop)
    with pytest.raises(Damaged, match="ends where"):
        statistics([data[:-100]])
