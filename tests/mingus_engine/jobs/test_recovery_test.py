"""Whose turn it is in the weekly recovery test."""

from datetime import UTC, datetime, timedelta

from mingus_engine.jobs.recovery_test import whose_turn

# A Sunday, 02:00: the last week of a year of 53 weeks.
SUNDAY = datetime(2027, 1, 3, 2, tzinfo=UTC)


def turns(candidates: list[str], count: int) -> list[str]:
    return [whose_turn(candidates, SUNDAY + timedelta(weeks=week)) for week in range(count)]


def test_repositories_alternate_also_where_week_1_follows_week_53() -> None:
    assert SUNDAY.isocalendar().week == 53
    for candidates in (["a"], ["a", "b"], ["a", "b", "c"]):
        seen = turns(candidates, 60)
        assert all(seen[i : i + len(candidates)] in _rotations(candidates) for i in range(50)), candidates


def test_a_week_is_from_monday_to_sunday() -> None:
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    week = {whose_turn(["a", "b"], monday + timedelta(hours=hour)) for hour in range(7 * 24)}
    assert len(week) == 1
    assert whose_turn(["a", "b"], monday - timedelta(seconds=1)) not in week


def _rotations(candidates: list[str]) -> list[list[str]]:
    return [candidates[i:] + candidates[:i] for i in range(len(candidates))]
