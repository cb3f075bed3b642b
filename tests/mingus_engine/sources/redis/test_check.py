"""`mingus check SOURCE` of Redis names what is missing, and leaves the server as it was."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mingus_engine.checks import Check
from mingus_engine.errors import SourceUnreachable
from mingus_engine.settings import RedisConnection, RedisSettings, Secret, SourceSettings
from mingus_engine.sources.redis import psync
from mingus_engine.sources.redis.check import check_source
from tests.support.fixtures import MakeRedis, MakeRedisCluster
from tests.support.processes import wait_until
from tests.support.redis import BACKUP_RIGHTS, RedisServer


def source(server: RedisServer, connection: RedisConnection | None = None, **options: Any) -> SourceSettings:
    connection = connection or RedisConnection(**server.connection())
    return SourceSettings("sessions", "redis", redis=RedisSettings(connection=connection, **options))


def check(settings: SourceSettings) -> dict[str, Check]:
    return {found.name: found for found in check_source(settings, threading.Event())}


def failed(settings: SourceSettings) -> set[str]:
    return {name for name, found in check(settings).items() if not found.ok}


@pytest.mark.parametrize("transport", ["replication", "bgsave"])
def test_a_good_source_passes_and_stays_as_it_was(make_redis: MakeRedis, transport: str) -> None:
    server = make_redis(save="3600 1")
    server.fill(10)
    config = server.execute("CONFIG", "GET", "*")
    assert failed(source(server, transport=transport, data_directory=str(server.directory))) == set()
    assert server.info()["total_forks"] == 0
    assert server.info()["connected_slaves"] == 0
    assert server.execute("CONFIG", "GET", "*") == config


def test_the_documented_rights_are_enough_and_each_that_a_backup_needs_is_missed(make_redis: MakeRedis) -> None:
    server = make_redis(save="3600 1", user=f"backup on >word {BACKUP_RIGHTS}")
    server.fill(10)
    conn = RedisConnection(**{**server.connection(), "user": "backup"}, password=Secret("word"))
    assert failed(source(server, conn)) == set()
    for rule, name in (("psync", "right to back up"), ("replconf", "replication connection"),
                       ("scan", "sample of keys"), ("acl|list", "what is stored beside the RDB")):  # fmt: skip
        server.execute("ACL", "SETUSER", "backup", f"-{rule}")
        found = check(source(server, conn))
        assert not found[name].ok, rule
        server.execute("ACL", "SETUSER", "backup", f"+{rule}")
    server.execute("ACL", "SETUSER", "backup", "-psync")
    assert check(source(server, conn))["right to back up"].detail == "missing: ACL SETUSER backup +psync"
    server.execute("ACL", "SETUSER", "backup", "-acl|dryrun")
    assert check(source(server, conn))["right to back up"].data == {"available": False}


def test_an_empty_server_fails_unless_it_may_be_empty(make_redis: MakeRedis) -> None:
    server = make_redis(save="3600 1")
    assert failed(source(server)) == {"keys"}
    assert failed(source(server, may_be_empty=True)) == set()


def test_a_primary_that_would_empty_its_replicas_fails(make_redis: MakeRedis) -> None:
    primary = make_redis()
    primary.fill(10)
    cache = check(source(primary))["persistence of the primary"]
    assert cache.ok
    assert cache.detail.startswith("WARNING: persistence is off")
    replica = make_redis(replicaof=primary, save="3600 1")
    wait_until(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
    wait_until(lambda: primary.info().get("slave0", {}).get("state") == "online", "the primary knows it")
    tcp = source(primary, RedisConnection(**primary.tcp()))
    found = check(tcp)
    assert found["connection"].detail.split(", ")[1] == f"replica 127.0.0.1:{replica.port}"
    assert "its 1 replicas are emptied" in found["persistence of the primary"].detail
    assert failed(tcp) == {"persistence of the primary"}
    primary.execute("CONFIG", "SET", "appendonly", "yes")
    assert failed(tcp) == set()


def test_a_failed_save_and_a_small_buffer_for_slow_readers_fail(
    make_redis: MakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_redis(save="3600 1", enable_protected_configs="yes", client_output_buffer_limit="replica 1mb 1mb 1")
    server.fill(10)
    gone = server.directory / "gone"
    gone.mkdir()
    server.execute("CONFIG", "SET", "dir", str(gone))
    gone.rmdir()
    server.execute("BGSAVE")
    wait_until(lambda: server.info()["rdb_last_bgsave_status"] == "err", "it failed")
    assert failed(source(server)) == {"saving"}
    monkeypatch.setattr(psync, "knows_rdb_only", lambda link: False)  # as before Redis 7
    found = check(source(server))
    assert not found["replication connection"].ok
    assert "1048576 1048576 1" in found["replication connection"].detail


def test_a_data_directory_that_cannot_be_read_fails(make_redis: MakeRedis) -> None:
    server = make_redis(save="3600 1")
    server.fill(10)
    for path in ("", str(server.directory / "none")):
        assert failed(source(server, transport="bgsave", data_directory=path)) == {"data directory"}


def test_every_shard_of_a_cluster_is_checked(make_redis_cluster: MakeRedisCluster) -> None:
    cluster = make_redis_cluster(3, save="3600 1")
    cluster.fill(10)
    settings = source(cluster.nodes[0], RedisConnection(**cluster.tcp()))
    found = check(settings)
    assert [name for name in found if name.endswith(": connection")] == [f"shard-{n}: connection" for n in (1, 2, 3)]
    assert found["keys"].detail == "10 keys"
    assert failed(settings) == set()


def test_nobody_to_ask_is_an_error(make_redis: MakeRedis) -> None:
    server = make_redis(start=False)
    with pytest.raises(SourceUnreachable):
        check(source(server))
