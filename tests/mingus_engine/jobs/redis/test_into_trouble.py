"""Restoring keys of an RDB into servers that run: what is refused, and what is told when it goes wrong half-way."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mingus_engine.errors import (
    Cancelled,
    Damaged,
    MingusError,
    SettingsError,
    TargetError,
    TargetNotEmpty,
    TargetUnreachable,
)  # fmt: skip
from mingus_engine.jobs.context import JobContext, Progress
from mingus_engine.jobs.redis import into
from mingus_engine.jobs.redis.into import Into, Plan
from mingus_engine.redis.rdb_format import crc64
from mingus_engine.settings import Secret
from mingus_engine.store.throttled import Bucket
from tests.mingus_engine.jobs.redis.restoring import opened, restore, saved, stored
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer

# -- what cannot be ---------------------------------------------------------------------------------------------------


def crafted(body: bytes, version: int) -> bytes:
    whole = b"REDIS%04d\xfe\x00" % version + body + b"\xff"
    return whole + crc64(whole).to_bytes(8, "little")


def test_an_older_server_is_refused_and_both_versions_are_named(make_redis: MakeRedis) -> None:
    target = make_redis()
    with pytest.raises(TargetError) as caught:
        restore(target, crafted(b"\x00\x01a\x01b", 12))
    assert "RDB 12 (Redis 7.0.15) → staging (127.0.0.1:" in caught.value.message
    assert "Redis 7.0.15 reads RDB up to 10" in caught.value.message
    assert target.execute("DBSIZE") == 0


def test_a_modules_value_is_refused_where_no_module_is(make_redis: MakeRedis) -> None:
    value = b"\x07\x01m\x81" + (0x1234 << 10 | 1).to_bytes(8, "big") + b"\x00"
    with pytest.raises(TargetError, match=r"'m' is of a module's type 'AAAAAABI0'; staging .* has no module"):
        restore(make_redis(), crafted(value, 10))


def test_a_database_that_is_not_there_is_refused(sessions: bytes, make_redis: MakeRedis) -> None:
    with pytest.raises(TargetError, match="database 5: ERR DB index is out of range; 0 keys"):
        restore(make_redis(databases=4), sessions, database_map={0: 5})


def test_what_cannot_be_chosen_is_refused() -> None:
    for wrong in ({"conflict": "merge"}, {"databases": frozenset({-1})}, {"database_map": {1: -2}},
                  {"databases": frozenset({1}), "database_map": {2: 0}}):  # fmt: skip
        with pytest.raises(SettingsError):
            Plan(**wrong)


def test_a_replica_is_refused(sessions: bytes, make_redis: MakeRedis) -> None:
    primary = make_redis()
    replica = make_redis(replicaof=primary)
    with pytest.raises(TargetError, match="is a replica"):
        restore(replica, sessions)


def test_a_server_that_loads_its_data_is_asked_to_try_again(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis(start=False, key_load_delay="1000", loading_process_events_interval_bytes="1024")
    (target.directory / "dump.rdb").write_bytes(sessions)
    target.start(wait=False)
    wait_until(target.socket.exists, "the socket is there")

    def answer() -> str:
        try:
            restore(target, sessions)
        except TargetUnreachable as error:
            return error.message
        return ""

    wait_until(lambda: "oading" in answer(), "the server says that it is loading")


def test_a_wrong_password_is_told_without_it(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis(requirepass="right")
    with pytest.raises(TargetError, match=r"destination staging: .*[Pp]assword|WRONGPASS") as caught, opened(
        target, password=Secret("wrong-and-secret")
    ):  # fmt: skip
        pass
    assert "wrong-and-secret" not in caught.value.message
    assert not isinstance(caught.value, TargetUnreachable)


def test_a_user_without_the_right_is_told(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    target.execute("ACL", "SETUSER", "weak", "on", ">pass", "~*", "+@all", "-restore")
    with (
        pytest.raises(TargetError, match=r"NOPERM .*0 keys were restored"),
        opened(target, user="weak", password=Secret("pass")) as found,
    ):
        Into(found, [stored(sessions)], Plan(), JobContext()).run()


def test_values_above_what_restore_takes_are_named(
    sessions: bytes, make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(into, "_VALUE_MAX_BYTES", 1000)
    server = make_redis()
    server.execute("SET", "a", "x")
    server.execute("SETBIT", "large", 8 * 100000, 1)
    server.execute("CONFIG", "SET", "rdbcompression", "no")
    with pytest.raises(TargetError, match=r"the value of 'large' has 100,0\d\d bytes; RESTORE takes 1,000 at most"):
        restore(make_redis(), saved(server))


def test_databases_that_are_known_are_looked_for_before_anything_is_written(
    sessions: bytes, make_redis: MakeRedis
) -> None:
    target = make_redis(databases=4)
    with opened(target) as found, pytest.raises(TargetError, match="database 9: ERR DB index is out of range"):
        Into(found, [stored(sessions)], Plan(), JobContext(), databases=[0, 9]).run()
    assert target.execute("DBSIZE") == 0


def test_what_answers_in_another_protocol_is_told(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    with opened(target) as found:
        found.nodes[0].pipeline._reader.feed(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(TargetError, match="sends no Redis protocol"):
            Into(found, [stored(sessions)], Plan(), JobContext()).run()


# -- what goes wrong half-way -----------------------------------------------------------------------------------------


def told(error: MingusError) -> int:
    """How many keys the error says are in."""
    words = error.message.split(" keys were restored")[0].split()
    return int(words[-1].replace(",", ""))


def complete(server: RedisServer, data: bytes) -> None:
    """A second run brings what is missing."""
    before = server.execute("DBSIZE")
    found = restore(server, data, conflict="skip")
    assert (found["restored"], found["skipped"]) == (20000 - before, before)
    assert server.execute("DBSIZE") == 20000


def test_a_server_out_of_memory_is_told_with_how_many_keys_are_in(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis(maxmemory="5mb", maxmemory_policy="noeviction")
    with pytest.raises(TargetError, match="OOM") as caught:
        restore(target, sessions)
    assert 0 < told(caught.value) == target.execute("DBSIZE") < 20000
    target.execute("CONFIG", "SET", "maxmemory", 0)
    complete(target, sessions)


def test_a_server_that_throws_keys_away_is_no_success(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis(maxmemory="5mb", maxmemory_policy="allkeys-lru")
    with pytest.raises(TargetError, match=r"evicted [\d,]+ keys while 20,000 were restored"):
        restore(target, sessions)


class At(JobContext):
    """Calls *deed* once, when so many bytes were walked."""

    def __init__(self, done: int, deed: Any) -> None:
        super().__init__(on_progress=self._progress)
        self._done, self.deed = done, deed

    def _progress(self, progress: Progress) -> None:
        if self.deed is not None and progress.phase == "restore" and progress.done_bytes >= self._done:
            deed, self.deed = self.deed, None
            deed()


def test_a_cancelled_restore_says_how_many_keys_are_in(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    context = At(len(sessions) // 2, lambda: None)
    context.deed = context.cancel.set
    with pytest.raises(Cancelled) as caught:
        restore(target, sessions, context)
    assert 0 < told(caught.value) == target.execute("DBSIZE") < 20000
    complete(target, sessions)


def test_a_server_that_dies_half_way_is_told_and_a_second_run_completes_it(
    sessions: bytes, make_redis: MakeRedis
) -> None:
    target = make_redis(appendonly="yes", appendfsync="always")
    with pytest.raises(TargetError, match="at least") as caught:
        restore(target, sessions, At(len(sessions) // 2, target.kill))
    assert not caught.value.transient  # a retry would find its own keys in the way
    assert "--conflict skip" in caught.value.hint
    target.start()
    assert 0 < told(caught.value) <= target.execute("DBSIZE") < 20000
    complete(target, sessions)


def test_where_keys_are_skipped_a_lost_connection_may_be_tried_again(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    cut = At(len(sessions) // 2, lambda: target.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    with pytest.raises(TargetUnreachable, match="keys were restored before"):
        restore(target, sessions, cut, conflict="skip")
    complete(target, sessions)


def test_a_primary_that_becomes_a_replica_ends_it(sessions: bytes, make_redis: MakeRedis) -> None:
    target, other = make_redis(), make_redis()
    demote = At(len(sessions) // 2, lambda: target.execute("REPLICAOF", "127.0.0.1", other.port))
    with pytest.raises(TargetError, match="READONLY") as caught:
        restore(target, sessions, demote)
    assert told(caught.value) > 0
    assert "primary" in caught.value.hint


def test_damage_ends_it_and_says_how_many_keys_are_in(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    at = len(sessions) - 5000
    with pytest.raises(Damaged, match="keys were restored before") as caught:
        restore(target, sessions[:at] + bytes([sessions[at] ^ 1]) + sessions[at + 1 :])
    assert told(caught.value) == target.execute("DBSIZE")
    with pytest.raises(Damaged, match="does not begin as an RDB"), opened(make_redis()) as found:
        Into(found, [stored(b"nothing like an RDB")], Plan(), JobContext()).run()


def test_two_at_once_restore_each_key_once(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(restore(target, sessions, conflict="skip"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one["restored"] for one in found) == 20000 == target.execute("DBSIZE")
    assert sum(one["skipped"] for one in found) == 20000


def test_two_at_once_that_must_not_meet_end_one_of_them(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    with opened(target) as first, opened(target) as second:
        Into(first, [stored(sessions)], Plan(), JobContext()).run()
        with pytest.raises(TargetNotEmpty, match="0 keys were restored"):
            Into(second, [stored(sessions)], Plan(), JobContext()).run()
    assert target.execute("DBSIZE") == 20000


def test_limits_are_kept(sessions: bytes, make_redis: MakeRedis) -> None:
    slept: list[float] = []
    times = iter(range(1_000_000))

    def bucket(rate: int) -> Bucket:
        return Bucket(rate, sleep=lambda s: slept.append(s) and False, now=lambda: next(times) * 0.0)

    found = restore(make_redis(), sessions, keys_rate=bucket(1000), batch_keys=250)
    assert found["restored"] == 20000
    assert len(slept) >= 20000 // 250 - 1
    assert slept[-1] == pytest.approx(20000 / 1000, abs=0.5)
    slept.clear()
    found = restore(make_redis(), sessions, bytes_rate=bucket(1_000_000))
    assert slept[-1] == pytest.approx(found["bytes_sent"] / 1_000_000, abs=0.5)


def test_threads_and_connections_are_given_back(sessions: bytes, make_redis: MakeRedis) -> None:
    target = make_redis()
    before = threading.active_count()
    restore(target, sessions)
    with pytest.raises(TargetNotEmpty):
        restore(target, sessions)
    assert threading.active_count() == before
    assert target.execute("CLIENT", "LIST", "TYPE", "normal").count(b"\n") == 1
