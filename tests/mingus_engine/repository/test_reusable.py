"""The rules of what may be built on, one by one, each with the reason it gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mingus_engine.jobs.postgres.parent_rules import Gap, PostgresRules
from mingus_engine.repository import reusable
from mingus_engine.repository.reusable import Candidate, Choice, Use

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
FACTS: dict[str, Any] = {
    "system_id": "7",
    "timeline": 1,
    "start_lsn": "0/1000000",
    "stop_lsn": "0/2000000",
    "server_version_number": 150020,
    "data_checksums": True,
    "settings": {"wal_level": "replica"},
    "started_at": (NOW - timedelta(days=1)).isoformat(),
}
HERE: dict[str, Any] = {**FACTS, "position": 0x3000000}


def candidate(name: str = "A", facts: dict[str, Any] | None = None, **more: Any) -> Candidate:
    return Candidate(name, {**FACTS, **(facts or {})}, written_at=NOW - timedelta(hours=1), **more)


def choose(*candidates: Candidate, gaps: tuple[Gap, ...] = (), **here: Any) -> Choice:
    return reusable.choose(candidates, {**HERE, **here}, now=NOW, generation=WEEK, rules=PostgresRules(gaps))


def test_the_newest_is_the_parent() -> None:
    newest = candidate("B")
    assert choose(newest, candidate("A")) == Choice(newest, [])


def test_without_a_snapshot_there_is_no_parent() -> None:
    assert choose() == Choice(None, ["there is no snapshot to build on"])


@pytest.mark.parametrize(
    ("newest", "why"),
    [
        (candidate("B", flagged=True), "not on B: it is flagged"),
        (candidate("B", settled=False), "not on B: a cleaner has not settled it yet"),
        (candidate("B", refuted="L2"), "not on B: its newest proof (L2) failed"),
        (candidate("B", same_hash_key=False), "not on B: its block hashes have another key"),
        (candidate("B", {"system_id": "8"}), "not on B: it is of cluster 8, not 7"),
        (
            Candidate("B", FACTS, written_at=NOW + timedelta(hours=1)),
            "not on B: it is dated 2026-05-04 13:00:00, after the present",
        ),
    ],
)
def test_one_that_cannot_be_built_on_is_passed_over_for_an_older_one(newest: Candidate, why: str) -> None:
    older = candidate("A")
    assert choose(newest, older) == Choice(older, [why])
    assert choose(newest) == Choice(None, [why, "there is no snapshot to build on"])


@pytest.mark.parametrize(
    ("here", "why"),
    [
        ({"timeline": 2}, "timeline 1 became 2"),
        ({"position": 0x1FFFFFF}, "the server is at 0/1FFFFFF, before the end of B: it was restored"),
        ({"server_version_number": 160001}, "major version changed from 15 to 16"),
        ({"data_checksums": False}, "data_checksums changed from True to False"),
        ({"settings": {"wal_level": "minimal"}}, "wal_level changed from replica to minimal"),
    ],
)
def test_a_source_that_is_not_what_it_was_gets_a_fresh_full(here: dict[str, Any], why: str) -> None:
    assert choose(candidate("B"), candidate("A"), **here) == Choice(None, [why])


def test_a_minor_version_changes_nothing() -> None:
    assert choose(candidate(), server_version_number=150021).parent is not None


def test_a_position_on_another_timeline_is_not_compared() -> None:
    assert choose(candidate(), timeline=2, position=5).reasons == ["timeline 1 became 2"]


def test_lost_log_after_the_parent_asks_for_a_fresh_full() -> None:
    lost = Gap(1, 0x1F00000, 0x2000001)
    why = "WAL from 0/1F00000 to 0/2000001 was lost since A"
    assert choose(candidate(), gaps=(lost,)) == Choice(None, [why])
    assert choose(candidate(), gaps=(lost._replace(end=0x2000000),)).parent is not None
    assert choose(candidate(), gaps=(lost._replace(timeline=2),)).parent is not None


def test_a_generation_ends_counted_from_its_full() -> None:
    def begun(days: float) -> Candidate:
        start = (NOW - timedelta(days=days)).isoformat()
        return candidate("B", {"backup": {"generation": {"run": "R", "started_at": start}}})

    assert choose(begun(6.99)).parent is not None
    (why,) = choose(begun(7), candidate("A")).reasons
    assert why == "the last fresh full is of 2026-04-27 12:00:00, over 7 days ago"


def test_a_full_of_an_earlier_version_began_its_own_generation() -> None:
    old = candidate(facts={"started_at": (NOW - timedelta(days=8)).isoformat()})
    assert choose(old).parent is None


def test_every_reason_is_told() -> None:
    assert len(choose(candidate(), timeline=2, data_checksums=False, server_version_number=180004).reasons) == 3


def test_a_pack_is_built_on_unless_there_is_a_reason() -> None:
    assert reusable.reusable("p", planned=()) == (Use.BUILD_ON, "")
    assert reusable.reusable("p", planned=(), live=(30, 100)) == (Use.BUILD_ON, "")
    assert reusable.reusable("p", planned=(), live=(0, 0)) == (Use.BUILD_ON, "")
    assert reusable.reusable("p", planned=(), live=(29, 100)) == (
        Use.STORE_AGAIN,
        "only 29 of its 100 bytes are needed",
    )
    assert reusable.reusable("p", planned={"p"}) == (Use.REFUSE, "an open plan names it")
    assert reusable.reusable("p", planned=(), refuted=True)[0] is Use.REFUSE
