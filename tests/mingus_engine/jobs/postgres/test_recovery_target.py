"""What a recovery target may look like."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import SettingsError
from mingus_engine.jobs.postgres.recovery_target import parse


def test_a_time_carries_an_offset_or_is_utc() -> None:
    expected = datetime(2026, 11, 23, 13, 29, 59, 500, tzinfo=UTC)
    for text in (
        "time:2026-11-23T14:29:59.000500+01:00",
        "time:2026-11-23 13:29:59.000500",
        "time:2026-11-23T13:29:59.000500Z",
        "time: 2026-11-23 08:29:59.000500-05:00",
    ):
        assert parse(text).moment == expected
        assert parse(text).text == "time:2026-11-23T13:29:59.000500+00:00"


def test_numbers_and_names_are_taken_as_postgresql_writes_them() -> None:
    assert parse("lsn:16/B374D848").number == 0x16B374D848
    assert parse("lsn:0/a").text == "lsn:0/A"
    assert parse("xid:12345").number == 12345
    assert parse(f"xid:{(1 << 32) + 700}").number == 700  # pg_current_xact_id() counts on
    assert parse("name:before: release 4").name == "before: release 4"
    assert parse(" latest ").kind == "latest"
    assert parse("immediate").kind == "immediate"


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "latest:1", "immediate:2", "time:", "time:noon", "time:2026-13-01", "lsn:12", "lsn:1/2/3",
        "xid:0", "xid:2", "xid:-5", "xid:1e3", "xid:99999999999999999999", "name:", f"name:{'x' * 64}", "name:a\nb",
        "time:0001-01-01T00:00:00+23:59", "NAME:x",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a recovery target"):
        parse(text)


@given(st.text())
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    for kind in ("", "time:", "lsn:", "xid:", "name:"):
        try:
            parse(kind + text)
        except SettingsError:
            continue
