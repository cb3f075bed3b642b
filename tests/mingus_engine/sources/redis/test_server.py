"""Reading what a server says of itself: engines, versions, databases; and the slots of a cluster."""

from __future__ import annotations

import pytest

from mingus_engine.errors import BackupBroken, SourceUnreachable, SourceUnsupported
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis.discovery import shards_of
from mingus_engine.sources.redis.server import parse_info, refuse_unusable

CONN = RedisConnection(host="seed", port=7000, user="")
VALKEY = (
    b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n\r\n"
    b"# Replication\r\nrole:slave\r\n"
    b"# Modules\r\nmodule:name=a,ver=1\r\nmodule:name=b,ver=2\r\n"
    b"# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=5\r\ndb11:keys=7,expires=0,avg_ttl=0,subexpiry=0\r\n"
)


def test_valkey_is_told_from_redis_and_nothing_of_info_is_lost() -> None:
    info = parse_info(VALKEY)
    assert (info.engine, info.version, info.is_replica) == ("valkey", "8.0.1", True)
    assert info.databases == {0: (3, 1), 11: (7, 0)}
    assert sorted(info.sections["modules"].values()) == ["name=a,ver=1", "name=b,ver=2"]
    refuse_unusable(info, CONN)
    assert parse_info(b"# Server\nredis_version:7.4.2\n").engine == "redis"


@pytest.mark.parametrize("version", ["6.2.14", "2.8", "", "unstable"])
def test_an_old_server_is_refused(version: str) -> None:
    with pytest.raises(SourceUnsupported) as caught:
        refuse_unusable(parse_info(f"# Server\nredis_version:{version}\n".encode()), CONN)
    assert "Redis 7" in caught.value.hint


def test_a_loading_server_is_refused_for_now() -> None:
    with pytest.raises(SourceUnreachable):
        refuse_unusable(parse_info(b"# Server\nredis_version:7.0.0\n# Persistence\nloading:1\n"), CONN)


def test_shards_are_numbered_by_their_lowest_slot_and_may_have_several_ranges() -> None:
    a, b, replica = ([b"10.0.0.1", 1, b"A", []], [b"", 2, b"B", []], [b"10.0.0.3", 3, b"C", []])
    shards = shards_of(
        CONN,
        [
            [9000, 16383, b],
            [0, 4000, a, replica],
            [4001, 8999, b],
        ],
    )
    assert [(s.name, s.primary.host, s.primary.port, s.slots) for s in shards] == [
        ("shard-1", "10.0.0.1", 1, ((0, 4000),)),
        ("shard-2", "seed", 2, ((4001, 8999), (9000, 16383))),  # no host: the one that was asked
    ]
    assert [r.port for r in shards[0].replicas] == [3]
    with pytest.raises(BackupBroken, match="1 of 16384 slots"):
        shards_of(CONN, [[1, 16383, a]])
