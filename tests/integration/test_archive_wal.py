"""Archiving the write-ahead log of real servers: nothing is missing, nothing is other than the server's own bytes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import LogDiverged, MingusError, StoreUnreachable
from mingus_engine.jobs.postgres.archive_wal import refuse_incomplete
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.repository import logs, records, state
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres import wal
from mingus_engine.store.faulty import Fault
from tests.integration.archives import compare, declared_gaps, index_of, system_id, write_wal
from tests.support.fixtures import MakeCluster
from tests.support.installation import FIRST, SECOND, SOURCE, Installation
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

MIB = 1 << 20
SMALL = {"max_wal_size": "2MB", "min_wal_size": "2MB"}


def changed(mingus: Installation, **wal: object) -> Settings:
    """The settings with another ``wal`` section; the installation uses them from now on."""
    source = mingus.settings.source(SOURCE)
    source = dataclasses.replace(source, wal=dataclasses.replace(source.wal, **wal))
    mingus.settings = mingus.settings.with_source(source)
    return mingus.settings


def remove_old_wal(cluster: PgCluster) -> None:
    """Let a server with ``SMALL`` settings remove what no slot holds."""
    for _ in range(2):
        write_wal(cluster, 4)
        cluster.execute("select pg_switch_wal()", "checkpoint")


@pytest.mark.parametrize("major", [15, 16, 18])
def test_drains_store_whole_segments_and_slices_of_the_servers_own_bytes(
    make_cluster: MakeCluster, workspace: Path, major: int
) -> None:
    cluster = make_cluster(major, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        for mib in (3, 0, 2):
            write_wal(cluster, mib)
            before = lsns.parse(cluster.flush_lsn())
            report = mingus.archive_wal()
            assert (report.ok, report.gaps, report.streaming) == (True, [], False)
            assert lsns.parse(report.archived_to) >= before
            assert [entry["name"] for entry in report.repositories] == [FIRST, SECOND]
            assert all(entry["canary"]["ok"] for entry in report.repositories)
            assert report.sampled_at is not None
        assert report.segments >= 1
        assert compare(mingus, cluster) == compare(mingus, cluster, repository=SECOND) == lsns.parse(report.archived_to)
        assert declared_gaps(mingus) == []


def test_segments_of_64_mib_with_slices_within(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=64)
    with Installation.make(workspace / "m", cluster) as mingus:
        for mib in (5, 30, 40):
            write_wal(cluster, mib)
            report = mingus.archive_wal()
        assert (report.ok, report.segments) == (True, 1)
        compare(mingus, cluster)


def test_a_sample_promises_only_what_the_container_holds(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        for _ in range(3):
            write_wal(cluster, 2)
            mingus.archive_wal()
        with mingus.opened() as repository:
            found = [
                (log.name.end, logs.LogReader(repository, SOURCE, logs.reference(repository, *log)).directory())
                for log in index_of(mingus).timeline(system_id(cluster), 1).logs
            ]
        assert all(directory.flush <= end for end, directory in found)
        sampled = [directory.server_clock_us for _, directory in sorted(found, key=lambda f: f[0]) if directory.flush]
        assert len(sampled) >= 3
        assert sampled == sorted(sampled)


def test_an_idle_server_is_archived_up_to_now_without_a_marker(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18)
    with Installation.make(workspace / "m", cluster) as mingus:
        changed(mingus, canary=False, idle_sample_s=0.01)
        write_wal(cluster, 1)
        cluster.execute("checkpoint")
        samples, containers = [], []
        for _ in range(3):
            report = mingus.archive_wal()
            assert report.ok
            assert "canary" not in report.repositories[0]
            samples.append(report.sampled_at)
            containers.append(len(index_of(mingus).timeline(system_id(cluster), 1).logs))
        assert samples == sorted(set(samples))
        assert containers[0] < containers[2]  # the newer sample is stored, too
        with mingus.opened() as repository:
            wal = StoredWal(repository, SOURCE, state.look(repository, SOURCE))
            ((start, end),) = index_of(mingus).timeline(system_id(cluster), 1).stretches()
            newest = wal.newest_sample(wal.path(system_id(cluster), 1, 16 * MIB), start, end)
        assert newest is not None
        assert newest.at.isoformat() == samples[-1]
        changed(mingus, idle_sample_s=3600.0)
        mingus.archive_wal()
        assert len(index_of(mingus).timeline(system_id(cluster), 1).logs) == containers[2]
        compare(mingus, cluster)


def test_it_goes_on_from_the_log_of_a_full_backup_and_past_a_newer_one(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        first = mingus.back_up()
        write_wal(cluster, 2)
        mingus.archive_wal()
        write_wal(cluster, 3)
        mingus.back_up()  # stores newer log than the archive has: a hole between, which the slot still holds
        assert len(index_of(mingus).timeline(system_id(cluster), 1).stretches()) == 2
        write_wal(cluster, 2)
        report = mingus.archive_wal()
        assert report.gaps == []
        (stretch,) = index_of(mingus).timeline(system_id(cluster), 1).stretches()
        assert stretch.start <= lsns.parse(first.start_lsn)
        compare(mingus, cluster)
        mingus.ship()
        assert mingus.verify("L2", SECOND).ok


def test_a_slot_that_is_gone_is_a_declared_gap_when_wal_is_gone_too(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf=SMALL)
    with Installation.make(workspace / "m", cluster) as mingus:
        write_wal(cluster, 2)
        before = mingus.archive_wal()
        cluster.execute("select pg_drop_replication_slot('mingus_ledger')")
        remove_old_wal(cluster)
        report = mingus.archive_wal()
        (gap,) = report.gaps
        assert report.fresh_full_needed
        assert gap["from"] == before.archived_to
        assert "removed" in str(gap["why"])
        assert any("GAP" in message for message in mingus.messages)
        (declared,) = declared_gaps(mingus)
        assert {key: declared[key] for key in ("from", "to", "timeline")} == {
            key: gap[key] for key in ("from", "to", "timeline")
        }
        after = mingus.archive_wal()  # once, not for ever
        assert (after.gaps, after.fresh_full_needed, len(declared_gaps(mingus))) == ([], False, 1)
        kept, begun = index_of(mingus).timeline(system_id(cluster), 1).stretches()
        assert (lsns.text(kept.end), lsns.text(begun.start)) == (gap["from"], gap["to"])


def test_a_slot_that_is_gone_is_no_gap_while_the_server_still_has_the_wal(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(18, wal_segment_mib=1, conf={"wal_keep_size": "64MB"})
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        cluster.execute("select pg_drop_replication_slot('mingus_ledger')")
        write_wal(cluster, 3)
        cluster.execute("checkpoint")
        assert mingus.archive_wal().gaps == []
        compare(mingus, cluster)


def test_a_lost_slot_is_made_anew_and_the_gap_declared(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(16, wal_segment_mib=1, conf={**SMALL, "max_slot_wal_keep_size": "2MB"})
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        for _ in range(3):
            remove_old_wal(cluster)
        assert cluster.value("select wal_status from pg_replication_slots") == "lost"
        report = mingus.archive_wal()
        assert report.fresh_full_needed
        assert report.wal_status == "reserved"
        assert len(declared_gaps(mingus)) == 1
        assert mingus.archive_wal().gaps == []


def test_wal_that_somebody_deleted_under_the_slot_is_a_declared_gap(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        write_wal(cluster, 1)
        archived_to = lsns.parse(mingus.archive_wal().archived_to)
        write_wal(cluster, 4)
        cluster.execute("select pg_switch_wal()", "checkpoint")
        for segment in (archived_to // MIB, archived_to // MIB + 1):
            (cluster.data_directory / "pg_wal" / lsns.segment_name(1, segment * MIB, MIB)).unlink()
        report = mingus.archive_wal()
        assert report.fresh_full_needed
        assert lsns.parse(str(report.gaps[0]["from"])) == archived_to
        assert mingus.archive_wal().gaps == []


@pytest.mark.parametrize("major", [15, 18])
def test_a_standby_is_archived_across_its_promotion(make_cluster: MakeCluster, workspace: Path, major: int) -> None:
    primary = make_cluster(major, wal_segment_mib=1)
    standby = PgCluster.standby_of(primary, workspace / "standby")
    with standby.start(), Installation.make(workspace / "m", standby) as mingus:
        write_wal(primary, 2)
        target = primary.flush_lsn()
        wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{target}'"), "standby has it")
        report = mingus.archive_wal()
        assert any("standby takes no marker" in message for message in mingus.messages)
        assert lsns.parse(report.archived_to) >= lsns.parse(target)
        compare(mingus, standby)
        write_wal(primary, 2)
        standby.promote()
        write_wal(standby, 2)
        report = mingus.archive_wal()
        assert (report.timeline, report.gaps, report.ok) == (2, [], True)
        system = system_id(standby)
        for repository in (FIRST, SECOND):
            index = index_of(mingus, repository)
            assert (system, 2) in index.histories
            switch = standby.value(
                "select lsn from (select (regexp_split_to_array(pg_read_file("
                "'pg_wal/00000002.history'), '\\s+'))[2] as lsn) h"
            )
            (old,) = index.timeline(system, 1).stretches()
            assert lsns.text(old.end) == switch
            compare(mingus, standby, 2, repository)
            (new,) = index.timeline(system, 2).stretches()
            assert new.start == lsns.segment_start(old.end, MIB)  # the same segment's name on two timelines


def test_a_new_primary_without_the_slot_is_archived_without_a_gap(make_cluster: MakeCluster, workspace: Path) -> None:
    primary = make_cluster(16, wal_segment_mib=1)
    standby = PgCluster.standby_of(primary, workspace / "standby")
    with standby.start(), Installation.make(workspace / "m", primary) as mingus:
        write_wal(primary, 2)
        mingus.archive_wal()
        write_wal(primary, 2)
        target = primary.flush_lsn()
        wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{target}'"), "standby has it")
        primary.kill()
        standby.promote()
        source = mingus.settings.source(SOURCE)
        moved = dataclasses.replace(source.connection, port=standby.port, host=str(standby.socket_directory))
        mingus.settings = mingus.settings.with_source(dataclasses.replace(source, connection=moved))
        write_wal(standby, 1)
        report = mingus.archive_wal()
        assert (report.timeline, report.gaps) == (2, [])
        compare(mingus, standby, 1)
        compare(mingus, standby, 2)


@pytest.mark.parametrize("switched", [False, True])
def test_a_copy_that_went_its_own_way_is_refused_and_nothing_of_it_is_stored(
    make_cluster: MakeCluster, workspace: Path, switched: bool
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        cluster.stop()
        copy = workspace / "copy" / "data"
        shutil.copytree(cluster.data_directory, copy, symlinks=True)
        cluster.start()
        write_wal(cluster, 1)
        if switched:  # what is stored ends where a segment does
            cluster.execute("select pg_switch_wal()")
            changed(mingus, canary=False)
        mingus.archive_wal()
        before = mingus.files(below="logs")
        with PgCluster.of_directory(cluster.version, copy, password=cluster.password).start() as other:
            write_wal(other, 4)
            source = mingus.settings.source(SOURCE)
            wrong = dataclasses.replace(source.connection, port=other.port, host=str(other.socket_directory))
            right = mingus.settings
            mingus.settings = right.with_source(dataclasses.replace(source, connection=wrong))
            with pytest.raises(LogDiverged):
                mingus.archive_wal()
            mingus.settings = right
        assert mingus.files(below="logs") == before
        write_wal(cluster, 1)
        assert mingus.archive_wal().ok
        compare(mingus, cluster)


def test_two_servers_on_one_timeline_number_are_told_apart_by_their_histories(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    primary = make_cluster(18, wal_segment_mib=1)
    standbys = [PgCluster.standby_of(primary, workspace / f"standby{i}") for i in range(2)]
    with standbys[0].start() as one, standbys[1].start() as two, Installation.make(workspace / "m", one) as mingus:
        for standby in (one, two):
            write_wal(primary, 1)
            target = primary.flush_lsn()
            wait_until(lambda s=standby, t=target: s.value(f"select pg_last_wal_replay_lsn() >= '{t}'"), "it has it")
            standby.promote()
        assert mingus.archive_wal().timeline == 2
        source = mingus.settings.source(SOURCE)
        moved = dataclasses.replace(source.connection, port=two.port, host=str(two.socket_directory))
        mingus.settings = mingus.settings.with_source(dataclasses.replace(source, connection=moved))
        with pytest.raises(LogDiverged, match=r"00000002\.history"):
            mingus.archive_wal()


def test_damaged_log_is_stored_again_while_the_server_has_it(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        write_wal(cluster, 1)
        mingus.archive_wal()
        newest = max(index_of(mingus).timeline(system_id(cluster), 1).logs, key=lambda log: log.name.end)
        damaged = mingus.path() / str(newest.name)
        data = bytearray(damaged.read_bytes())
        data[-60] ^= 1
        damaged.chmod(0o600)
        damaged.write_bytes(data)
        mingus.archive_wal()
        assert any("stored again" in message for message in mingus.messages)
        damaged.unlink()
        compare(mingus, cluster)


def test_one_repository_that_is_down_stops_no_other_and_is_reported(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18)
    made = dict.fromkeys(("first", "second", "third"))
    with Installation.make(workspace / "m", cluster, repositories=made, repository_options={"attempts": 1}) as mingus:
        with mingus.faults(Fault("put", "raise"), repository=SECOND):
            report = mingus.archive_wal()
        states = {entry["name"]: entry["ok"] for entry in report.repositories}
        assert states == {FIRST: True, SECOND: False, "third": True}
        assert not report.ok
        with pytest.raises(StoreUnreachable, match="second"):
            refuse_incomplete(report)
        compare(mingus, cluster, repository="third")
        assert mingus.archive_wal().ok
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)


def test_log_goes_to_the_next_repository_while_the_first_is_down_and_back_to_it_later(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf=SMALL)
    with Installation.make(workspace / "m", cluster) as mingus:
        write_wal(cluster, 1)
        mingus.archive_wal()
        away = mingus.path().rename(workspace / "away")
        write_wal(cluster, 3)
        report = mingus.archive_wal()
        assert (report.repository, report.gaps, report.ok) == (SECOND, [], False)
        remove_old_wal(cluster)
        mingus.archive_wal()
        away.rename(mingus.path())
        write_wal(cluster, 1)
        report = mingus.archive_wal()
        assert (report.repository, report.gaps, report.ok) == (FIRST, [], True)
        assert compare(mingus, cluster) == compare(mingus, cluster, repository=SECOND)


def test_a_slow_store_does_not_look_like_a_dead_receiver(
    make_cluster: MakeCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "STATUS_INTERVAL_S", 0.2)
    cluster = make_cluster(18, wal_segment_mib=1, conf={"wal_sender_timeout": "1s"})
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        write_wal(cluster, 3)
        slow = Fault("put", "delay", name=f"logs/{SOURCE}/[0-9]*", delay_s=2.5)
        with mingus.faults(slow) as stores:
            report = mingus.archive_wal(ship=False)
        assert any(call.operation == "put" for store in stores for call in store.calls)
        assert (report.ok, report.gaps) == (True, [])
        assert "replication timeout" not in cluster.log_tail(100)
        compare(mingus, cluster)


def test_a_fenced_run_confirms_nothing_and_its_log_is_stored_again(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        write_wal(cluster, 2)
        before = cluster.value("select restart_lsn from pg_replication_slots")
        known = {str(log.name) for log in index_of(mingus).timeline(system_id(cluster), 1).logs}

        def fence(calls: object) -> None:
            with mingus.opened() as repository:
                newest = max(i.name.split("/")[2].split(".")[0] for i in repository.store.list(f"runs/{SOURCE}/"))
                repository.put_record(records.FENCE, SOURCE, {"plan": "p"}, {}, run=newest)

        report = None
        with pytest.raises(MingusError, match="fenced"):
            report = mingus.archive_wal(context={"on_progress": _once(fence)})
        assert report is None
        assert cluster.value("select restart_lsn from pg_replication_slots") == before
        unsure = {str(log.name) for log in index_of(mingus).timeline(system_id(cluster), 1).logs} - known
        assert mingus.archive_wal().ok
        for name in unsure:  # a cleaner may take it: nothing depends on it
            (mingus.path() / name).unlink()
        compare(mingus, cluster)


def _once(deed):
    done = []

    def act(progress: object) -> None:
        if not done:
            done.append(True)
            deed(progress)

    return act
