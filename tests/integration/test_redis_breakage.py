"""What once let a backup of Redis say more than was true, or less."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from mingus_engine.errors import BackupBroken, SettingsError
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.redis.restore_into import restore_into
from tests.integration.test_redis_stream import drain, installed, recovered
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest

_SCRIPT = (
    "for i = 1, 20 do redis.call('set', KEYS[1] .. i, ARGV[1] .. i) end"
    " redis.call('del', KEYS[1] .. 3) return redis.call('rpush', KEYS[1] .. 'l', ARGV[1])"
)
_LIBRARY = (
    "#!lua name=lib\nredis.register_function('f%d', function(k, a) return redis.call('set', k[1], a[1]) end)"
)  # fmt: skip


def test_whatever_is_done_to_databases_the_recorded_commands_give_the_same(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace, repl_backlog_size="64mb") as (server, mingus):
        drain(mingus)
        marks = {}
        for number in range(120):
            _do_something(server, number)
            if number % 40 == 39:
                wait_until(lambda: _nothing_expires(server), "what has expired is deleted")
                marks[server.info()["master_repl_offset"]] = digest(server), server.client().function_list()
                assert not drain(mingus).gaps
                back_up(mingus.settings, SOURCE, context=mingus.context())
        for offset, (expected, functions) in marks.items():
            again = recovered(make_redis, mingus, f"offset:{offset}")
            assert digest(again) == expected
            assert again.client().function_list() == functions
            again.kill()


def test_a_snapshot_later_in_the_same_second_does_not_stand_for_a_moment(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        for _ in range(2):  # the second one may fall into a later second
            drain(mingus)
            wait_until(lambda: server.client().time()[1] < 200_000, "a second begins")
            seconds, micros = server.client().time()
            moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
            server.client().set("later", "than that")
            back_up(mingus.settings, SOURCE, context=mingus.context())
            drain(mingus)
            again = recovered(make_redis, mingus, f"time:{moment.isoformat()}")
            assert again.client().get("later") is None
            again.kill()
            server.client().delete("later")


def test_a_file_that_another_server_saved_at_the_same_time_is_refused(make_redis: MakeRedis, workspace: Path) -> None:
    own, other = make_redis(), make_redis()
    own.fill(100)
    other.fill(5000)
    stop = threading.Event()

    def save_always() -> None:
        while not stop.wait(0.02):
            with suppress(redis.ResponseError):
                other.client().bgsave()

    saving = threading.Thread(target=save_always)
    saving.start()
    try:
        how = {"transport": "bgsave", "data_directory": str(other.directory)}
        with RedisInstallation.make(workspace / "m", own, **how) as mingus:
            with pytest.raises(BackupBroken):
                back_up(mingus.settings, SOURCE, context=mingus.context())
            assert mingus.manifests() == []
    finally:
        stop.set()
        saving.join()


def _nothing_expires(server: RedisServer) -> bool:
    """Whether no key is there whose time is over: the digest counts those, too, and nobody else sees them."""
    clients = [server.client(number) for number in range(16)]
    return all(client.dbsize() == len(client.keys()) for client in clients)


def _do_something(server: RedisServer, number: int) -> None:
    """One of many things that change data in ways of their own, in any database."""
    chance = random.Random(number)
    client, other = server.client(chance.randrange(16)), chance.randrange(16)
    with suppress(redis.ResponseError):
        what = chance.randrange(16)
        if what < 8:
            _change_databases(client, what, number, other, chance)
        else:
            _change_values(client, what, number)


def _change_databases(client: redis.Redis, what: int, number: int, other: int, chance: random.Random) -> None:
    match what:
        case 0:
            client.flushdb()
        case 1:
            client.swapdb(other, chance.randrange(16))
        case 2:
            client.set("a", number)
            client.rename("a", b"b\n\xff")
        case 3:
            with client.pipeline(transaction=True) as batch:
                batch.set("m", number).incr("n").publish("PING", "x").move("m", other).lpush("l", *range(50))
                batch.execute(raise_on_error=False)
        case 4:
            client.eval(_SCRIPT, 1, "lua", number)
        case 5:
            for key in range(50):
                client.set(f"gone{key}", "x", px=1)
        case 6:
            client.set("big", chance.randbytes(3 << 20))
            client.copy("big", "big2", destination_db=other, replace=True)
        case 7:
            client.xadd("stream", {"f": number})
            client.xgroup_create("stream", f"group{number}", "0")
            client.xreadgroup(f"group{number}", "me", {"stream": ">"}, count=5)


def _change_values(client: redis.Redis, what: int, number: int) -> None:
    match what:
        case 8:
            client.pfadd("hll", *range(number))
            client.setrange("range", 70000, "x")
        case 9:
            client.sadd("set", *range(100))
            client.spop("set", 7)
        case 10:
            client.incrbyfloat("float", 0.1)
            client.hincrbyfloat("hash", "f", 0.3)
        case 11:
            client.function_load(_LIBRARY % number, replace=True)
            client.fcall(f"f{number}", 1, "by function", number)
        case 12:
            client.set("d", number)
            client.restore(b"r\r\n*1\r\n$4\r\nPING\r\n", 0, client.dump("d"), replace=True)
        case 13:
            client.zadd("z", {f"{i}": 1 / (i + 1) for i in range(200)})
            client.zpopmin("z", 3)
            client.zunionstore("zz", ["z", "zz"])
        case 14:
            client.rpush("unsorted", *range(100))
            client.sort("unsorted", store="sorted")
            client.lmove("unsorted", "sorted")
        case _:
            client.unlink("big", "big2")
            client.set("t", 1, ex=10000)
            client.expire("hash", 5000)


def test_two_databases_never_go_into_one(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        for number in (1, 5):
            server.client(number).set("key", f"of {number}")
        back_up(mingus.settings, SOURCE, context=mingus.context())
        target = make_redis()
        for to, conflict in ((None, "replace"), (None, "skip"), ("latest", "replace")):
            with pytest.raises(SettingsError, match="databases 1 and 5 of the snapshot both go into 5"):
                restore_into(
                    mingus.settings, SOURCE, into=f"redis://127.0.0.1:{target.port}", database_map={1: 5}, to=to,
                    conflict=conflict, context=mingus.context(),  # type: ignore[arg-type]
                )  # fmt: skip
            assert not target.client(5).exists("key") or to
            target.client().flushall()
