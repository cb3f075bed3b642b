"""The service that records a command stream, as a process of its own, against everything that happens in a year."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest

from mingus_engine.errors import SourceBusy
from mingus_engine.jobs.redis.stored_stream import StoredStream
from mingus_engine.jobs.redis.windows import look
from mingus_engine.repository import state
from tests.integration.test_redis_aof import fill, writing
from tests.integration.test_redis_stream import QUICK, drain, installed, recovered
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest


@contextmanager
def streaming(mingus: RedisInstallation) -> Iterator[tuple[Popen[bytes], Path]]:
    """The service, recording, with a snapshot to follow."""
    with mingus.running("redis", "stream", SOURCE, "--json") as (process, log):
        yield process, log


def recorded_to(mingus: RedisInstallation) -> int:
    """The end of the newest window; 0 = there is none."""
    with mingus.opened() as repository:
        newest = look(repository, SOURCE).newest()
        return newest.end if newest is not None else 0


def wait_recorded(mingus: RedisInstallation, server: RedisServer) -> None:
    """Until everything that is executed now can be restored."""
    target = server.info()["master_repl_offset"]
    wait_until(lambda: recorded_to(mingus) >= target, "it is recorded", timeout_s=60)


def containers(mingus: RedisInstallation) -> int:
    with mingus.opened() as repository:
        stored = StoredStream(repository, SOURCE, state.look(repository, SOURCE))
        return sum(len(logs.logs) for logs in stored.index.timelines.values())


def test_what_is_executed_is_stored_seconds_later_and_sigterm_stores_the_rest(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        with streaming(mingus) as (service, log):
            wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)
            for _ in range(3):
                fill(server)
                wait_recorded(mingus, server)
            # A drain that finds it at work receives nothing.
            report = drain(mingus)
            assert (report.streaming, report.bytes_stored, report.base) == (True, 0, None)
            fill(server)
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0
        assert digest(recovered(make_redis, mingus)) == digest(server)
        documents = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert documents[-1]["job"] == "stream commands"
        assert documents[-1]["gaps"] == []
        assert documents[-1]["stored_to"] == recorded_to(mingus)
        # It goes on where it was ended.
        assert drain(mingus).gaps == []


def test_a_service_that_hangs_fails_the_drain(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus), streaming(mingus) as (service, _):
        wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)
        service.send_signal(signal.SIGSTOP)
        server.fill(100)
        source = mingus.settings.source(SOURCE)
        strict = replace(source.redis, stream=replace(source.redis.stream, busy_lag_max_bytes=1000))
        mingus.settings = mingus.settings.with_source(replace(source, redis=strict))
        with pytest.raises(SourceBusy, match=r"another reader is at work.* bytes of commands are not stored"):
            drain(mingus)
        service.send_signal(signal.SIGCONT)
        wait_recorded(mingus, server)


def test_two_services_of_one_source_do_not_disturb_each_other(make_redis: MakeRedis, workspace: Path) -> None:
    with (
        installed(make_redis, workspace) as (server, mingus),
        streaming(mingus) as (one, first_log),
        streaming(mingus) as (other, second_log),
    ):
        logs = (first_log, second_log)
        wait_until(lambda: any("another reader" in log.read_text() for log in logs), "one of them waits", timeout_s=60)
        wait_until(mingus.manifests, "the other one takes a snapshot", timeout_s=60)
        for _ in range(3):
            fill(server)
            wait_recorded(mingus, server)
        assert one.poll() is None
        assert other.poll() is None
        assert digest(recovered(make_redis, mingus)) == digest(server)


def test_restarts_and_cut_connections_are_waited_out(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, save="3600 1") as (server, mingus), streaming(mingus) as (service, _):
        wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)
        for deed in (
            lambda: server.execute("CLIENT", "KILL", "TYPE", "replica"),
            server.restart,
            lambda: server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        ):
            fill(server)
            deed()
            server.client().incr("deeds")
            wait_recorded(mingus, server)
        assert service.poll() is None
        assert mingus.audits("redis gap") == []
        assert digest(recovered(make_redis, mingus)) == digest(server)


def test_a_repository_that_is_away_for_a_while_costs_nothing(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        mingus.settings = replace(mingus.settings, repositories=mingus.settings.repositories[:1])
        text = (mingus.root / "mingus.yaml").read_text().replace("ship_to:\n  - second", "ship_to: []")
        (mingus.root / "mingus.yaml").write_text(text)
        with streaming(mingus) as (service, log):
            wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)
            away = (mingus.root / "first").rename(mingus.root / "away")
            fill(server)
            wait_until(lambda: "again in" in log.read_text(), "it notices", timeout_s=60)
            away.rename(mingus.root / "first")
            wait_recorded(mingus, server)
            assert service.poll() is None
        assert mingus.audits("redis gap") == []


def test_an_idle_server_is_known_to_be_recorded_up_to_now_with_few_containers(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace, repl_ping_replica_period="1") as (_, mingus), streaming(mingus):
        wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)

        def reached() -> object:
            with mingus.opened() as repository:
                newest = look(repository, SOURCE).newest()
                return newest.end_time if newest is not None and newest.end > newest.start else None

        first = wait_until(reached, "a sample is stored", timeout_s=60)
        wait_until(lambda: reached() != first, "a newer one is stored", timeout_s=60)


def test_a_failover_by_sentinels_is_followed(make_redis: MakeRedis, make_sentinel: MakeRedis, workspace: Path) -> None:
    primary = make_redis()
    replica = make_redis(replicaof=primary)
    fill(primary)
    wait_until(lambda: replica.client().dbsize() == primary.client().dbsize(), "the replica follows")
    sentinel = make_sentinel(primary)
    wait_until(lambda: len(sentinel.execute("SENTINEL", "REPLICAS", "mymaster")) == 1, "it found the replica")
    how = {"sentinels": [f"127.0.0.1:{sentinel.port}"], "sentinel_master": "mymaster", "user": ""}
    with RedisInstallation.make(workspace / "m", primary, connection=how, **QUICK) as mingus:
        with streaming(mingus) as (service, _):
            wait_until(mingus.manifests, "it takes a snapshot by itself", timeout_s=60)
            sentinel.execute("SENTINEL", "DEBUG", "INFO-PERIOD", 50)
            fill(primary)
            wait_recorded(mingus, primary)
            # The reader is no replica that a Sentinel would remember for ever.
            assert len(sentinel.execute("SENTINEL", "REPLICAS", "mymaster")) == 1
            primary.kill()
            asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
            wait_until(
                lambda: sentinel.execute(*asked, raw=True)[1] == b"%d" % replica.port, "it is promoted", timeout_s=60
            )
            replica.client().set("after", "the failover")
            wait_recorded(mingus, replica)
            assert service.poll() is None
        assert mingus.audits("redis gap") == []
        assert digest(recovered(make_redis, mingus)) == digest(replica)


def mayhem(make_redis: MakeRedis, workspace: Path, rounds: int) -> None:
    """Kill, restart and cut at random under load; then nothing may be missing or different."""
    chance = random.Random(rounds)
    # A ping between the last drain and the end of a server would be a gap, too.
    config = {"repl_backlog_size": "16mb", "repl_ping_replica_period": "3600"}
    with installed(make_redis, workspace, **config) as (server, mingus):
        drain(mingus)
        for number in range(rounds):
            with streaming(mingus) as (service, _), writing(server):
                threading.Event().wait(0.3 + chance.random())
                deed = chance.choice(["service", "service", "stream", "server", "drain"])
                if deed == "stream":
                    server.execute("CLIENT", "KILL", "TYPE", "replica")
                    threading.Event().wait(chance.random())
                service.kill()
                service.wait()
            if deed == "server":
                drain(mingus)  # what is neither stored nor in the backlog of the new process would be a gap
                server.execute("BGSAVE")
                wait_until(lambda: not server.info()["rdb_bgsave_in_progress"], "it is saved")
                server.restart(kill=True)
            if deed == "drain" or number == rounds - 1:
                drain(mingus)
                again = recovered(make_redis, mingus)
                assert digest(again) == digest(server)
                again.kill()
        assert mingus.audits("redis gap") == []


def test_nothing_is_lost_when_service_stream_and_server_are_killed_at_random(
    make_redis: MakeRedis, workspace: Path
) -> None:
    mayhem(make_redis, workspace, 4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_sixty_rounds_of_kills(make_redis: MakeRedis, workspace: Path) -> None:
    mayhem(make_redis, workspace, 60)
