"""The fixtures of this package, for tests/conftest.py.

==================  =======  ===================================================================================
fixture             scope    what
==================  =======  ===================================================================================
session_directory   session  root of everything below; removed at the end
workspace           test     an empty folder the unprivileged user can pass; removed after the test
pg_versions         session  ``{15: PgVersion, 16: ..., 18: ...}``
pg_version          test     one ``PgVersion`` at a time: runs the test for all three
pg15, pg16, pg18    session  a running cluster, shared: use ``temporary_database()``, leave it as it was
pg                  test     ``pg15``, ``pg16``, ``pg18`` in turn
make_cluster        test     ``make_cluster(18, checksums=False)``: an own running cluster, to break at will
make_redis          test     ``make_redis(maxmemory="100mb")``: an own running Redis, any directive, to break at will
make_redis_cluster  test     ``make_redis_cluster(3, replicas=3)``: a cluster of such servers
make_sentinel       test     ``make_sentinel(primary)``: a Sentinel that fails over within two seconds
rclone_s3           test     a fresh bucket of a shared ``rclone serve s3`` (``rclone_s3_server``)
moto_s3             test     a fresh bucket of a shared ``moto_server`` (``moto_s3_server``)
==================  =======  ===================================================================================
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import directories
from tests.support.pg_versions import MAJORS, PgVersion, find_versions
from tests.support.postgres import PgCluster
from tests.support.processes import User
from tests.support.redis import RedisCluster, RedisServer
from tests.support.s3 import S3Bucket, S3Server, moto_server, rclone_server

MakeCluster = Callable[..., PgCluster]
MakeRedis = Callable[..., RedisServer]
MakeRedisCluster = Callable[..., RedisCluster]


@pytest.fixture(scope="session")
def session_directory() -> Iterator[Path]:
    root = directories.make_root()
    yield root
    directories.remove(root)


@pytest.fixture
def workspace(session_directory: Path) -> Iterator[Path]:
    # Short, whatever the test's name: a Unix socket's path may have 107 bytes.
    path = next(p for i in count() if not (p := session_directory / f"w{i}").exists())
    directories.make_directory(path)
    yield path
    directories.remove(path)


@pytest.fixture(scope="session")
def pg_versions(session_directory: Path) -> dict[int, PgVersion]:
    return find_versions(session_directory)


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def pg_version(request: pytest.FixtureRequest, pg_versions: dict[int, PgVersion]) -> PgVersion:
    return pg_versions[request.param]


def _shared_cluster(major: int, versions: dict[int, PgVersion], root: Path) -> Iterator[PgCluster]:
    with PgCluster.create(versions[major], root / f"pg{major}") as cluster:
        yield cluster.start()


@pytest.fixture(scope="session")
def pg15(pg_versions: dict[int, PgVersion], session_directory: Path) -> Iterator[PgCluster]:
    yield from _shared_cluster(15, pg_versions, session_directory)


@pytest.fixture(scope="session")
def pg16(pg_versions: dict[int, PgVersion], session_directory: Path) -> Iterator[PgCluster]:
    yield from _shared_cluster(16, pg_versions, session_directory)


@pytest.fixture(scope="session")
def pg18(pg_versions: dict[int, PgVersion], session_directory: Path) -> Iterator[PgCluster]:
    yield from _shared_cluster(18, pg_versions, session_directory)


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def pg(request: pytest.FixtureRequest) -> PgCluster:
    cluster: PgCluster = request.getfixturevalue(f"pg{request.param}")
    return cluster


@pytest.fixture
def make_cluster(pg_versions: dict[int, PgVersion], workspace: Path) -> Iterator[MakeCluster]:
    with ExitStack() as clusters:
        numbers = count()

        def make(major: int, *, start: bool = True, **options: Any) -> PgCluster:
            """An own cluster of a version; ``options`` as for ``PgCluster.create``. Stopped after the test."""
            cluster = PgCluster.create(pg_versions[major], workspace / f"c{next(numbers)}", **options)
            clusters.enter_context(cluster)
            return cluster.start() if start else cluster

        yield make


@pytest.fixture
def make_redis(workspace: Path) -> Iterator[MakeRedis]:
    with ExitStack() as servers:
        numbers = count()

        def make(
            *, start: bool = True, as_sentinel: bool = False, run_as: User | None = None, **config: Any
        ) -> RedisServer:
            """An own Redis with these directives (``_`` for ``-``, see ``RedisServer``). Killed after the test."""
            server = RedisServer(workspace / f"r{next(numbers)}", config, sentinel=as_sentinel, run_as=run_as)
            servers.enter_context(server)
            return server.start() if start else server

        yield make


@pytest.fixture
def make_redis_cluster(make_redis: MakeRedis) -> MakeRedisCluster:
    def make(primaries: int = 3, *, replicas: int = 0, **config: Any) -> RedisCluster:
        """A cluster; *config*: directives of every node, or what makes one up for each."""
        how = {"cluster_enabled": "yes", "cluster_node_timeout": 2000, **config}
        nodes = [
            make_redis(**{name: value() if callable(value) else value for name, value in how.items()})
            for _ in range(primaries + replicas)
        ]
        return RedisCluster(nodes, primaries)

    return make


@pytest.fixture
def make_sentinel(make_redis: MakeRedis) -> MakeRedis:
    def make(primary: RedisServer, *, name: str = "mymaster", **config: Any) -> RedisServer:
        """A Sentinel, alone a quorum, that watches *primary* under *name*."""
        lines = [
            f"monitor {name} 127.0.0.1 {primary.port} 1",
            f"down-after-milliseconds {name} 1000",
            f"failover-timeout {name} 5000",
            *([f"auth-pass {name} {primary.password}"] if primary.password else []),
        ]
        return make_redis(as_sentinel=True, sentinel=lines, **config)

    return make


@pytest.fixture(scope="session")
def rclone_s3_server(session_directory: Path) -> Iterator[S3Server]:
    with rclone_server(session_directory) as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3_server(session_directory: Path) -> Iterator[S3Server]:
    with moto_server(session_directory) as server:
        yield server


@pytest.fixture
def rclone_s3(rclone_s3_server: S3Server) -> S3Bucket:
    return rclone_s3_server.new_bucket()


@pytest.fixture
def moto_s3(moto_s3_server: S3Server) -> S3Bucket:
    return moto_s3_server.new_bucket()
