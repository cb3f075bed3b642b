"""Servers, connections and disks that fail while a snapshot of Redis is taken: the right error, nothing committed,
nothing left on the server, and the retry works.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import (
    BackupBroken,
    Cancelled,
    SourceUnreachable,
    SourceUnsupported,
)
from mingus_engine.repository import packs
from mingus_engine.sources.redis import psync
from tests.integration import killing
from tests.integration.trouble import at_first, raises, small_disk
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import FIRST, SOURCE, RedisInstallation, digest, installations, snapshot
from tests.support.redis_proxy import proxied
from tests.support.repositories import noise

# Each key takes the forked process 100 µs: 20,000 take two seconds, in which things happen.
SLOW = {"rdb_key_save_delay": 100}


@pytest.fixture
def install(workspace: Path) -> Iterator[Any]:
    """``install(server, …)`` as ``RedisInstallation.make``."""
    with installations(workspace) as make:
        yield make


def check_nothing_happened(mingus: RedisInstallation, server: RedisServer) -> None:
    """Nothing is committed or left in the spool, and the server has let go of the reader."""
    assert mingus.manifests() == []
    assert list((mingus.root / "spool").rglob("*")) == []
    if server.is_running:
        wait_until(lambda: server.info()["connected_slaves"] == 0, "the server has let go")
        assert server.info()["connected_clients"] == 1


def check_whole(mingus: RedisInstallation, make_redis: MakeRedis, server: RedisServer) -> None:
    """The newest snapshot is what the server holds."""
    files = mingus.files(mingus.manifests()[-1])
    copy = make_redis(start=False)
    (copy.directory / "dump.rdb").write_bytes(files["dump.rdb"])
    assert digest(copy.start()) == digest(server)


def noisy(server: RedisServer, megabytes: int) -> None:
    """Values that do not compress, of 1 MiB each."""
    with server.client() as client:
        for i in range(megabytes):
            client.set(f"n{i}", noise(1 << 20, i))


# -- the connection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_connection_cut_mid_rdb_is_broken_and_the_retry_uses_what_was_stored(
    make_redis: MakeRedis, install: Any, monkeypatch: pytest.MonkeyPatch, diskless: str
) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 256 * 1024)
    server = make_redis(repl_diskless_sync=diskless, rdbcompression="no")
    noisy(server, 20)
    with proxied(server.port, cut_at=15_000_000) as proxy:
        mingus = install(server, connection=proxy.connection())
        with raises(BackupBroken, 7, "cut after", str(proxy.port), transient=True):
            snapshot(mingus)
        assert proxy.reached.is_set()
        check_nothing_happened(mingus, server)
        proxy.cut_at = None
        report = snapshot(mingus)
    assert report.bytes_reused > 4_000_000
    check_whole(mingus, make_redis, server)


@pytest.mark.parametrize("at", [0, 1, 10, 30, 57])
def test_a_connection_cut_before_the_rdb_is_unreachable_or_broken(make_redis: MakeRedis, install: Any, at: int) -> None:
    server = make_redis()
    server.fill(10)
    with proxied(server.port, cut_at=at) as proxy:
        mingus = install(server, connection=proxy.connection())
        with pytest.raises((SourceUnreachable, BackupBroken)) as caught:
            snapshot(mingus)
    assert caught.value.transient
    check_nothing_happened(mingus, server)


@pytest.mark.parametrize("at", [70, 120, 200, 300, 400])
def test_a_bit_that_flips_on_the_way_is_refused(make_redis: MakeRedis, install: Any, at: int) -> None:
    server = make_redis()
    server.fill(10)
    with proxied(server.port, flip_at=at) as proxy:
        mingus = install(server, connection=proxy.connection(), save_timeout_s=2)
        with pytest.raises((BackupBroken, SourceUnsupported)):
            snapshot(mingus)
        assert proxy.reached.is_set()
    check_nothing_happened(mingus, server)


@pytest.mark.parametrize("at", [0, 62, 1000])
def test_a_connection_that_goes_silent_is_given_up(make_redis: MakeRedis, install: Any, at: int) -> None:
    server = make_redis()
    server.fill(1000)
    with proxied(server.port, stall_at=at) as proxy:
        mingus = install(server, connection=proxy.connection(), save_timeout_s=1)
        with raises(BackupBroken, 7, transient=True):
            snapshot(mingus)
        assert proxy.reached.is_set()
    check_nothing_happened(mingus, server)


# -- the server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_server_that_dies_while_it_sends_or_saves_breaks_the_snapshot(
    make_redis: MakeRedis, install: Any, diskless: str
) -> None:
    server = make_redis(repl_diskless_sync=diskless, **SLOW)
    server.fill(20_000)
    mingus = install(server)
    failure: list[BaseException] = []

    def back_up_it() -> None:
        try:
            snapshot(mingus)
        except Exception as error:  # noqa: BLE001 - the edge of a thread
            failure.append(error)

    job = threading.Thread(target=back_up_it)
    job.start()
    wait_until(lambda: server.info()["rdb_bgsave_in_progress"], "it forked")
    server.kill()
    job.join()
    assert isinstance(failure[0], BackupBroken | SourceUnreachable)
    check_nothing_happened(mingus, server)


def test_a_save_that_takes_too_long_is_given_up_and_one_in_time_is_waited_for(
    make_redis: MakeRedis, install: Any
) -> None:
    server = make_redis(repl_diskless_sync="no", **SLOW)
    server.fill(12_000)
    mingus = install(server, save_timeout_s=1)
    with raises(BackupBroken, 7, "save_timeout_s = 1 s", transient=True):
        snapshot(mingus)
    check_nothing_happened(mingus, server)
    patient = install(server, save_timeout_s=60)
    assert snapshot(patient).keys == 12_000


def test_a_server_that_closes_idle_connections_is_asked_over_a_new_one(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(repl_diskless_sync="no", timeout=1, **SLOW)
    server.fill(15_000)
    mingus = install(server)
    assert snapshot(mingus).keys == 15_000
    assert mingus.facts(mingus.manifests()[-1])["shards"][0]["sample"]["keys"] >= 1000


def test_a_loading_server_is_unreachable_for_now(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(loading_process_events_interval_bytes=1024)
    server.fill(5_000)
    server.execute("SAVE")
    server.execute("CONFIG", "SET", "key-load-delay", "1000")
    server.execute("CONFIG", "REWRITE")
    mingus = install(server)
    server.stop()
    server.start(wait=False)
    wait_until(lambda: "LOADING" in server.cli("PING", check=False), "it loads")
    with raises(SourceUnreachable, 7, "loading", transient=True):
        snapshot(mingus)
    assert mingus.manifests() == []


def test_a_server_that_cannot_write_what_it_would_send_breaks_the_snapshot(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(repl_diskless_sync="no", enable_protected_configs="yes")
    server.fill(10)
    mingus = install(server)
    server.directory.joinpath("gone").mkdir()
    server.execute("CONFIG", "SET", "dir", str(server.directory / "gone"))
    server.directory.joinpath("gone").rmdir()
    with pytest.raises((BackupBroken, SourceUnreachable)) as caught:
        snapshot(mingus)
    assert caught.value.transient
    check_nothing_happened(mingus, server)


# -- bgsave -----------------------------------------------------------------------------------------------------------


def test_a_save_that_fails_for_want_of_space_never_reads_the_old_file(
    make_redis: MakeRedis, install: Any, workspace: Path
) -> None:
    with small_disk(workspace / "disk", 4 << 20) as disk:
        server = make_redis(rdbcompression="no", dir=str(disk), stop_writes_on_bgsave_error="no")
        server.fill(10)
        server.execute("SAVE")
        noisy(server, 6)
        mingus = install(server, transport="bgsave", data_directory=str(disk))
        with raises(BackupBroken, 7, "BGSAVE failed", "bytes are free", transient=True):
            snapshot(mingus)
        check_nothing_happened(mingus, server)
        server.execute("DEL", *(f"n{i}" for i in range(5)))
        assert snapshot(mingus).keys == 11
        check_whole(mingus, make_redis, server)
        server.kill()


def test_the_directory_of_another_server_is_refused(make_redis: MakeRedis, install: Any) -> None:
    other, server = make_redis(), make_redis()
    other.fill(10)
    server.fill(20)
    other.execute("SAVE")
    began = int(other.execute("TIME")[0])
    wait_until(lambda: int(server.execute("TIME")[0]) > began, "a second has passed")
    mingus = install(server, transport="bgsave", data_directory=str(other.directory))
    with raises(BackupBroken, 7, "before the save", transient=True):
        snapshot(mingus)
    nothing = install(server, transport="bgsave", data_directory=str(server.directory / "none"))
    with raises(SourceUnsupported, 7, "cannot read"):
        snapshot(nothing)
    for one in (mingus, nothing):
        assert one.manifests() == []


def test_another_save_is_waited_for_and_a_later_one_does_not_change_what_is_read(
    make_redis: MakeRedis, install: Any
) -> None:
    server = make_redis(**SLOW)
    server.fill(3_000)
    mingus = install(server, transport="bgsave", data_directory=str(server.directory))
    server.execute("BGSAVE")  # begun before: it lacks what comes now
    server.execute("SET", "late", "1")

    def save_again() -> None:
        server.execute("CONFIG", "SET", "rdb-key-save-delay", "0")
        server.execute("SET", "later", "1")
        server.execute("SAVE")

    report = snapshot(mingus, on_progress=at_first("back up", save_again, after_bytes=1))
    assert report.keys == 3_001


def test_a_snapshot_waits_for_a_rewrite_of_the_append_only_file(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(appendonly="yes", **SLOW)
    server.fill(3_000)
    mingus = install(server, transport="bgsave", data_directory=str(server.directory))
    server.execute("BGREWRITEAOF")
    assert snapshot(mingus).keys == 3_000


# -- who reads --------------------------------------------------------------------------------------------------------


def test_a_cancelled_snapshot_leaves_nothing(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(**SLOW)
    server.fill(15_000)
    mingus = install(server)
    cancel = threading.Event()

    def when_forked() -> None:
        wait_until(lambda: server.info()["rdb_bgsave_in_progress"], "it forked")
        cancel.set()

    job = threading.Thread(target=when_forked)
    job.start()
    with pytest.raises(Cancelled):
        snapshot(mingus, cancel=cancel)
    job.join()
    check_nothing_happened(mingus, server)
    wait_until(lambda: not server.info()["rdb_bgsave_in_progress"], "the forked process is gone")


def test_a_killed_snapshot_leaves_nothing_and_the_next_one_works(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(**SLOW)
    server.fill(10_000)
    mingus = install(server)
    with mingus.running("backup", SOURCE) as (process, _):
        wait_until(lambda: server.info()["rdb_bgsave_in_progress"], "it forked")
        process.send_signal(signal.SIGKILL)
        process.wait()
    check_nothing_happened(mingus, server)
    server.execute("CONFIG", "SET", "rdb-key-save-delay", "0")
    assert snapshot(mingus).keys == 10_000
    check_whole(mingus, make_redis, server)


def test_two_snapshots_at_the_same_time_are_both_whole(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis()
    server.fill(20_000)
    mingus = install(server)
    found: list[int] = []
    jobs = [threading.Thread(target=lambda: found.append(snapshot(mingus).keys)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert found == [20_000, 20_000]
    assert len(mingus.manifests()) == 2


@pytest.mark.parametrize("rdb_only", [True, False])
def test_a_slow_repository_is_no_slow_reader_where_the_server_knows_rdb_only(
    make_redis: MakeRedis, install: Any, monkeypatch: pytest.MonkeyPatch, rdb_only: bool
) -> None:
    """Without it the server buffers what is written meanwhile, and drops the reader at the limit."""
    server = make_redis(client_output_buffer_limit="replica 1mb 1mb 1", rdbcompression="no", repl_backlog_size="16kb")
    noisy(server, 30)
    real = psync.full_sync
    monkeypatch.setattr(psync, "full_sync", lambda link, timeout_s: real(link, timeout_s, rdb_only=rdb_only))
    mingus = install(
        server, connection=server.tcp(), repository_options={"bandwidth_bytes_per_s": 12 << 20},
        source={"workers": 1},
    )  # fmt: skip
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 1 << 20)
    stop = threading.Event()

    def write() -> None:
        with server.client() as client:
            while not stop.is_set():
                client.set("written", b"x" * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        if rdb_only:
            assert snapshot(mingus).keys >= 30
            (shard,) = mingus.facts(mingus.manifests()[-1])["shards"]
            assert shard["reader"]["waited_s"] > 0.1
        else:
            with raises(BackupBroken, 7, "cut after", transient=True) as caught:
                snapshot(mingus)
            assert "1048576 1048576 1" in caught.value.hint
            assert mingus.manifests() == []
    finally:
        stop.set()
        writer.join()


# -- killed anywhere --------------------------------------------------------------------------------------------------


def _kill_snapshots(mingus: RedisInstallation, server: RedisServer, keep: int | None) -> None:
    """After a death anywhere: the server is free, what is committed is whole, the next snapshot works."""
    whole = killing.run(mingus, "back_up", killing.Step())
    assert whole.status == 0
    every = killing.steps(whole, every=keep is None)
    died = 0
    for step in every if keep is None else killing.sampled(every, keep=keep):
        for folder in ("packs", "runs", "snapshots"):
            shutil.rmtree(mingus.root / FIRST / folder, ignore_errors=True)
        outcome = killing.run(mingus, "back_up", step)
        assert outcome.status in {-signal.SIGKILL, 0}, f"{step}: ended with {outcome.status}"
        died += outcome.status != 0
        wait_until(lambda: server.info()["connected_slaves"] == 0, "the server has let go")
        assert list((mingus.root / "spool").rglob("*")) == []
        report = snapshot(mingus)
        assert report.keys == 2003
        for manifest in mingus.manifests():
            assert len(mingus.files(manifest)["dump.rdb"]) > 3 << 20
    assert died


@pytest.fixture
def to_be_killed(make_redis: MakeRedis, install: Any) -> tuple[RedisInstallation, RedisServer]:
    server = make_redis(rdbcompression="no")
    server.fill(2000)
    noisy(server, 3)
    mingus = install(server)
    mingus.root.joinpath("tmp").mkdir(exist_ok=True)
    return mingus, server


def test_a_snapshot_killed_anywhere_leaves_nothing_and_the_next_works(
    to_be_killed: tuple[RedisInstallation, RedisServer],
) -> None:
    _kill_snapshots(*to_be_killed, keep=3)


@pytest.mark.soak
def test_a_snapshot_killed_at_every_step_leaves_nothing_and_the_next_works(
    to_be_killed: tuple[RedisInstallation, RedisServer],
) -> None:
    _kill_snapshots(*to_be_killed, keep=None)
