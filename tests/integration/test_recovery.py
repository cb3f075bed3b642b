"""Recovery to a moment: of every version, over a promotion, to every kind of target; and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import ledger
from tests.integration.journal import Entry, Journal, shown
from tests.support import directories
from tests.support.archiving import drain, keep_wal
from tests.support.installation import Installation, running
from tests.support.pg_versions import MAJORS, PgVersion
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

pytestmark = pytest.mark.xdist_group("recovery")
SEED = 20261123


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
