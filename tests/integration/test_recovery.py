"""Recovery to a moment: of every version, over a promotion, to every kind of target; and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import Damaged, NotRestorable, SettingsError, TargetError
from mingus_engine.jobs.postgres import recovery_target
from mingus_engine.jobs.postgres.archive_wal import archive_wal
from mingus_engine.jobs.postgres.windows import windows
from mingus_engine.jobs.recovery_test import recovery_test
from mingus_engine.jobs.verify import VerificationRefuted
from tests.integration import ledger
from tests.integration.conftest import Install
from tests.integration.journal import Entry, Journal, shown
from tests.support import directories
from tests.support.archiving import drain, keep_wal
from tests.support.installation import SOURCE, Installation, running
from tests.support.pg_versions import MAJORS, PgVersion
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until
from tests.support.s3 import S3Bucket

SEED = 20261123
_AMCHECK = """
select bt_index_parent_check(c.oid, heapallindexed => true)
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
where a.amname = 'btree' and c.relpersistence = 'p' and i.indisvalid and i.indisready
"""


@dataclass
class Story:
    """A cluster's life: a snapshot, work, a snapshot, work, a promotion, work; all of it archived.

    :ivar lost: what the old primary committed after it was left. :ivar first: entries before the first snapshot's end.
    """

    installation: Installation
    journal: Journal
    lost: list[Entry]
    snapshots: list[str]
    first: int
    cluster: PgCluster


MakeStory = Callable[[int], Story]


@pytest.fixture(scope="module")
def make_story(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[MakeStory]:
    made: dict[int, Story] = {}
    with ExitStack() as stack:

        def make(major: int) -> Story:
            if major not in made:
                made[major] = _live(pg_versions[major], module_directory / f"v{major}", stack)
            return made[major]

        yield make


def _live(version: PgVersion, root: Path, stack: ExitStack) -> Story:
    directories.make_directory(root)
    cluster = stack.enter_context(PgCluster.create(version, root / "one", wal_segment_mib=1)).start()
    ledger.furnish(cluster, postings=500)
    journal = Journal(SEED)
    journal.prepare(cluster)
    keep_wal(cluster)
    installation = stack.enter_context(Installation.make(root / "i", cluster, predicates=ledger.PREDICATES))
    (root / "transfer.sql").write_text(ledger.TRANSFER)
    load = ["-f", str(root / "transfer.sql"), "-R", "100"]
    with cluster.pgbench(arguments=load):
        journal.write(cluster, 5)
        snapshots = [installation.back_up().snapshot]
        first = len(journal.entries)
        journal.write(cluster, 60)
        drain(installation)
        snapshots.append(installation.back_up().snapshot)
        journal.write(cluster, 60)
    standby = stack.enter_context(PgCluster.standby_of(cluster, root / "two")).start()
    with cluster.pgbench(arguments=load):
        journal.write(cluster, 30)
    wait_until(
        lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", cluster.flush_lsn()), "standby caught up"
    )
    standby.promote()
    lost = journal.write(cluster, 10, lost=True)
    drain(installation)
    keep_wal(standby)
    with standby.pgbench(arguments=load):
        journal.write(standby, 60, timeline=2)
        drain(installation, standby)
        journal.write(standby, 20, timeline=2)
    drain(installation, standby)
    cluster.stop()
    return Story(installation, journal, lost, snapshots, first, standby)


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest, make_story: MakeStory) -> Story:
    return make_story(request.param)


def recovered(story: Story, place: Path, **values: Any) -> int:
    """Restore, start, and count the entries; the books must balance."""
    directories.make_directory(place)
    story.installation.restore(place / "data", **values)
    with running(place, place / "data", story.cluster) as server:
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "recovery ended and the server was promoted")
        assert server.value(ledger.BALANCED)
        if server.value("select count(*) from pg_available_extensions where name = 'amcheck'"):
            server.execute("create extension amcheck", _AMCHECK)
        return shown(server)


def check_random_targets(story: Story, workspace: Path, count: int, seed: int) -> None:
    source = random.Random(seed)
    for number in range(count):
        text, options, expected = story.journal.random_target(source, story.first)
        place = workspace / f"r{number}"
        assert recovered(story, place, to=text, **options) in expected, f"{text} {options} (seed {seed})"
        directories.remove(place)


def test_random_targets_show_exactly_what_was_committed_before(story: Story, workspace: Path) -> None:
    check_random_targets(story, workspace, 4, SEED + story.cluster.version.major)


def test_latest_follows_the_promotion_and_the_old_timeline_can_be_asked_for(story: Story, workspace: Path) -> None:
    last = story.journal.entries[-1].n
    assert recovered(story, workspace / "latest", to="latest") == last
    at_the_switch = [e.n for e in story.journal.entries if e.timeline == 1][-1]
    assert recovered(story, workspace / "old", to="latest", timeline=1) == at_the_switch + len(story.lost)


def _verified(story: Story, to: str, **values: Any) -> dict[str, Any]:
    report = story.installation.verify(None, to=to, **values)
    assert report.ok
    (check,) = [c for c in report.checks if c["name"] == "L4 target"]
    assert check["ok"]
    return {**check["data"], "report": report}


def test_a_recovery_to_a_random_moment_is_proven_to_end_exactly_there(story: Story) -> None:
    once = _verified(story, "random:7")
    again = _verified(story, "random:7")
    assert once["report"].target == again["report"].target
    assert once["last_record"] == again["last_record"]
    assert once["report"].seed == 7
    assert once["report"].rpo_s >= 0


def test_the_recovery_test_recovers_to_a_random_second_of_the_newest_window(story: Story) -> None:
    mingus = story.installation
    report = recovery_test(mingus.settings, SOURCE, context=mingus.context())
    assert report.ok
    assert report.seed is not None
    assert report.reason is None
    (target,) = [c for c in report.checks if c["name"] == "L4 target"]
    assert target["ok"]
    assert report.rto_s is not None
    assert report.rto_met is True


@pytest.mark.parametrize("kind", ["latest", "immediate", "lsn", "xid", "name", "time"])
def test_every_kind_of_target_is_proven_to_be_met(make_story: MakeStory, kind: str) -> None:
    story = make_story(15)
    entry = story.journal.entries[90]
    name = max(story.journal.points, key=lambda name: story.journal.points[name])
    value = {
        "lsn": f":{lsns.text(entry.lsn_behind)}", "xid": f":{entry.xid}", "name": f":{name}",
        "time": f":{entry.behind.isoformat()}",
    }.get(kind, "")  # fmt: skip
    _verified(story, kind + value)


def test_a_server_that_ends_elsewhere_refutes_the_recovery(
    make_story: MakeStory, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = make_story(16)
    entry = story.journal.entries[90]
    monkeypatch.setattr(recovery_target._Resolution, "_setting", lambda *_: {})
    with pytest.raises(VerificationRefuted, match=r"L4 target: xid:\d+ was passed"):
        story.installation.verify(None, to=f"xid:{entry.xid}")
    monkeypatch.undo()
    # The log or the target may be at fault: the snapshot is not lost for that.
    _verified(story, f"xid:{entry.xid}")


def _refused(story: Story, place: Path, to: str, match: str, **values: Any) -> None:
    with pytest.raises(NotRestorable, match=match) as refused:
        story.installation.restore(place / "data", to=to, **values)
    assert "windows: timeline 1: " in refused.value.message
    assert not (place / "data").exists()


def test_what_is_outside_a_window_is_refused_before_anything_is_written(make_story: MakeStory, workspace: Path) -> None:
    story = make_story(15)
    first, last = story.journal.entries[0], story.journal.entries[-1]
    _refused(story, workspace, f"time:{first.before.isoformat()}", "before the first moment")
    _refused(story, workspace, "time:2099-01-01", "behind the newest moment")
    _refused(story, workspace, f"time:{(last.behind + timedelta(hours=1)).isoformat()}", "behind the newest moment")
    _refused(story, workspace, f"lsn:{lsns.text(first.lsn_before)}", "not inside a window")
    _refused(story, workspace, f"lsn:{lsns.text(last.lsn_behind + (1 << 30))}", "not inside a window")
    _refused(story, workspace, "xid:99999999", "no such transaction")
    _refused(story, workspace, f"xid:{first.xid}", "no such transaction")
    _refused(story, workspace, "name:nobody", "no such restore point")
    _refused(story, workspace, "latest", "nothing leads to timeline 9", timeline=9)
    with pytest.raises(SettingsError, match="is not a recovery target"):
        story.installation.restore(workspace / "data", to="yesterday")


def test_what_the_old_primary_committed_after_it_was_left_can_be_asked_for(
    make_story: MakeStory, workspace: Path
) -> None:
    story = make_story(18)
    lost = story.lost[4]
    moment = f"time:{lost.behind.isoformat()}"
    assert recovered(story, workspace / "lost", to=moment, timeline=1) == lost.n


def test_the_newest_snapshot_that_leads_to_the_target_is_taken_and_said(make_story: MakeStory, workspace: Path) -> None:
    story = make_story(15)

    def plan(to: str, **values: Any) -> dict[str, Any]:
        report = story.installation.restore(workspace / "data", to=to, dry_run=True, **values)
        assert not (workspace / "data").exists()
        return {**report.plan, **report.plan["recovery"]}

    early, late = story.journal.entries[20], story.journal.entries[90]
    assert plan(f"xid:{early.xid}")["snapshot"] == story.snapshots[0]
    reason = plan(f"lsn:{lsns.text(early.lsn_behind)}")["snapshot_reason"]
    assert "newest that ends before the target (1 newer)" in reason
    assert plan(f"time:{late.behind.isoformat()}")["snapshot"] == story.snapshots[1]
    assert plan(f"time:{late.behind.isoformat()}", snapshot=story.snapshots[0])["snapshot_reason"] == "asked for"
    latest = plan("latest")
    assert latest["timelines"].startswith("1 → 2 (from ")
    assert latest["wal_bytes"] > plan("immediate")["wal_bytes"]
    # The same moment, given with another offset.
    moment = late.behind.astimezone(timezone(timedelta(hours=-7)))
    assert plan(f"time:{moment.isoformat()}")["settings"] == plan(f"time:{late.behind.isoformat()}")["settings"]


@pytest.mark.parametrize("canary", [True, False])
def test_an_idle_database_is_restored_to_a_time_after_its_last_commit(
    canary: bool, make_cluster: Callable[..., PgCluster], install: Install, workspace: Path
) -> None:
    cluster = make_cluster(18, wal_segment_mib=1, conf={"autovacuum": "off"})
    journal = Journal()
    journal.prepare(cluster)
    installation = install(cluster, repositories={"here": None}, wal={"canary": canary, "idle_sample_s": 0.001})
    archive_wal(installation.settings, "ledger", context=installation.context())
    installation.back_up()
    journal.write(cluster, 3)
    archive_wal(installation.settings, "ledger", context=installation.context())
    idle = cluster.value("select clock_timestamp()")
    archive_wal(installation.settings, "ledger", context=installation.context())
    report = installation.restore(workspace / "data", to=f"time:{idle.isoformat()}")
    # Whoever else commits something (the archiver with its marker) gives PostgreSQL a place to stop at.
    assert canary or "nothing was committed later" in report.plan["recovery"]["note"]
    with running(workspace, workspace / "data", cluster) as server:
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "promoted")
        assert shown(server) == 3


def test_a_missing_segment_stops_every_recovery_across_it(
    make_cluster: Callable[..., PgCluster], install: Install, workspace: Path
) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    journal = Journal(1)
    journal.prepare(cluster)
    keep_wal(cluster)
    installation = install(cluster)
    installation.back_up()
    for _ in range(3):
        journal.write(cluster, 5)
        cluster.value("select pg_switch_wal()")
    drain(installation)
    before, behind = journal.entries[2], journal.entries[-1]
    gone = lsns.segment_start(journal.entries[7].lsn_behind, 1 << 20)
    for path in installation.files(below="logs"):
        if f"/{gone:016X}-" in str(path):
            path.unlink()
    for to in (f"lsn:{lsns.text(behind.lsn_before)}", f"xid:{behind.xid}", f"time:{behind.behind.isoformat()}"):
        with pytest.raises(NotRestorable):
            installation.restore(workspace / "data", to=to)
        assert not (workspace / "data").exists()
    installation.restore(workspace / "data", to=f"xid:{before.xid}")
    with running(workspace, workspace / "data", cluster) as server:
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "promoted")
        assert shown(server) == before.n


def test_a_damaged_container_on_the_way_is_named_and_nothing_stays(
    make_cluster: Callable[..., PgCluster], install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    journal = Journal(7)
    journal.prepare(cluster)
    keep_wal(cluster)
    installation = install(cluster)
    installation.back_up()
    for _ in range(3):
        journal.write(cluster, 5)
        cluster.value("select pg_switch_wal()")
    drain(installation)
    at = lsns.segment_start(journal.entries[7].lsn_behind, 1 << 20)
    (path,) = [path for path in installation.files(below="logs") if f"/{at:016X}-" in str(path)]
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Damaged, match=f"{at:016X}-"):
        installation.restore(workspace / "data", to="latest")
    assert not (workspace / "data").exists()
    with pytest.raises(VerificationRefuted, match=f"L3 restore: .*{at:016X}-"):
        installation.verify(None, to="latest")
    # It is the log that is bad: the snapshot still opens its window, and restores to what lies before.
    assert installation.verify(None, to=f"xid:{journal.entries[2].xid}").ok


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_200_random_targets_show_exactly_what_was_committed_before(make_story: MakeStory, workspace: Path) -> None:
    for major, count in ((15, 68), (16, 66), (18, 66)):
        check_random_targets(make_story(major), workspace, count, SEED * major)


def test_an_archived_source_with_tablespaces_is_recovered_from_a_bucket(
    make_cluster: Callable[..., PgCluster], install: Install, rclone_s3: S3Bucket, workspace: Path
) -> None:
    cluster = make_cluster(15)
    journal = Journal(5)
    journal.prepare(cluster)
    cluster.create_tablespace("other")
    installation = install(cluster, repositories={"here": None, "cloud": rclone_s3})
    archive_wal(installation.settings, "ledger", context=installation.context())
    installation.back_up()
    installation.ship("here", "cloud")
    cluster.execute("alter table scratch set tablespace other")
    journal.write(cluster, 20)
    archive_wal(installation.settings, "ledger", context=installation.context())
    journal.write(cluster, 5)
    archive_wal(installation.settings, "ledger", context=installation.context())
    found = windows(installation.settings, "ledger", context=installation.context())
    assert [place["repository"] for place in found.repositories] == ["here", "cloud"]
    assert all(len(place["windows"]) == 1 and not place["gaps"] for place in found.repositories)
    assert found.rpo_s is not None

    (oid,) = [row[0] for row in cluster.rows("select oid::text from pg_tablespace where spcname = 'other'")]
    entry = journal.entries[10]
    for to, count in ((f"xid:{entry.xid}", entry.n), ("latest", journal.entries[-1].n)):
        place = directories.make_directory(workspace / to[:3])
        report = installation.restore(place / "data", "cloud", to=to, tablespace_map={oid: str(place / "other")})
        assert report.repository == "cloud"
        with running(place, place / "data", cluster) as server:
            wait_until(lambda server=server: not server.value("select pg_is_in_recovery()"), "promoted")
            assert shown(server) == count
            locations = server.rows("select pg_tablespace_location(oid) from pg_tablespace")
            assert (str(place / "other"),) in locations
    assert installation.verify(None, "cloud", to="random").ok


def test_a_tablespace_that_the_log_creates_is_never_written_into_where_it_lives(
    make_cluster: Callable[..., PgCluster], install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15)
    journal = Journal(6)
    journal.prepare(cluster)
    installation = install(cluster, repositories={"here": None})
    archive_wal(installation.settings, "ledger", context=installation.context())
    installation.back_up()
    journal.write(cluster, 3)
    place = cluster.create_tablespace("late")
    cluster.execute("alter table scratch set tablespace late")
    journal.write(cluster, 3)
    archive_wal(installation.settings, "ledger", context=installation.context())
    for job in (
        lambda: installation.restore(workspace / "data", to="latest"),
        lambda: installation.verify(None, "here", to="latest"),
    ):
        with pytest.raises(TargetError, match=f"creates tablespace [0-9]+ in {place}, which is there"):
            job()
        assert not (workspace / "data").exists()
    # Before it was created, and with a snapshot that has it, nothing is in the way.
    assert installation.verify(None, "here", to=f"xid:{journal.entries[2].xid}").ok
    installation.back_up()
    archive_wal(installation.settings, "ledger", context=installation.context())
    assert installation.verify(None, "here", to="latest").ok
