"""A moment of Redis, and an append-only file, into a server that runs: by way of a throw-away server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import NotRestorable, VerificationFailed
from mingus_engine.jobs.redis import into_scratch
from mingus_engine.jobs.redis.restore_into import RedisRestoreIntoReport, restore_into
from mingus_engine.settings import DestinationSettings, RedisConnection, RedisDestination
from tests.integration import test_redis_aof as append_only
from tests.integration.test_redis_stream import drain, installed
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest


def into(mingus: RedisInstallation, target: RedisServer, **values: Any) -> RedisRestoreIntoReport:
    connection = RedisConnection(**target.connection(), password_env="")
    destination = DestinationSettings("staging", kind="redis", redis=RedisDestination(connection))
    settings = mingus.settings.with_destination(destination)
    report = restore_into(settings, SOURCE, into="staging", context=mingus.context(), **values)
    scratch = mingus.root / "state" / "scratch"
    assert not list(scratch.iterdir()) if scratch.exists() else True
    return report


def test_sessions_of_a_moment_come_back_beside_what_there_is_now(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        server.fill(500, ttl_s=3600)
        then = drain(mingus)
        ends = server.execute("PEXPIRETIME", "session:7")
        with server.client() as client:
            client.delete(*(f"session:{n}" for n in range(100)))
            client.set("session:7", "newer")
        drain(mingus)
        report = into(mingus, server, to=f"time:{then.reaches}", keys=["session:*"], conflict="skip")
        assert (report.selected, report.restored, report.skipped) == (500, 99, 401)
        assert report.target == f"time:{then.reaches}"
        assert server.execute("GET", "session:7") == b"newer"
        report = into(mingus, server, to=f"offset:{then.position}", keys=["session:7"], conflict="replace")
        assert (report.restored, report.replaced) == (0, 1)
        assert server.execute("PEXPIRETIME", "session:7") == ends
        with pytest.raises(NotRestorable):
            into(mingus, server, to="time:2020-01-01", conflict="skip")


def test_a_snapshot_of_an_append_only_file_goes_into_a_server(make_redis: MakeRedis, workspace: Path) -> None:
    with append_only.installed(make_redis, workspace) as (server, mingus):
        append_only.fill(server)
        snapshot = append_only.back_up(mingus).snapshot
        target = make_redis()
        report = into(mingus, target, snapshot=snapshot, functions=True)
        assert digest(target) == digest(server)
        assert report.functions == 1
        assert report.restored == sum(report.databases.values()) > 0


def test_a_server_that_cannot_load_it_ends_it_and_leaves_nothing(
    make_redis: MakeRedis, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with append_only.installed(make_redis, workspace) as (server, mingus):
        append_only.fill(server)
        append_only.back_up(mingus)
        target = make_redis()
        start = into_scratch.ThrowAwayRedis.start

        def dies(self: into_scratch.ThrowAwayRedis) -> object:
            for path in self.directory.rglob("*.aof"):
                path.write_bytes(path.read_bytes()[:-3])
            return start(self)

        monkeypatch.setattr(into_scratch.ThrowAwayRedis, "start", dies)
        with pytest.raises(VerificationFailed, match="did not start"):
            into(mingus, target, snapshot=mingus.manifests()[-1].ulid)
        assert target.execute("DBSIZE") == 0
        assert not list((mingus.root / "state" / "scratch").iterdir())
