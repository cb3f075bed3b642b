"""Values as people read them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mingus_engine.cli import output
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.progress import Meter
from mingus_engine.jobs.context import Progress


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"), (3 * 1024**6, "3072.0 PiB"),
    ],
)  # fmt: skip
def test_sizes_are_in_binary_units(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (9.9, "9.9 s"), (42.4, "42 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
        (7380, "2 h 03 min"), (100800, "1 d 04 h"),
    ],
)  # fmt: skip
def test_durations_name_their_units(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_times_are_iso_in_utc_wherever_they_come_from() -> None:
    moment = datetime(2026, 1, 2, 5, 4, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    assert output.when(moment) == "2026-01-02T03:04:05Z"
    assert output.when(None) == "-"
    assert output.when(datetime(1970, 1, 1, tzinfo=UTC)) == "1970-01-01T00:00:00Z"


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    lines = output.table(("NAME", "SIZE"), [("a", "1"), ("long name", "1,234")], right={1})
    assert lines == ["NAME        SIZE", "a              1", "long name  1,234"]


def test_nothing_that_a_terminal_obeys_gets_through_a_table() -> None:
    (_, line) = output.table(("PATH",), [("a\x1b[2Jb\nc\u202e",)])
    assert line == "a\\x1b[2Jb\\nc\\u202e"


def test_a_check_that_could_not_be_made_is_not_called_failed() -> None:
    checks = [
        {"name": "amcheck", "ok": False, "detail": "not installed", "data": {"available": False}},
        {"name": "pages", "ok": False, "detail": "3 bad"},
        {"name": "rows", "ok": True, "detail": "", "data": {"rule": "tolerance"}},
    ]
    text = "\n".join(check_lines(checks))
    assert "amcheck  not run" in text
    assert "pages    FAILED" in text
    assert "rows     ok       within tolerance" in text


def test_a_bar_tells_phase_share_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("mingus_engine.cli.progress.time.monotonic", lambda: now)
    meter = Meter("back up")
    for done in (0, 1024**2, 2 * 1024**2):
        meter.update(Progress("back up", done, 8 * 1024**2))
        now += 1
    assert meter.bar() == "back up  [█████░░░░░░░░░░░░░░░]  25 %  2.0 MiB of 8.0 MiB  1.0 MiB/s  ETA 0:06"
    assert meter.bar(unicode=False).startswith("back up  [#####...............]  25 %")
    assert meter.line() == "back up: 25 %, 2.0 MiB of 8.0 MiB, 1.0 MiB/s, ETA 0:06"
    assert meter.summary() == "back up  2.0 MiB  3.0 s"


def test_the_rate_falls_to_nothing_when_a_job_comes_to_a_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("mingus_engine.cli.progress.time.monotonic", lambda: now)
    meter = Meter("ship")
    for second in range(40):
        now = float(second)
        meter.update(Progress("ship", min(second, 10) * 1024**2, 0))
    assert meter.rate == 0
    assert meter.line() == "ship: 10.0 MiB"


def test_a_phase_without_numbers_says_what_it_does() -> None:
    meter = Meter("verify L4")
    meter.update(Progress("verify L4", 0, 0, "pg_amcheck"))
    assert meter.line() == "verify L4: pg_amcheck"
