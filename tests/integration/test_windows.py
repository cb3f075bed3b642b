"""Recovery windows over real archives: what they reach, where they end, and what a missing object does to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mingus_engine import lsn as lsns
from mingus_engine.jobs.postgres.windows import windows
from mingus_engine.jobs.surveying import WindowsReport
from tests.integration.conftest import Install
from tests.support.archiving import drain, keep_wal
from tests.support.installation import FIRST, Installation
from tests.support.postgres import PgCluster

MakeCluster = Callable[..., PgCluster]


def seen(installation: Installation) -> WindowsReport:
    return windows(installation.settings, "ledger", FIRST, context=installation.context())


def test_windows_follow_the_archive_over_a_gap_and_a_promotion(make_cluster: MakeCluster, install: Install) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    keep_wal(cluster)
    installation = install(cluster)
    assert seen(installation).repositories[0]["windows"] == []

    first = installation.back_up()
    began = datetime.now(UTC)
    cluster.execute("create table t as select repeat('x', 100) from generate_series(1, 40000)")
    end = drain(installation)
    (window,) = seen(installation).repositories[0]["windows"]
    assert window["snapshots"] == [first.snapshot]
    assert lsns.parse(window["start_lsn"]) == lsns.parse(first.stop_lsn)
    assert lsns.parse(window["end_lsn"]) == end
    assert datetime.fromisoformat(window["end_time"]) > began

    second = installation.back_up()
    cluster.execute("insert into t select repeat('y', 100) from generate_series(1, 40000)")
    drain(installation)
    (window,) = seen(installation).repositories[0]["windows"]
    assert window["snapshots"] == [first.snapshot, second.snapshot]

    # One segment between the two is lost.
    gone = lsns.segment_start(lsns.parse(second.start_lsn), 1 << 20) - (1 << 20)
    lost = [path for path in installation.files(below="logs") if f"/{gone:016X}-" in str(path)]
    assert lost
    for path in lost:
        path.unlink()
    report = seen(installation).repositories[0]
    assert [w["snapshots"] for w in report["windows"]] == [[first.snapshot], [second.snapshot]]
    (gap,) = report["gaps"]
    assert lsns.parse(gap["start_lsn"]) == gone
    assert lsns.parse(gap["end_lsn"]) == lsns.parse(second.stop_lsn)
    assert gap["end_time"] == report["windows"][1]["start_time"]

    # A snapshot without its own log opens nothing.
    for path in installation.files(below="logs"):
        if f"/{lsns.segment_start(lsns.parse(first.stop_lsn) - 1, 1 << 20):016X}-" in str(path):
            path.unlink()
    report = seen(installation).repositories[0]
    assert [w["snapshots"] for w in report["windows"]] == [[second.snapshot]]
    assert "is missing from" in report["unusable"][first.snapshot]


def test_a_child_timeline_reaches_back_and_the_rest_of_the_old_one_is_kept(
    make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    keep_wal(cluster)
    installation = install(cluster)
    snapshot = installation.back_up().snapshot
    with PgCluster.standby_of(cluster, workspace / "standby").start() as standby:
        standby.promote()
        keep_wal(standby)
        standby.execute("create table new as select 1")
        cluster.execute("create table old as select 1")  # nobody told it
        old_end = drain(installation)
        new_end = drain(installation, standby)
        report = seen(installation).repositories[0]
        assert [(w["timeline"], w["snapshots"], lsns.parse(w["end_lsn"])) for w in report["windows"]] == [
            (1, [snapshot], old_end),
            (2, [snapshot], new_end),
        ]
        # One of the old timeline, made after it was left, does not lead to the new one.
        late = installation.back_up().snapshot
        drain(installation)
        report = seen(installation).repositories[0]
        assert [w["snapshots"] for w in report["windows"]] == [[snapshot, late], [snapshot]]
        assert seen(installation).restorable_to == report["windows"][-1]["end_time"]
