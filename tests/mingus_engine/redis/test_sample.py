"""A sample finds what a restore lost or changed, and nothing where the server merely differs in how it stores it."""

import time

import pytest
import redis

from mingus_engine.errors import Damaged
from mingus_engine.redis import sample
from mingus_engine.redis.sample import Sample, SampledKey
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer

LIBRARY = "#!lua name=money\nredis.register_function('cents', function(keys, args) return 100 end)"


def furnish(client: redis.Redis) -> None:
    """Every type, in both encodings where there are two, and an expiry."""
    client.set("text", b"\x00\xff", px=3_600_000)
    client.set("number", 7)
    client.rpush("list", *range(300))
    for name, size in (("small", 5), ("large", 2000)):
        client.sadd(f"set:{name}", *(f"m{i}" for i in range(size)))
        client.hset(f"hash:{name}", mapping={f"f{i}": i for i in range(size)})
        client.zadd(f"zset:{name}", {f"m{i}": i / 3 for i in range(size)})
    for i in range(5):
        client.xadd("stream", {"a": i})
    client.xgroup_create("stream", "readers", 0)
    client.xreadgroup("readers", "one", {"stream": ">"}, count=3)
    client.function_load(LIBRARY)


def everything(server: RedisServer, limit: int = 1000) -> Sample:
    with server.client() as client:
        info = client.info("keyspace")
        databases = {int(name[2:]): int(values["keys"]) for name, values in info.items()}
        return sample.take(client, databases, limit)


def checked(recorded: Sample, server: RedisServer, now_ms: int | None = None) -> dict[str, bool]:
    with server.client() as client:
        measured = sample.again(client, recorded)
    found = sample.compare(recorded, measured, now_ms or time.time_ns() // 1_000_000)
    return {check.name: check.ok for check in found}


def test_a_server_that_loaded_the_same_data_gives_the_same_sample(make_redis: MakeRedis) -> None:
    origin = make_redis()
    with origin.client() as client, origin.client(3) as third:
        furnish(client)
        third.set("elsewhere", "x")
        client.save()
    taken = everything(origin)
    assert taken.types == {"string": 3, "list": 1, "set": 2, "hash": 2, "zset": 2, "stream": 1}
    assert all(key.digest for key in taken.keys)
    # Another seed of its tables, and other encodings: DUMP would differ.
    other = make_redis(start=False, hash_max_listpack_entries=2, set_max_intset_entries=1, list_compress_depth=1)
    (other.directory / "dump.rdb").write_bytes((origin.directory / "dump.rdb").read_bytes())
    other.start()
    decoded = sample.decode(taken.encode(), "sample")
    assert checked(decoded, other) == {"sampled keys": True, "functions": True}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (("DEL", "number"), "sampled keys"),
        (("SET", "number", "8"), "sampled keys"),
        (("PERSIST", "text"), "sampled keys"),
        (("PEXPIRE", "number", "1000000"), "sampled keys"),
        (("HSET", "hash:large", "f7", "other"), "sampled keys"),
        (("SREM", "set:large", "m7"), "sampled keys"),
        (("ZINCRBY", "zset:large", "1", "m7"), "sampled keys"),
        (("LSET", "list", "7", "other"), "sampled keys"),
        (("XADD", "stream", "*", "a", "1"), "sampled keys"),
        (("XGROUP", "DESTROY", "stream", "readers"), "sampled keys"),
        (("XGROUP", "CREATE", "stream", "more", "0"), "sampled keys"),
        (("XACK", "stream", "readers", "{first}"), "sampled keys"),
        (("FUNCTION", "FLUSH"), "functions"),
        (("FUNCTION", "LOAD", "REPLACE", LIBRARY.replace("100", "99")), "functions"),
    ],
)
def test_every_change_is_found(make_redis: MakeRedis, change: tuple[str, ...], failing: str) -> None:
    server = make_redis()
    with server.client() as client:
        furnish(client)
        taken = everything(server)
        assert checked(taken, server) == {"sampled keys": True, "functions": True}
        ((first, _), *_) = client.xrange("stream")
        client.execute_command(*(part.replace("{first}", first.decode()) for part in change))
    assert [name for name, ok in checked(taken, server).items() if not ok] == [failing]


def test_a_key_may_be_gone_only_when_its_time_has_come() -> None:
    recorded = Sample(
        [SampledKey(0, b"a", "string", "00", 1000), SampledKey(0, b"b", "string", "00", sample.NO_EXPIRY)]
    )
    there = Sample([recorded.keys[1]])
    assert sample.compare(recorded, there, 1000)[0].ok
    assert not sample.compare(recorded, there, 999)[0].ok
    assert not sample.compare(recorded, Sample([recorded.keys[0]]), 10**15)[0].ok


def test_what_changed_while_the_server_forked_is_left_out_and_counted(make_redis: MakeRedis) -> None:
    server = make_redis()
    with server.client() as client:
        furnish(client)
        first = everything(server)
        client.incr("number")
        client.delete("list")
        kept = sample.steady(first, sample.again(client, first))
    assert kept.unsteady == 2
    assert {key.key for key in first.keys} - {key.key for key in kept.keys} == {b"number", b"list"}
    assert kept.functions is not None


def test_many_keys_are_sampled_in_part_and_streams_are_found_among_them(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.execute("DEBUG", "POPULATE", 20000)
    server.execute("XADD", "stream", "*", "a", "1")
    first, second = everything(server, 300), everything(server, 300)
    assert first.types["stream"] == second.types["stream"] == 1
    assert 300 <= first.types["string"] <= 300 + sample._SCAN_COUNT
    assert set(first.keys) != set(second.keys)  # another day, other keys


def test_a_large_value_is_not_read_but_must_be_there(make_redis: MakeRedis) -> None:
    server = make_redis()
    server.execute("SET", "large", b"x" * (sample.VALUE_MAX_BYTES + 1))
    taken = everything(server)
    assert taken.keys[0].digest == ""
    assert checked(taken, server)["sampled keys"]
    server.execute("DEL", "large")
    assert not checked(taken, server)["sampled keys"]


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"keys":[[1]],"functions":null,"unsteady":0}', b"\xff",
                                 b'{"keys":[[-1,"YQ==","string","",0]],"functions":null,"unsteady":0}'])  # fmt: skip
def test_what_is_no_sample_is_refused(raw: bytes) -> None:
    with pytest.raises(Damaged):
        sample.decode(raw, "sample")
