"""Shipping archived log: what no longer container replaces, each with its key, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.errors import MingusError
from mingus_engine.jobs.ship import ShipReport, ship, ship_logs
from mingus_engine.repository import records
from mingus_engine.store.faulty import Fault
from tests.integration.archives import compare, index_of, system_id, write_wal
from tests.integration.test_archive_wal import changed
from tests.support.fixtures import MakeCluster
from tests.support.installation import FIRST, SECOND, SOURCE, Installation


def shipped(mingus: Installation) -> ShipReport:
    return ship_logs(mingus.settings, SOURCE, origin=FIRST, destination=SECOND, context=mingus.context())


def test_what_a_longer_container_replaces_is_not_sent_and_nothing_is_sent_twice(
    make_cluster: MakeCluster, workspace: Path
) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        for _ in range(4):
            write_wal(cluster, 1)
            mingus.archive_wal(ship=False)
        first = index_of(mingus).timeline(system_id(cluster), 1)
        report = shipped(mingus)
        assert report.logs == report.objects_put == len(first.needed()) < len(first.logs)
        assert (shipped(mingus).objects_put, shipped(mingus).bytes_put) == (0, 0)
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)
        # The other way nothing is missing either.
        back = ship_logs(mingus.settings, SOURCE, origin=SECOND, destination=FIRST, context=mingus.context())
        assert back.objects_put == 0


@pytest.mark.parametrize("what", ["keys/*", "[0-9]*"])
def test_a_shipment_that_breaks_off_leaves_nothing_that_cannot_be_opened(
    make_cluster: MakeCluster, workspace: Path, what: str
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    options = {"attempts": 1}
    with Installation.make(workspace / "m", cluster, repository_options=options) as mingus:
        for _ in range(2):
            write_wal(cluster, 1)
            mingus.archive_wal(ship=False)
        broken = Fault("put", "raise", name=f"logs/{SOURCE}/{what}", nth=2)
        with mingus.faults(broken, repository=SECOND), pytest.raises(MingusError):
            shipped(mingus)
        if index_of(mingus, SECOND).timelines:
            with mingus.opened(SECOND) as repository:
                containers = {i.name for i in repository.store.list(f"logs/{SOURCE}/")}
                assert any("/keys/" in name for name in containers)
        shipped(mingus)
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)


def test_what_a_fenced_shipment_put_is_put_again_under_another_name(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        before = {str(log.name) for log in index_of(mingus, SECOND).timeline(system_id(cluster), 1).logs}
        with mingus.opened(SECOND) as repository:
            for run in {name.rpartition(".")[2] for name in before}:
                repository.put_record(records.FENCE, SOURCE, {"plan": "p"}, {}, run=run)
        shipped(mingus)
        for name in before:  # a cleaner may take them: nothing depends on them
            (mingus.path(SECOND) / name).unlink()
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)


def test_shipping_snapshots_brings_the_archived_log_along(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.back_up()
        write_wal(cluster, 2)
        mingus.archive_wal(ship=False)
        report = mingus.ship()
        assert (len(report.snapshots), report.logs > 0) == (1, True)
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)
        again = mingus.ship()
        assert (again.objects_put, again.logs) == (0, 0)


def test_log_that_is_only_pushed_comes_along_with_each_snapshot(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        snapshot = mingus.back_up().snapshot
        write_wal(cluster, 2)
        mingus.archive_wal(ship=False)  # as a push stores it
        for scheduled in (True, False):
            settings = changed(mingus, scheduled=scheduled)
            report = ship(
                settings, SOURCE, origin=FIRST, destination=SECOND, snapshot=snapshot, context=mingus.context()
            )
            assert (report.logs > 0) is not scheduled
        assert compare(mingus, cluster, repository=SECOND) == compare(mingus, cluster)
