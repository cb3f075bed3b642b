"""Restoring keys of an RDB into servers that run: all of them, chosen ones, beside others, and when it goes wrong."""

from __future__ import annotations

import pytest

from mingus_engine.errors import (
    TargetNotEmpty,
)  # fmt: skip
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.into import Into, Plan
from tests.mingus_engine.jobs.redis.restoring import opened, restore, saved, stored
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_data import fill_every_encoding


@pytest.fixture
def origin(make_redis: MakeRedis) -> RedisServer:
    server = make_redis()
    fill_every_encoding(server)
    return server


# -- what is asked for arrives ----------------------------------------------------------------------------------------


def test_everything_arrives_in_an_empty_server(origin: RedisServer, make_redis: MakeRedis) -> None:
    target = make_redis()
    found = restore(target, saved(origin), functions=True)
    origin.execute("DEL", "expired", database=3)
    assert target.execute("DEBUG", "DIGEST") == origin.execute("DEBUG", "DIGEST")
    assert target.execute("FCALL", "twice", 0, 21) == 42
    assert (found["expired"], found["functions"], found["replaced"], found["skipped"]) == (1, 1, 0, 0)
    assert found["databases"] == {
        str(number): origin.execute("DBSIZE", database=number) for number in (0, 3, 15)
    }  # fmt: skip
    assert found["restored"] == found["selected"] == sum(found["databases"].values())


def test_times_to_live_are_the_same_to_the_millisecond(origin: RedisServer, make_redis: MakeRedis) -> None:
    target = make_redis()
    restore(target, saved(origin), patterns=(b"session:*",))
    with origin.client(3) as there, target.client(3) as here:
        names = sorted(key for key in there.keys("session:*"))
        assert sorted(here.keys("*")) == names
        for name in names:
            assert here.pexpiretime(name) == there.pexpiretime(name) > 0


def test_keys_are_chosen_by_pattern_and_database_and_go_where_they_are_sent(
    origin: RedisServer, make_redis: MakeRedis
) -> None:
    target, data = make_redis(), saved(origin)
    found = restore(target, data, patterns=(b"session:1?", b"set:*"), databases=frozenset({3}), database_map={3: 0})
    assert found["restored"] == 10 == target.execute("DBSIZE")
    assert sorted(target.execute("KEYS", "*")) == sorted(b"session:%d" % n for n in range(10, 20))
    assert found["other"] > 10
    found = restore(target, data, databases=frozenset({15}), database_map={15: 9})
    assert target.execute("GET", "in the last database", database=9) == b"1"
    assert found["restored"] == 1


def test_functions_are_left_out_unless_they_are_asked_for(origin: RedisServer, make_redis: MakeRedis) -> None:
    target = make_redis()
    assert restore(target, saved(origin))["functions"] == 0
    assert target.execute("FUNCTION", "LIST") == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_how_a_key_was_used_is_kept(make_redis: MakeRedis, policy: str) -> None:
    server, target = make_redis(maxmemory_policy=policy), make_redis(maxmemory_policy=policy)
    command = ["IDLETIME", 5000] if policy == "allkeys-lru" else ["FREQ", 77]
    server.execute("SET", "key", "value")
    server.execute("RESTORE", "key", 0, server.execute("DUMP", "key"), "REPLACE", *command)
    restore(target, saved(server))
    word = "IDLETIME" if policy == "allkeys-lru" else "FREQ"
    assert target.execute("OBJECT", word, "key") in range(int(command[1]) - 20, int(command[1]) + 20)


def test_expired_keys_are_left_out_and_counted(make_redis: MakeRedis) -> None:
    server, target = make_redis(), make_redis()
    server.execute("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    with server.client() as client:
        for n in range(10):
            client.set(f"session:{n}", "x", px=1 if n < 4 else None)
    data = saved(server)
    wait_until(lambda: server.execute("EXISTS", "session:3") == 0, "the keys expired")
    found = restore(target, data)
    assert (found["restored"], found["expired"]) == (6, 4)
    assert target.execute("DBSIZE") == 6


# -- what is there already --------------------------------------------------------------------------------------------


def test_everything_into_a_server_that_holds_keys_needs_a_choice(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    target.execute("SET", "other", "1", database=5)
    with pytest.raises(TargetNotEmpty, match=r"database 5 of staging .* has 1 keys; nothing was written") as caught:
        restore(target, sessions)
    assert "--conflict" in caught.value.hint
    assert target.execute("DBSIZE") == 0
    assert restore(target, sessions, conflict="skip")["restored"] == 20000


def test_keys_in_the_way_are_counted_before_anything_is_written(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    for n in (7, 15000, 19999):
        target.execute("SET", f"session:{n}", "newer")
    with pytest.raises(TargetNotEmpty, match=r"has 3 of the keys already, .*'session:\d+'.*; nothing was written"):
        restore(target, sessions, patterns=(b"session:*",))
    assert target.execute("DBSIZE") == 3
    assert restore(target, sessions, patterns=(b"session:1*",), databases=frozenset({1}))["restored"] == 0
    assert restore(target, sessions, patterns=(b"session:2*",))["restored"] == 1111


def test_a_key_that_comes_in_between_is_not_overwritten(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    with opened(target) as opened_target:
        target.execute("SET", "session:9999", "newer")  # after the server was found empty
        with pytest.raises(TargetNotEmpty, match=r"has the key 'session:9999'; [\d,]+ keys were restored before"):
            Into(opened_target, [stored(sessions)], Plan(), JobContext()).run()
    assert target.execute("GET", "session:9999") == b"newer"


@pytest.mark.parametrize("conflict", ["skip", "replace"])
def test_what_is_there_is_kept_or_replaced_as_was_chosen(sessions: bytes, make_redis: MakeRedis, conflict: str) -> None:
    target = make_redis()
    for n in range(0, 20000, 4):
        target.execute("SET", f"session:{n}", "newer") if n < 400 else None
    found = restore(target, sessions, conflict=conflict)
    assert found["restored"] == 19900
    assert found["skipped" if conflict == "skip" else "replaced"] == 100
    assert found["replaced" if conflict == "skip" else "skipped"] == 0
    newer = target.execute("GET", "session:4") == b"newer"
    assert newer == (conflict == "skip")
    assert (target.execute("PEXPIRETIME", "session:4") > 0) == (conflict == "replace")


def test_a_library_of_functions_in_the_way_is_treated_likewise(origin: RedisServer, make_redis: MakeRedis) -> None:
    target, data = make_redis(), saved(origin)
    other = b"#!lua name=ledger\nredis.register_function('thrice', function(keys, args) return 3 * args[1] end)\n"
    target.execute("FUNCTION", "LOAD", other)
    with pytest.raises(TargetNotEmpty, match=r"has a library of functions named 'ledger'; 0 keys were restored"):
        restore(target, data, functions=True)
    assert restore(target, data, functions=True, conflict="skip")["functions"] == 0
    assert target.execute("FCALL", "thrice", 0, 2) == 6
    assert restore(target, data, functions=True, conflict="replace")["functions"] == 1
    assert target.execute("FCALL", "twice", 0, 2) == 4


def test_a_look_counts_and_writes_nothing(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    target.execute("SET", "session:1", "newer")
    with opened(target) as found:
        counted = Into(found, [stored(sessions)], Plan(patterns=(b"session:1*",)), JobContext()).look()
    assert (counted["selected"], counted["conflicts"], counted["restored"]) == (11111, 1, 0)
    assert target.execute("DBSIZE") == 1
