"""Backing up the multi-part append-only file of a real server, whatever happens on it meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import BackupBroken, Damaged, MingusError, NotRestorable, SourceUnsupported
from mingus_engine.jobs.context import Progress
from mingus_engine.jobs.redis import recovery
from mingus_engine.jobs.redis.back_up_aof import RedisAofReport, back_up_aof
from mingus_engine.jobs.redis.windows import windows
from mingus_engine.jobs.verify import VerifyReport, verify
from mingus_engine.sources.redis import aof as aof_source
from mingus_engine.sources.redis.aof_setting import NAME, left_over
from mingus_engine.store.faulty import Fault
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest, serve

AOF = {"appendonly": "yes", "appendfsync": "always", "save": '""', "auto_aof_rewrite_percentage": "75"}


@contextmanager
def installed(make_redis: MakeRedis, workspace: Path, **config: Any) -> Iterator[tuple[RedisServer, RedisInstallation]]:
    """A server with an append-only file, and what backs it up."""
    server = make_redis(**{**AOF, **config})
    directory = str(server.directory)
    with RedisInstallation.make(
        workspace / "m", server, repository_options={"attempts": 1}, data_directory=directory
    ) as mingus:
        yield server, mingus


def back_up(mingus: RedisInstallation, **context: Any) -> RedisAofReport:
    return back_up_aof(mingus.settings, SOURCE, context=mingus.context(**context))


def percentage(server: RedisServer) -> int:
    return int(server.client().config_get(NAME)[NAME])


def fill(server: RedisServer) -> None:
    """Something of everything that a command stream can hold."""
    client = server.client()
    for database in (0, 3, 15):
        with server.client(database) as other:
            other.set("k", "v" * 100)
            other.rpush("list", *range(50))
            other.hset("hash", mapping={f"f{n}": n for n in range(20)})
    with client.pipeline(transaction=True) as transaction:
        transaction.incr("n").sadd("set", "a", "b").xadd("stream", {"f": "v"}).execute()
    client.eval("redis.call('set', KEYS[1], 'by a script'); return redis.call('incr', KEYS[2])", 2, "s", "n")
    client.set("session:1", "x", ex=1000)
    client.zadd("z", {"a": 1.5, "b": 2})
    client.execute_command(
        "FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
    )


@contextmanager
def writing(server: RedisServer) -> Iterator[None]:
    """Somebody who writes all the time."""
    stop = threading.Event()

    def write() -> None:
        with server.client() as client:
            n = 0
            while not stop.is_set():
                with client.pipeline(transaction=n % 2 == 0) as batch:
                    for _ in range(20):
                        n += 1
                        batch.set(f"w:{n % 500}", os.urandom(50)).incr("count").incr("same")
                    batch.execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def proven(mingus: RedisInstallation) -> VerifyReport:
    """The restore test of the newest snapshot, to the top."""
    return verify(mingus.settings, SOURCE, repository="first", level="L4", context=mingus.context())


def restored(make_redis: MakeRedis, mingus: RedisInstallation) -> RedisServer:
    """A server on what the newest snapshot holds; it must load every byte."""
    return serve(make_redis, mingus.files(mingus.manifests()[-1]))


def test_the_restored_files_give_the_same_database(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        server.client().bgrewriteaof()
        wait_until(lambda: not server.info()["aof_rewrite_in_progress"], "it is rewritten")
        fill(server)
        report = back_up(mingus)
        assert (report.kind, report.form, report.flagged) == ("redis aof full", "aof", False)
        assert report.position == 0
        found = proven(mingus)
        assert found.ok, found.checks
        assert "L4 sampled keys" in {check["name"] for check in found.checks}
        again = restored(make_redis, mingus)
        assert digest(again) == digest(server)
        assert again.client().function_list() == server.client().function_list()
        assert percentage(server) == 75


def test_only_what_was_appended_is_stored_the_next_time(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        with server.client() as client:
            for n in range(200):
                client.set(f"k{n}", os.urandom(4096))
        first = back_up(mingus)
        server.client().set("one", "more")
        second = back_up(mingus)
        assert second.kind == "redis aof incremental"
        assert second.parent == first.snapshot
        assert second.bytes_stored < 0.2 * first.bytes_stored
        assert digest(restored(make_redis, mingus)) == digest(server)


def test_writers_and_forced_rewrites_meanwhile_do_no_harm(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        server.fill(20000)
        with writing(server):
            for _ in range(4):
                server.client().bgrewriteaof()
                back_up(mingus, on_progress=lambda _: None)
                again = restored(make_redis, mingus)
                # Each transaction counted twice, or not at all.
                found = again.client().mget("count", "same")
                assert found[0] == found[1]
                assert again.client().dbsize() >= 20000
                again.kill()
        assert percentage(server) == 75


def test_a_rewrite_between_the_opening_and_the_reading_changes_nothing(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        then = digest(server)
        seen: list[str] = []

        def rewrite(progress: Progress) -> None:
            if progress.phase == "back up" and not seen:
                seen.append(progress.detail)
                server.client().flushall()
                server.client().bgrewriteaof()
                wait_until(lambda: not server.info()["aof_rewrite_in_progress"], "it is rewritten")

        back_up(mingus, on_progress=rewrite)
        assert seen
        assert digest(restored(make_redis, mingus)) == then


def test_a_server_without_an_append_only_file_is_refused(make_redis: MakeRedis, workspace: Path) -> None:
    with (
        installed(make_redis, workspace, appendonly="no") as (_, mingus),
        pytest.raises(SourceUnsupported, match="appendonly no") as refused,
    ):
        back_up(mingus)
    assert "appendonly yes" in refused.value.hint


def test_an_append_only_file_that_was_just_enabled_is_waited_for(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, appendonly="no", rdb_key_save_delay="200") as (server, mingus):
        server.fill(5000)
        server.client().config_set("appendonly", "yes")
        assert not list((server.directory / "appendonlydir").glob("*.manifest"))
        back_up(mingus)
        assert restored(make_redis, mingus).client().dbsize() == 5000


def remove_manifest(directory: Path) -> None:
    (directory / "appendonly.aof.manifest").unlink()


def remove_increment(directory: Path) -> None:
    next(directory.glob("*.incr.aof")).unlink()


def leave_temporary(directory: Path) -> None:
    (directory / "temp-appendonly.aof.incr").write_bytes(b"")


def two_bases(directory: Path) -> None:
    manifest = directory / "appendonly.aof.manifest"
    base = next(directory.glob("*.base.rdb"))
    (directory / "other.base.rdb").write_bytes(base.read_bytes())
    manifest.write_bytes(manifest.read_bytes() + b"file other.base.rdb seq 2 type b\n")


def history(directory: Path) -> None:
    manifest = directory / "appendonly.aof.manifest"
    manifest.write_bytes(manifest.read_bytes() + b"file old.incr.aof seq 1 type h\n")


@pytest.mark.parametrize("deed", [remove_manifest, remove_increment, leave_temporary, two_bases, history])
def test_a_set_of_files_that_would_come_up_with_less_is_refused(
    make_redis: MakeRedis, workspace: Path, monkeypatch: pytest.MonkeyPatch, deed: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(aof_source, "_WHOLE_WITHIN_S", 0.2)
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        deed(server.directory / "appendonlydir")
        with pytest.raises(BackupBroken):
            back_up(mingus)
        assert mingus.manifests() == []
        assert percentage(server) == 75


def test_another_servers_directory_is_not_taken_for_this_ones(
    make_redis: MakeRedis, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aof_source, "_WHOLE_WITHIN_S", 0.2)
    server, other = make_redis(**AOF), make_redis(**AOF)
    fill(server)
    with (
        RedisInstallation.make(workspace / "m", server, data_directory=str(other.directory)) as mingus,
        pytest.raises(SourceUnsupported, match="not this server's"),
    ):
        back_up(mingus)


def test_a_flipped_byte_in_the_base_is_refused(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        server.client().bgrewriteaof()
        wait_until(lambda: not server.info()["aof_rewrite_in_progress"], "it is rewritten")
        base = next((server.directory / "appendonlydir").glob("*.base.rdb"))
        content = bytearray(base.read_bytes())
        content[len(content) // 2] ^= 1
        base.write_bytes(content)
        with pytest.raises(Damaged):
            back_up(mingus)
        assert mingus.manifests() == []


# -- the setting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "recorded", "configured", "expected"),
    [
        (75, (100, False), 100, 75),  # nothing to put right
        (0, (75, False), 100, 75),  # a dead run noted what it was
        (0, (75, True), 100, 100),  # a run that ended put it back; it is 0 without a reason
        (0, (75, True), 0, 0),  # configured so
        (0, (0, False), 100, 0),  # it was 0 before the dead run
        (0, None, None, 0),  # nobody knows better
        (0, None, 100, 100),
    ],
)
def test_a_zero_is_a_left_over_when_it_is_neither_configured_nor_recorded(
    live: int, recorded: tuple[int, bool] | None, configured: int | None, expected: int
) -> None:
    assert left_over(live, recorded, configured) == expected


@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_killed_run_left_is_put_right_and_said(make_redis: MakeRedis, workspace: Path, restarted: bool) -> None:
    with installed(make_redis, workspace, rdb_key_save_delay="1000") as (server, mingus):
        server.fill(3000)
        server.client().bgrewriteaof()  # it takes seconds: the run waits for it, with the setting at 0
        process, _ = mingus.start("redis", "aof", SOURCE)
        wait_until(lambda: percentage(server) == 0, "the setting is held")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        server.client().config_set("rdb-key-save-delay", "0")
        if restarted:
            server.client().config_rewrite()  # so 0 is what it starts with
            server.restart()
        assert percentage(server) == 0
        report = back_up(mingus)
        assert report.put_right == f"{NAME} was left at 0 and is 75 again"
        assert percentage(server) == 75


def test_the_setting_is_back_after_every_failure(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        for fault in (
            Fault("put", "raise", times=None, name="packs/*"),
            Fault("put", "raise", times=None, name="snapshots/*"),
            Fault("list", "raise", times=None, name="snapshots/*"),
            Fault("put", "raise", times=None, name="runs/*"),
        ):
            with mingus.faults(fault), pytest.raises(MingusError):
                back_up(mingus)
            assert percentage(server) == 75
        cancel = threading.Event()
        with pytest.raises(MingusError):
            back_up(mingus, cancel=cancel, on_progress=lambda _: cancel.set())
        assert percentage(server) == 75
        assert mingus.manifests() == []


def test_a_server_that_is_killed_meanwhile_comes_back_with_its_setting(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, rdb_key_save_delay="1000") as (server, mingus):
        server.fill(3000)
        server.client().bgrewriteaof()
        failures: list[MingusError] = []

        def run() -> None:
            try:
                back_up(mingus)
            except MingusError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: percentage(server) == 0, "the setting is held")
        server.restart(kill=True)
        thread.join(60)
        assert [error.transient for error in failures] == [True], failures
        assert percentage(server) == 75
        server.client().config_set("rdb-key-save-delay", "0")
        assert back_up(mingus).put_right == ""


# -- dying at every step ------------------------------------------------------------------------------------------


def interrupted(mingus: RedisInstallation, phase: str) -> None:
    """The job in a process that is killed when it says *phase*, or at the store call of that name."""
    process = multiprocessing.get_context("fork").Process(target=_until, args=(mingus, phase))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, phase


def _until(mingus: RedisInstallation, name: str) -> None:
    with mingus.faults(Fault("put", "die_after" if name.startswith("runs") else "die", name=name)):
        back_up(mingus)


def test_killed_at_every_put_nothing_is_left_behind(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        for name in ("runs/*.start", "packs/*", "snapshots/*", "runs/*.end"):
            interrupted(mingus, name)
            assert percentage(server) == 75
            assert len(mingus.manifests()) == (1 if name == "runs/*.end" else 0)
        back_up(mingus)
        assert digest(restored(make_redis, mingus)) == digest(server)


def test_two_at_once_do_no_harm(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        fill(server)
        server.fill(5000)
        failures: list[MingusError] = []

        def run() -> None:
            try:
                back_up(mingus)
            except MingusError as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert percentage(server) == 75
        assert len(mingus.manifests()) == 3
        assert digest(restored(make_redis, mingus)) == digest(server)


# -- points in time -----------------------------------------------------------------------------------------------


def test_a_second_of_an_annotated_file_is_a_place_to_end(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, aof_timestamp_enabled="yes") as (server, mingus):
        fill(server)
        then, seconds = digest(server), int(server.client().time()[0])
        wait_until(lambda: int(server.client().time()[0]) > seconds + 1, "two seconds pass")
        fill(server)
        back_up(mingus)
        between = datetime.fromtimestamp(seconds + 1, UTC)
        with mingus.opened() as repository:
            found = recovery.plan(repository, SOURCE, f"time:{between.isoformat()}", context=mingus.context())
            files = {
                f"appendonlydir/{found.base_name}": mingus.files(found.snapshot)[found.base.decode()],
                f"appendonlydir/{found.increment_name}": b"".join(found.commands()),
                "appendonlydir/appendonly.aof.manifest": found.manifest.encode(),
            }
            with pytest.raises(NotRestorable):
                recovery.plan(repository, SOURCE, "time:2020-01-01", context=mingus.context())
        assert digest(serve(make_redis, files)) == then
        report = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        (window,) = report.repositories[0]["windows"]
        assert (window["form"], window["start_offset"]) == ("aof", 0)
        back_up(mingus)  # looks at what is new only
        report = windows(mingus.settings, SOURCE, "first", context=mingus.context())
        assert [w["start_time"] for w in report.repositories[0]["windows"]] == [window["start_time"]] * 2
        assert proven(mingus).ok
