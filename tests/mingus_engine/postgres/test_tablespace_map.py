"""The tablespace map's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.postgres.tablespace_map import generate, parse

locations = st.binary(min_size=1, max_size=30).filter(lambda place: b"\0" not in place)


@given(st.dictionaries(st.integers(0, (1 << 32) - 1), locations, max_size=5))
def test_what_was_written_is_read_back(places):
    assert parse(generate(places)) == places


def test_the_form_is_postgres_own():
    assert generate({16411: b"/a b\\c\nd"}) == b"16411 /a b\\\\c\\\nd\n"
    assert parse(b"") == {}


@pytest.mark.parametrize("text", [b"1 /a", b"1\n", b"x /a\n", b"1 /a\n1 /b\n", b"1 \n", b"1 /a\\", b"1 /a\\x\n", b"\n"])
def test_what_is_no_map_is_refused(text):
    with pytest.raises(Damaged, match="tablespace_map byte"):
        parse(text)
