"""LSNs as PostgreSQL writes them, and the names of WAL files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine import lsn
from tests.support.postgres import PgCluster

LSNS = st.integers(0, 2**64 - 1)


@given(LSNS)
def test_text_and_number_are_the_same_lsn(value: int) -> None:
    assert lsn.parse(lsn.text(value)) == value


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/G", "0/123456789", "-1/0", "0/0 "])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        lsn.parse(text)


@pytest.mark.parametrize("value", [0x1000001, 0x1FFFFFF, 0xFFFFFFFF, 0x12_00000001, 0x12_34567890])
def test_a_segment_is_named_as_the_server_names_it(pg15: PgCluster, value: int) -> None:
    expected = pg15.value("select pg_walfile_name(%s::pg_lsn)", lsn.text(value))
    assert lsn.segment_name(1, value, 16 << 20) == expected


@given(LSNS, st.sampled_from([1 << 20, 16 << 20, 1 << 30]))
def test_a_segment_starts_at_most_one_segment_before(value: int, size: int) -> None:
    start = lsn.segment_start(value, size)
    assert start % size == 0
    assert 0 <= value - start < size
