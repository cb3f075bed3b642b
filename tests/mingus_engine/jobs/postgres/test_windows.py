"""Windows as a pure function of snapshots, histories and what is stored."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.jobs.postgres.windows import BasePoint, Window, compute, gaps, leads_to
from mingus_engine.jobs.surveying import summary
from mingus_engine.postgres.timelines import Step
from mingus_engine.repository.log_index import LogIndex, StoredLog, index
from mingus_engine.repository.names import LogName
from mingus_engine.repository.wal_path import WalPath

SEGMENT = 16
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def point(name: str, start: int, stop: int, *, timeline: int = 1, system_id: int = 7) -> BasePoint:
    return BasePoint(name, system_id, timeline, start, stop, NOON, SEGMENT)


def stored(*ranges: tuple[int, int], timeline: int = 1, system_id: int = 7) -> list[StoredLog]:
    return [StoredLog(LogName("s", f"{system_id}/{timeline}/00000000", a, b, "0" * 64), 1) for a, b in ranges]


def way(logs: LogIndex, *steps: Step, system_id: int = 7) -> WalPath:
    return WalPath(logs, system_id, steps or (Step(1, 0, None),), SEGMENT)


def shown(windows: tuple[Window, ...]) -> list[tuple[int, int, int, tuple[str, ...]]]:
    return [(w.timeline, w.start, w.end, w.snapshots) for w in windows]


def test_snapshots_whose_log_reaches_equally_far_share_a_window() -> None:
    logs = index(stored((0, 64), (80, 128)))
    found = compute([point("a", 0, 5), point("b", 32, 40), point("c", 80, 90)], [way(logs)], {})
    assert shown(found.windows) == [(1, 5, 64, ("a", "b")), (1, 90, 128, ("c",))]
    assert [(g.start, g.end) for g in found.gaps] == [(64, 90)]
    assert found.unusable == {}


def test_a_snapshot_without_its_own_log_opens_nothing_and_says_why() -> None:
    logs = index(stored((0, 16)))
    found = compute([point("a", 0, 20)], [way(logs)], {"b": "damaged"})
    assert found.windows == ()
    assert found.unusable == {
        "a": "write-ahead log of timeline 1 is missing from 0/10 to 0/14",
        "b": "damaged",
    }


def test_a_child_timeline_reaches_back_but_not_to_what_came_after_it_was_left() -> None:
    logs = index([*stored((0, 48)), *stored((32, 96), timeline=2)])
    paths = [way(logs), way(logs, Step(1, 0, 40), Step(2, 40, None))]
    points = [point("a", 0, 5), point("late", 32, 44), point("new", 48, 50, timeline=2)]
    found = compute(points, paths, {})
    assert shown(found.windows) == [(1, 5, 48, ("a", "late")), (2, 5, 96, ("a", "new"))]
    assert leads_to(point("at", 32, 40), paths[1])
    assert not leads_to(point("late", 32, 41), paths[1])


def test_clusters_of_another_identity_have_windows_of_their_own() -> None:
    logs = index([*stored((0, 48)), *stored((0, 32), system_id=8)])
    found = compute([point("old", 0, 5), point("new", 0, 6, system_id=8)], [way(logs), way(logs, system_id=8)], {})
    assert [(w.system_id, w.end, w.snapshots) for w in found.windows] == [(7, 48, ("old",)), (8, 32, ("new",))]
    assert list(gaps(found.windows)) == []


def test_what_is_not_known_is_not_guessed() -> None:
    assert summary(None, NOON) == {"restorable_from": None, "restorable_to": None, "rpo_s": None}
    window = Window(7, 1, 5, 48, ("a",), start_time=NOON)
    assert summary(window, NOON) == {"restorable_from": NOON.isoformat(), "restorable_to": None, "rpo_s": None}
    assert window.shown() == "timeline 1: 0/5 (2026-11-23 12:00:00.000000Z) to 0/30"


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=10),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), max_size=6),
)
def test_every_moment_of_a_window_is_covered_and_nothing_else(
    ranges: list[tuple[int, int]], snapshots: list[tuple[int, int]]
) -> None:
    logs = index(stored(*((a * SEGMENT, (a + n) * SEGMENT) for a, n in ranges)))
    covered = {byte for a, n in ranges for byte in range(a * SEGMENT, (a + n) * SEGMENT)}
    points = [point(str(i), a * SEGMENT, a * SEGMENT + n) for i, (a, n) in enumerate(snapshots)]
    found = compute(points, [way(logs)], {})
    restorable = {
        p.stop + offset for p in points for offset in range(600) if set(range(p.start, p.stop + offset)) <= covered
    }
    assert {lsn for w in found.windows for lsn in range(w.start, w.end + 1)} == restorable
    for window in found.windows:
        for name in window.snapshots:
            assert window.start <= points[int(name)].stop <= window.end
