"""What tests of restoring into running servers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.into import Chunks, Into, Plan, StoredRdb
from mingus_engine.settings import RedisConnection
from mingus_engine.targets.redis.running import RunningRedis
from tests.support.redis import RedisServer


def saved(server: RedisServer) -> bytes:
    server.execute("SAVE")
    return (server.directory / "dump.rdb").read_bytes()


def stored(data: bytes, piece: int = 65536) -> StoredRdb:
    def chunks() -> Chunks:
        for at in range(0, len(data), piece):
            yield memoryview(data)[at : at + piece]

    return StoredRdb("dump.rdb", len(data), chunks)


@contextmanager
def opened(server: RedisServer, context: JobContext | None = None, **connection: Any) -> Iterator[RunningRedis]:
    conn = RedisConnection(**{**server.tcp(), "password_env": "", **connection})
    with RunningRedis(conn, "staging", (context or JobContext()).cancel) as target:
        yield target


def restore(server: RedisServer, data: bytes, context: JobContext | None = None, **plan: Any) -> dict[str, Any]:
    """Restore the RDB *data* into *server*. :param plan: fields of ``Plan``."""
    context = context or JobContext()
    with opened(server, context) as target:
        return Into(target, [stored(data)], Plan(**plan), context, origin="Redis 7.0.15").run()
