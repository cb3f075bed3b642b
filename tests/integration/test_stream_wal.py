"""The streaming archiver as a process of its own, against everything that happens to it in a year."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import SourceBusy
from mingus_engine.jobs import serving
from mingus_engine.jobs.postgres.stream_wal import stream_wal
from mingus_engine.repository import logs
from tests.integration.archives import compare, declared_gaps, index_of, streaming, system_id, write_wal
from tests.integration.journal import Journal, shown
from tests.integration.test_archive_wal import changed
from tests.integration.trouble import remount, small_disk
from tests.support.fixtures import MakeCluster
from tests.support.installation import FIRST, SOURCE, Installation, running
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

QUICK = {"wal": {"slice_interval_s": 0.2}}
# Half a MiB of log that does not compress.
NOISE = "insert into noise select string_agg(md5(random()::text), '') from generate_series(1, 16000) g group by g % 20"


def archived_to(mingus: Installation, cluster: PgCluster, timeline: int = 1) -> int:
    """The end of the newest stretch."""
    stretches = index_of(mingus).timeline(system_id(cluster), timeline).stretches()
    return stretches[-1].end if stretches else 0


def log_runs(mingus: Installation, cluster: PgCluster) -> set[str]:
    """The runs whose keys open the archived log."""
    with mingus.opened() as repository:
        stored = index_of(mingus).timeline(system_id(cluster), 1).logs
        return {logs.reference(repository, *log).run for log in stored}


def wait_archived(mingus: Installation, cluster: PgCluster, timeline: int = 1) -> None:
    """Until everything that is flushed now is archived."""
    target = lsns.parse(cluster.flush_lsn())
    wait_until(lambda: archived_to(mingus, cluster, timeline) >= target, "it is archived", timeout_s=60)


def test_what_is_written_is_archived_seconds_later_and_sigterm_stores_the_rest(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster, **QUICK) as mingus:
        with streaming(mingus, "--json") as service:
            for _ in range(3):
                write_wal(cluster, 1)
                wait_archived(mingus, cluster)
            # A drain that finds it at work receives nothing, ships, and finds its marker everywhere.
            report = mingus.archive_wal()
            assert (report.streaming, report.ok, report.segments, report.slices) == (True, True, 0, 0)
            assert all(entry["canary"]["ok"] for entry in report.repositories)
            assert report.sampled_at is not None
            write_wal(cluster, 1)
            target = lsns.parse(cluster.flush_lsn())
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0
        assert archived_to(mingus, cluster) >= target
        compare(mingus, cluster)
        lines = [line for log in mingus.root.glob("stream-*.log") for line in log.read_text().splitlines()]
        documents = [json.loads(line) for line in lines if line.startswith("{")]
        assert documents[0]["wal_status"] == "reserved"
        assert documents[-1]["job"] == "stream wal"
        assert lsns.parse(documents[-1]["archived_to"]) >= target
        with mingus.opened() as repository:
            runs = [info.name for info in repository.store.list(f"runs/{SOURCE}/")]
        assert len([r for r in runs if r.endswith(".start")]) == len([r for r in runs if r.endswith(".end")])


def test_a_drain_beside_a_streamer_that_hangs_fails_and_says_how_much_is_not_archived(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    wal = {"slice_interval_s": 0.2, "busy_lag_max_bytes": 1 << 20}
    with Installation.make(workspace / "m", cluster, wal=wal) as mingus, streaming(mingus) as service:
        wait_until(lambda: archived_to(mingus, cluster), "it streams")
        service.send_signal(signal.SIGSTOP)
        write_wal(cluster, 4)
        with pytest.raises(SourceBusy, match=r"active for PID \d+.* bytes of log are not archived"):
            mingus.archive_wal()
        service.send_signal(signal.SIGCONT)
        wait_archived(mingus, cluster)
        assert mingus.archive_wal().streaming


def test_two_streamers_of_one_source_do_not_disturb_each_other(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster, **QUICK) as mingus:
        with streaming(mingus) as one, streaming(mingus) as two:
            for _ in range(4):
                write_wal(cluster, 1)
                wait_archived(mingus, cluster)
            logs = list(mingus.root.glob("stream-*.log"))
            wait_until(lambda: sum("active for PID" in log.read_text() for log in logs) == 1, "one of them waits")
            assert one.poll() is None
            assert two.poll() is None
        compare(mingus, cluster)


def test_a_restart_of_the_server_and_cut_connections_are_waited_out(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster, **QUICK) as mingus, streaming(mingus) as service:
        wait_until(lambda: archived_to(mingus, cluster), "it streams")
        for deed in (
            lambda: cluster.execute("select pg_terminate_backend(pid) from pg_stat_replication"),
            lambda: cluster.restart("fast"),
            lambda: cluster.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mingus'"
            ),
            lambda: (cluster.kill(), cluster.start()),
        ):  # fmt: skip
            write_wal(cluster, 2)
            deed()
            write_wal(cluster, 1)
            wait_archived(mingus, cluster)
        assert service.poll() is None
        compare(mingus, cluster)
        assert declared_gaps(mingus) == []


def test_a_promotion_is_followed_without_a_hand(make_cluster: MakeCluster, workspace: Path) -> None:
    primary = make_cluster(16, wal_segment_mib=1)
    standby = PgCluster.standby_of(primary, workspace / "standby")
    with standby.start(), Installation.make(workspace / "m", standby, **QUICK) as mingus, streaming(mingus):
        write_wal(primary, 2)
        wait_until(lambda: archived_to(mingus, standby) >= lsns.parse(primary.flush_lsn()), "it streams")
        standby.promote()
        write_wal(standby, 1)
        wait_archived(mingus, standby, 2)
        compare(mingus, standby, 2)
        assert (system_id(standby), 2) in index_of(mingus).histories
        assert declared_gaps(mingus) == []


def test_a_repository_that_is_away_for_a_while_costs_nothing(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    only = {"first": None}
    with (
        Installation.make(
            workspace / "m", cluster, repositories=only, repository_options={"attempts": 1}, **QUICK
        ) as mingus,
        streaming(mingus) as service,
    ):
        wait_until(lambda: archived_to(mingus, cluster), "it streams")
        away = mingus.path().rename(workspace / "away")
        write_wal(cluster, 3)
        log = next(iter(mingus.root.glob("stream-*.log")))
        wait_until(lambda: "again in" in log.read_text(), "it notices")
        away.rename(mingus.path())
        wait_archived(mingus, cluster)
        assert service.poll() is None
        compare(mingus, cluster)
        assert declared_gaps(mingus) == []


def test_a_full_repository_is_waited_out_with_the_log_kept_by_the_slot(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with small_disk(workspace / "disk", 1 << 20) as disk:
        first = {FIRST: disk / "repository"}
        with (
            Installation.make(
                workspace / "m", cluster, repositories=first, repository_options={"attempts": 1}, **QUICK
            ) as mingus,
            streaming(mingus) as service,
        ):
            wait_until(lambda: archived_to(mingus, cluster), "it streams")
            log = next(iter(mingus.root.glob("stream-*.log")))

            def noticed() -> bool:
                cluster.execute("create table if not exists noise (b text)", NOISE)
                return os.strerror(errno.ENOSPC) in log.read_text()

            wait_until(noticed, "the disk is full", timeout_s=60)
            reached = archived_to(mingus, cluster)
            write_wal(cluster, 2)
            assert reached < lsns.parse(cluster.flush_lsn())
            kept = cluster.value("select restart_lsn from pg_replication_slots where wal_status = 'reserved'")
            assert lsns.parse(kept) <= reached
            assert service.poll() is None
            remount(disk, "size=64m")
            wait_archived(mingus, cluster)
            assert service.poll() is None
            compare(mingus, cluster)
            assert declared_gaps(mingus) == []


def test_a_restore_goes_across_the_renewals_of_run_and_key(
    make_cluster: MakeCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    journal = Journal(1)
    journal.prepare(cluster)
    monkeypatch.setattr(serving, "_RUN_S", 0.5)
    with Installation.make(workspace / "m", cluster, **QUICK) as mingus:
        mingus.back_up()
        context = mingus.context(cancel=threading.Event())
        with ThreadPoolExecutor(1) as pool:
            service = pool.submit(stream_wal, mingus.settings, SOURCE, context=context)
            try:

                def renewed() -> bool:
                    journal.write(cluster, 1)
                    write_wal(cluster, 1)
                    wait_archived(mingus, cluster)
                    return len(log_runs(mingus, cluster)) > 3

                wait_until(renewed, "it was renewed three times", timeout_s=60)
            finally:
                context.cancel.set()
            assert service.result().failures == 0
        compare(mingus, cluster)
        assert declared_gaps(mingus) == []
        with mingus.opened() as repository:
            keys = [info.name for info in repository.store.list(f"logs/{SOURCE}/keys/")]
        assert len(keys) >= len(log_runs(mingus, cluster))
        mingus.restore(workspace / "data", to="latest")
        with running(workspace, workspace / "data", cluster) as server:
            wait_until(lambda: not server.value("select pg_is_in_recovery()"), "promoted")
            assert shown(server) == journal.entries[-1].n


@pytest.mark.parametrize("canary", [True, False])
def test_an_idle_server_is_known_to_be_archived_up_to_now(
    make_cluster: MakeCluster, workspace: Path, canary: bool
) -> None:
    cluster = make_cluster(16)
    with Installation.make(workspace / "m", cluster) as mingus:
        changed(mingus, slice_interval_s=0.1, idle_sample_s=0.5, canary=canary)
        cluster.execute("checkpoint")
        context, seen = mingus.context(cancel=threading.Event()), []

        def note(status: object) -> None:
            seen.append(status)
            if len(seen) == 30:
                context.cancel.set()

        stream_wal(mingus.settings, SOURCE, context=context, on_status=note, status_interval_s=0.0)
        known = [status.sampled_at for status in seen if status.sampled_at]
        assert known == sorted(known)
        assert len(set(known)) > 5
        containers = index_of(mingus).timeline(system_id(cluster), 1).logs
        assert 2 <= len(containers) < len(seen)


def mayhem(make_cluster: MakeCluster, workspace: Path, major: int, rounds: int) -> None:
    """Kill, restart and cut at random under load; then nothing may be missing or different."""
    chance = random.Random(f"{major}/{rounds}")
    conf = {"max_wal_size": "4MB", "min_wal_size": "2MB", "checkpoint_timeout": "30s", "fsync": "on"}
    cluster = make_cluster(major, wal_segment_mib=1, conf=conf)
    cluster.pgbench_init(1)
    with Installation.make(workspace / "m", cluster, **QUICK) as mingus:
        for number in range(rounds):
            with streaming(mingus) as service:
                write_wal(cluster, chance.randint(0, 2))
                if chance.random() < 0.8:
                    wait_until(lambda: (True,) in cluster.rows("select active from pg_replication_slots"), "it streams")
                    threading.Event().wait(chance.random() / 2)
                deed = chance.choice(["receiver", "receiver", "server", "sender", "operator"])
                if deed == "server":
                    cluster.kill()
                    cluster.start()
                elif deed == "sender":
                    cluster.execute("select pg_terminate_backend(pid) from pg_stat_replication", "checkpoint")
                service.kill()
                service.wait()
            if deed == "operator" or number == rounds - 1:
                write_wal(cluster, 1)
                assert mingus.archive_wal(ship=number == rounds - 1).gaps == []
            write_wal(cluster, 1)
        assert mingus.archive_wal().ok
        compare(mingus, cluster)
        compare(mingus, cluster, repository="second")
        assert declared_gaps(mingus) == []


def test_nothing_is_lost_when_receiver_operator_and_server_are_killed_at_random(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    mayhem(make_cluster, workspace, 16, 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("major", [15, 16, 18])
def test_nothing_is_lost_in_a_hundred_rounds_of_kills(make_cluster: MakeCluster, workspace: Path, major: int) -> None:
    mayhem(make_cluster, workspace, major, 100)
