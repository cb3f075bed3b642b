"""The contract of ``mingus_engine.sources.base``, for Redis: items, finish, close."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.settings import RedisConnection, RedisSettings, SourceSettings
from mingus_engine.sources.redis.backup import RedisBackup, open_backup
from tests.support.fixtures import MakeRedis, MakeRedisCluster
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.repositories import noise

WORKERS = 2
# Held by workers, in the pipeline's hands, and of the one shard.
OUTSTANDING_MOST = WORKERS + 2 + 2


@contextmanager
def opened(connection: RedisConnection, transport: str = "replication", directory: str = "") -> Iterator[RedisBackup]:
    options = RedisSettings(connection=connection, transport=transport, data_directory=directory)
    settings = SourceSettings("sessions", "redis", workers=WORKERS, redis=options)
    with closing(open_backup(settings, cancel=threading.Event())) as backup:
        yield backup


@pytest.fixture
def large(make_redis: MakeRedis) -> RedisServer:
    """Of 40 MiB, so that its RDB has eleven items."""
    server = make_redis(rdbcompression="no")
    with server.client() as client:
        for n in range(40):
            client.set(f"n{n}", noise(1 << 20, n))
    return server


@pytest.mark.parametrize("transport", ["replication", "bgsave"])
def test_items_are_ascending_gapless_and_the_last_is_marked(large: RedisServer, transport: str) -> None:
    reached, ended = 0, False
    with opened(RedisConnection(**large.connection()), transport, str(large.directory)) as backup:
        for item in backup.items():
            assert item.file.path == b"dump.rdb"
            assert not ended
            assert item.offset == reached
            assert 0 < item.length <= SLAB_BYTES
            assert item.last or item.length == SLAB_BYTES
            data = item.read(memoryview(b""))
            assert isinstance(data, memoryview)
            reached, ended = reached + len(data), item.last
            item.release()
        assert ended
        (shard,) = backup.finish().facts["shards"]
    assert shard["rdb"]["bytes"] == reached
    assert shard["databases_by"] == "info"  # too large to be counted
    assert shard["databases"]["0"]["keys"] == 40


def test_items_that_nobody_releases_are_bounded(large: RedisServer) -> None:
    taken: list[object] = []
    with opened(RedisConnection(**large.connection())) as backup:
        items = backup.items()

        def read() -> None:
            try:
                for item in items:
                    taken.append(item)  # noqa: PERF402 - seen while it grows
            except BaseException as error:  # noqa: BLE001 - the close below ends it
                taken.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        pool = backup._pool
        wait_until(lambda: not pool._left and not pool._free, "all memory is in use")
        assert len(taken) <= OUTSTANDING_MOST
        backup._cancel.set()
        reader.join()


def test_items_of_shards_interleave_and_each_is_in_order(make_redis_cluster: MakeRedisCluster) -> None:
    cluster = make_redis_cluster(3)
    cluster.fill(100)
    reached: dict[bytes, int] = defaultdict(int)
    ended = set()
    with opened(RedisConnection(**cluster.tcp())) as backup:
        for item in backup.items():
            assert item.offset == reached[item.file.path]
            reached[item.file.path] += item.length
            if item.last:
                ended.add(item.file.path)
            item.release()
        backup.finish()
    assert ended == {b"shard-1/dump.rdb", b"shard-2/dump.rdb", b"shard-3/dump.rdb"}


def test_a_backup_that_is_not_read_to_its_end_cannot_be_finished(large: RedisServer) -> None:
    with opened(RedisConnection(**large.connection())) as backup:
        next(backup.items()).release()
        with pytest.raises(BackupBroken):
            backup.finish()


def test_close_leaves_nothing_wherever_it_comes_and_may_come_again(large: RedisServer) -> None:
    threads = threading.active_count()
    with opened(RedisConnection(**large.connection())) as backup:
        pass
    backup.close()
    with opened(RedisConnection(**large.connection())) as backup:
        next(backup.items())
        backup.close()
    backup.close()
    assert threading.active_count() == threads
    wait_until(lambda: large.info()["connected_slaves"] == 0, "it has let go")
    wait_until(lambda: large.info()["connected_clients"] == 1, "no connection is left")
