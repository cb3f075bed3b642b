import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine import ulids
from mingus_engine.codec import entries as codec
from mingus_engine.codec.entries import EXTENT, Extent, RunTable
from mingus_engine.errors import Damaged, FormatTooNew
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations
from tests.mingus_engine.codec.strategies import extents, tables


def decode(raw: bytes) -> object:
    return codec.decode_extents_blob(raw, "the object")


@settings(max_examples=30)
@given(extents(3))
def test_extents_come_back(found: list[Extent]) -> None:
    assert codec.decode_extents(codec.encode_extents(found), "x") == found


@settings(max_examples=30)
@given(st.data())
def test_an_extents_blob_stands_for_itself_with_only_the_runs_it_uses(data: st.DataObject) -> None:
    table = data.draw(tables)
    found = data.draw(extents(len(table)))
    raw = codec.encode_extents_blob(codec.encode_extents(found), table, "x")
    own, back = codec.decode_extents_blob(raw, "x")
    assert [e._replace(run=0) for e in back] == [e._replace(run=0) for e in found]
    used = [(table.run(a.run, "x"), own.run(b.run, "x")) for a, b in zip(found, back, strict=True) if not a.hole]
    assert all(a == b for a, b in used)
    assert len(own) == len({a for a, _ in used})


@settings(max_examples=30)
@given(st.data())
def test_hostile_extents_blobs_are_refused_or_read_never_worse(data: st.DataObject) -> None:
    table = data.draw(tables)
    raw = codec.encode_extents_blob(codec.encode_extents(data.draw(extents(len(table)))), table, "x")
    for cut in truncations(raw):
        must_refuse(decode, cut)
    for changed in flips(raw):
        may_refuse(decode, changed)
    may_refuse(decode, data.draw(st.binary(max_size=100)))


GOOD = Extent(0, 100, 0, 1, 64, 121, 0)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (GOOD._replace(offset=101), "a gap"),
        (GOOD._replace(offset=99), "an overlap"),
        (GOOD._replace(offset=100, length=0), "nothing"),
        (GOOD._replace(offset=100, sealed_bytes=2**22 + 22), "a blob too long"),
        (GOOD._replace(offset=100, blob_offset=2**22), "behind any blob"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_extents_that_cannot_be_are_refused(second: Extent, why: str) -> None:
    with pytest.raises(Damaged, match="the object"):
        codec.decode_extents(codec.encode_extents([GOOD, second]), "the object")


def test_flags_of_a_newer_version_are_not_taken_for_data() -> None:
    raw = EXTENT.pack(0, 100, 0, 2, 1, 64, 121, 0)
    with pytest.raises(FormatTooNew):
        codec.decode_extents(raw, "the object")


def test_a_run_number_behind_the_table_is_refused() -> None:
    with pytest.raises(Damaged, match="run number 1 of 1"):
        RunTable([ulids.new()]).run(1, "the object")


def test_a_full_run_table_says_so() -> None:
    table = RunTable([ulids.from_bytes(i.to_bytes(16, "big")) for i in range(0xFFFF)])
    with pytest.raises(OverflowError):
        table.index(ulids.new())
