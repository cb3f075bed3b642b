"""Recording the command stream of a real server: drains, the service, and everything that goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import NotRestorable, SourceDenied
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.redis import recovery
from mingus_engine.jobs.redis.drain_stream import RedisStreamReport, drain_stream
from mingus_engine.jobs.redis.restore import restore_redis
from mingus_engine.jobs.redis.windows import windows
from mingus_engine.jobs.verify import verify
from tests.integration.test_redis_aof import fill
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest, serve

QUICK = {"stream": {"slice_interval_s": 0.2, "idle_sample_s": 0.5}}


@contextmanager
def installed(make_redis: MakeRedis, workspace: Path, **config: Any) -> Iterator[tuple[RedisServer, RedisInstallation]]:
    """A server with some data, and what records its commands."""
    server = make_redis(**config)
    server.client().set("first", "key")
    with RedisInstallation.make(workspace / "m", server, repository_options={"attempts": 1}, **QUICK) as mingus:
        yield server, mingus


@contextmanager
def installed_as(workspace: Path, server: RedisServer, user: str, password: str) -> Iterator[RedisInstallation]:
    """What records the commands of *server* as an ACL user."""
    file = workspace / "password"
    file.write_text(password)
    how = {**server.connection(), "user": user, "password_env": "", "password_file": str(file)}
    with RedisInstallation.make(workspace / "m", server, connection=how, **QUICK) as mingus:
        yield mingus


def drain(mingus: RedisInstallation, **context: Any) -> RedisStreamReport:
    return drain_stream(mingus.settings, SOURCE, context=mingus.context(**context))


def test_drains_continue_each_other(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        first = drain(mingus)
        assert first.base == mingus.manifests()[-1].ulid
        fill(server)
        second = drain(mingus)
        assert (second.base, second.gaps) == (None, [])
        assert second.position == server.info()["master_repl_offset"]


def recovered(make: MakeRedis, mingus: RedisInstallation, to: str = "latest", **config: Any) -> RedisServer:
    """A server on what a recovery gives; it must load every byte."""
    with mingus.opened() as repository:
        found = recovery.plan(repository, SOURCE, to, context=mingus.context())
        base = mingus.files(found.snapshot)[found.base.decode()]
        files = {
            f"appendonlydir/{found.base_name}": base,
            f"appendonlydir/{found.increment_name}": b"".join(found.commands()),
            "appendonlydir/appendonly.aof.manifest": found.manifest.encode(),
        }
    return serve(make, files, **config)


def test_base_and_commands_give_the_same_database(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        for _ in range(3):
            fill(server)
            server.client().publish("channel", "is no data")
            server.client(3).set("gone", "soon", px=1)
            wait_until(lambda: server.client(3).get("gone") is None, "it expired")
            drain(mingus)
        again = recovered(make_redis, mingus)
        assert digest(again) == digest(server)
        assert again.client().function_list() == server.client().function_list()
        assert again.client().pexpiretime("session:1") == server.client().pexpiretime("session:1")
        assert "PUBLISH" not in (again.directory / "appendonlydir/appendonly.aof.1.incr.aof").read_text("latin-1")


def test_every_offset_is_a_place_to_end(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        digests = {}
        for n in range(12):
            client = server.client(n % 3)
            with client.pipeline(transaction=True) as transaction:
                transaction.incr("count").rpush("list", n).execute()
            digests[server.info()["master_repl_offset"]] = digest(server)
        drain(mingus)
        offsets = sorted(digests)
        for at in (0, 5, 11):
            for beyond in (0, 20) if at < 11 else (0,):
                again = recovered(make_redis, mingus, f"offset:{offsets[at] + beyond}")
                assert digest(again) == digests[offsets[at]]
                again.kill()
        with pytest.raises(NotRestorable, match="outside what is stored"):
            recovered(make_redis, mingus, f"offset:{offsets[-1] + 1000}")


def test_windows_and_moments(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        server.client().set("a", "1")
        first = drain(mingus)
        then = digest(server)
        server.client().set("a", "2")
        server.client().set("b", "2")
        second = drain(mingus)
        report = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        (window,) = report.repositories[0]["windows"]
        assert window["end_offset"] == second.position
        assert report.restorable_to == second.reaches
        assert report.repositories[0]["gaps"] == []
        again = recovered(make_redis, mingus, f"time:{first.reaches}")
        assert digest(again) == then
        again = recovered(make_redis, mingus, f"time:{second.reaches}")
        assert digest(again) == digest(server)
        for outside in ("time:2020-01-01", "time:2100-01-01"):
            with pytest.raises(NotRestorable):
                recovered(make_redis, mingus, outside)


def test_a_backlog_that_was_overrun_is_a_declared_gap_and_a_new_base(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, repl_backlog_size="16384") as (server, mingus):
        drain(mingus)
        server.client().set("small", "x")
        before = drain(mingus)
        server.fill(3000)
        third = drain(mingus)
        assert third.base is not None
        (gap,) = third.gaps
        assert gap["bytes"] > 16384
        assert [facts["from"] for facts in mingus.audits("redis gap")] == [gap["from"]]
        server.client().set("later", "y")
        fourth = drain(mingus)
        assert (fourth.gaps, fourth.base) == ([], None)
        report = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        assert [len(w["snapshots"]) for w in report.repositories[0]["windows"]] == [1, 1]
        assert len(report.repositories[0]["gaps"]) == 1
        assert digest(recovered(make_redis, mingus)) == digest(server)
        with pytest.raises(NotRestorable):
            recovered(make_redis, mingus, f"offset:{gap['from'] + 100}")
        assert recovered(make_redis, mingus, f"time:{before.reaches}").client().dbsize() == 2


def test_a_small_backlog_is_warned_of(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, repl_backlog_size="16384") as (server, mingus):
        drain(mingus)
        server.client().set("k", "x" * 100)
        drain(mingus)
        threading.Event().wait(1.1)
        server.client().set("k", "x" * 8000)
        (check,) = drain(mingus).checks
        assert not check["ok"]
        assert "repl-backlog-size is 16384" in check["detail"]


def test_a_server_that_saved_its_history_is_gone_on_with_after_a_restart(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace, save="3600 1") as (server, mingus):
        drain(mingus)
        server.client().set("k", "v")
        drain(mingus)
        server.restart()
        server.client().set("after", "it")
        report = drain(mingus)
        assert (report.gaps, report.base) == ([], None)
        kept = report.reaches
        assert digest(recovered(make_redis, mingus)) == digest(server)
        server.restart(kill=True)  # it begins again with what it saved before
        report = drain(mingus)
        assert (report.gaps, report.base) == ([], None)
        (check,) = [c for c in report.checks if not c["ok"]]
        assert check["name"] == "the server has what was recorded"
        server.client().set("another", "way")
        drain(mingus)
        assert digest(recovered(make_redis, mingus)) == digest(server)
        # What the server has lost is still here.
        assert recovered(make_redis, mingus, f"time:{kept}").client().get("after") == b"it"


def test_a_server_that_forgot_its_history_is_begun_anew(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        server.client().set("k", "v")
        drain(mingus)
        server.restart(kill=True)
        server.client().set("again", "something")
        report = drain(mingus)
        assert not (server.directory / "dump.rdb").exists()  # that nobody asked for
        assert len(report.gaps) == 1
        assert report.base is not None
        assert digest(recovered(make_redis, mingus)) == digest(server)


def test_a_promotion_is_gone_on_with_under_the_new_history(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        replica = make_redis(replicaof=server)
        wait_until(lambda: replica.info().get("master_link_status") == "up", "it follows")
        drain(mingus)
        fill(server)
        drain(mingus)
        server.client().set("before", "the failover")
        wait_until(
            lambda: replica.info()["master_repl_offset"] == server.info()["master_repl_offset"], "it has everything"
        )
        server.kill()
        replica.client().replicaof("no", "one")
        replica.client().set("after", "the failover")
        source = mingus.settings.source(SOURCE)
        conn = replace(source.redis.connection, socket=str(replica.socket))
        mingus.settings = mingus.settings.with_source(replace(source, redis=replace(source.redis, connection=conn)))
        report = drain(mingus)
        assert (report.gaps, report.base) == ([], None)
        assert digest(recovered(make_redis, mingus)) == digest(replica)
        found = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        assert len(found.repositories[0]["windows"]) == 1


def test_a_moment_is_restored_and_proven_from_the_recorded_commands(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        fill(server)
        first = drain(mingus)
        then = digest(server)
        server.client().flushall()
        drain(mingus)
        found = restore_redis(
            mingus.settings, SOURCE, directory=workspace / "restored", to=f"time:{first.reaches}",
            context=mingus.context(), repository="first",
        )  # fmt: skip
        assert found.snapshot == mingus.manifests()[0].ulid
        files = {
            str(path.relative_to(workspace / "restored")): path.read_bytes()
            for path in (workspace / "restored").rglob("*")
            if path.is_file()
        }
        assert digest(serve(make_redis, files)) == then
        report = verify(
            mingus.settings, SOURCE, repository="first", to=f"time:{first.reaches}", context=mingus.context()
        )  # fmt: skip
        assert report.ok, report.checks
        assert report.rpo_s is not None


RIGHTS = "+ping +psync +replconf +info +time +multi +exec +client|setname +client|id +client|list"


@pytest.mark.parametrize("guarded", [True, False])
def test_a_user_needs_few_rights_to_record(make_redis: MakeRedis, workspace: Path, guarded: bool) -> None:
    """Without the last ones two readers would not notice each other: that is said."""
    server = make_redis(requirepass="admin-pw")
    server.client().set("first", "key")
    rights = RIGHTS.split()
    rights = rights if guarded else rights[:7]
    server.execute("ACL", "SETUSER", "mingus", "on", ">stream-pw", "resetkeys", "-@all", *rights)
    with installed_as(workspace, server, "mingus", "stream-pw") as mingus:
        drain(mingus)
        fill(server)
        assert drain(mingus).gaps == []
        assert any("cannot be told" in message for message in mingus.messages) is not guarded
        assert digest(recovered(make_redis, mingus)) == digest(server)


def test_a_right_that_is_missing_is_named(make_redis: MakeRedis, workspace: Path) -> None:
    server = make_redis(requirepass="admin-pw")
    server.execute("ACL", "SETUSER", "mingus", "on", ">stream-pw", "resetkeys", "-@all", "+ping", "+info", "+time")
    with (
        installed_as(workspace, server, "mingus", "stream-pw") as mingus,
        pytest.raises(SourceDenied) as denied,
    ):
        drain(mingus)
    assert "stream-pw" not in str(denied.value)


@pytest.mark.parametrize("how", ["a replica", "a save"])
def test_commands_follow_a_snapshot_that_no_selection_of_a_database_follows(
    make_redis: MakeRedis, workspace: Path, how: str
) -> None:
    """A primary that forks for a reader selects the database anew in its stream; for others it does not."""
    server = make_redis()
    other = server.client(7)
    other.set("first", "key")
    options: dict[str, Any] = {"transport": "bgsave", "data_directory": str(server.directory)}
    role, replica = "primary", server
    if how == "a replica":
        role, replica = how.removeprefix("a "), make_redis(replicaof=server)
        wait_until(lambda: replica.client(7).get("first"), "the replica follows")
        options = {}
    with RedisInstallation.make(workspace / "m", server, **QUICK, **options) as mingus:
        drain(mingus)
        other.set("second", "key")
        drain(mingus)
        wait_until(lambda: replica.client(7).get("second"), "the replica follows")
        back_up(mingus.settings, SOURCE, context=mingus.context())
        other.set("third", "key")
        assert drain(mingus).gaps == []
        (shard,) = mingus.facts(mingus.manifests()[-1])["shards"]
        again = recovered(make_redis, mingus)
        assert digest(again) == digest(server)
        assert again.client().dbsize() == 0
        assert (shard["role"], shard["rdb"]["aux"]["repl-stream-db"]) == (role, "7"), mingus.messages


def test_a_damaged_history_makes_the_window_shorter_and_is_named(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, save="3600 1") as (server, mingus):
        drain(mingus)
        server.client().set("k", "v")
        reached = drain(mingus).position
        server.restart()
        server.client().set("after", "it")
        drain(mingus)
        (history,) = (mingus.root / "first" / "logs").rglob("*history/*")
        raw = bytearray(history.read_bytes())
        raw[-20] ^= 1
        history.chmod(0o644)
        history.write_bytes(raw)
        report = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        (place,) = report.repositories
        assert len(place["damaged"]) == 1
        assert [w["end_offset"] for w in place["windows"]] == [reached]


def test_what_was_recorded_elsewhere_while_a_repository_was_away_is_brought_back(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace, repl_backlog_size="16384") as (server, mingus):
        drain(mingus)
        server.client().set("k", "v")
        drain(mingus)
        away = (mingus.root / "first").rename(mingus.root / "away")
        for n in range(5):
            server.client().set(f"large:{n}", "x" * 8000)
            assert drain(mingus).repository == "second"
        away.rename(mingus.root / "first")
        server.client().set("last", "key")
        report = drain(mingus)
        assert (report.repository, report.gaps, report.base) == ("first", [], None)
        assert digest(recovered(make_redis, mingus)) == digest(server)
        found = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        assert found.repositories[0]["gaps"] == []
