import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine import bounds
from mingus_engine.codec import entries, shards
from mingus_engine.codec.entries import Entry, RunTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import SourceError
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations
from tests.mingus_engine.codec.strategies import paths, tabled_entries

KEY = bytes(range(32))
TABLE = RunTable(["01ARZ3NDEKTSV4RRFFQ69G5FAV"])


def decode(raw: bytes) -> tuple[RunTable, list[Entry]]:
    return shards.decode(raw, "the object")


def meaning(tabled: TabledEntry) -> tuple[object, ...]:
    """An entry with the runs themselves in place of their numbers."""
    e, table = tabled
    found = [
        (x if x.hole else x._replace(run=0), x.hole or table.run(x.run, "x"))
        for x in entries.decode_extents(e.extents, "x")
    ]
    maps = [(a._replace(run=0), table.run(a.run, "x")) for pair in e.map_locations() for a in pair]
    return (e.path, e.kind, e.mode, e.uid, e.gid, e.mtime_ns, e.size, e.target, e.extra, found, e.hashes, maps)


def file(path: bytes, inline: int = 0) -> TabledEntry:
    return TabledEntry(Entry(path=path, kind=1, mode=0, uid=0, gid=0, mtime_ns=0, size=0, hashes=bytes(inline)), TABLE)


@settings(max_examples=50)
@given(tabled_entries())
def test_entries_come_back_whatever_tables_they_came_from(found: list[TabledEntry]) -> None:
    table, back = decode(shards.encode(found))
    assert [meaning(TabledEntry(e, table)) for e in back] == [meaning(t) for t in found]


@settings(max_examples=12)
@given(tabled_entries())
def test_every_truncation_is_refused_and_no_flip_is_another_exception(found: list[TabledEntry]) -> None:
    raw = shards.encode(found)
    for cut in truncations(raw):
        must_refuse(decode, cut)
    for changed in flips(raw):
        may_refuse(decode, changed)


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_in_damaged(raw: bytes) -> None:
    may_refuse(decode, raw)
    may_refuse(decode, struct.pack("<HHI", 1, 0, 1) + raw)


def test_counts_that_cannot_be_are_refused_before_anything_is_allocated() -> None:
    must_refuse(decode, struct.pack("<HHI", 1, 0xFFFF, 0xFFFFFFFF) + bytes(100))


def test_versions_order_and_undefined_bits_are_checked() -> None:
    raw = shards.encode([file(b"a"), file(b"b")])
    must_refuse(decode, b"\2\0" + raw[2:])
    must_refuse(decode, b"\0\0" + raw[2:])
    must_refuse(decode, raw[:-2] + b"ba")
    must_refuse(decode, raw[:-2] + b"aa")
    for at in (1, 48):
        changed = bytearray(raw)
        changed[8 + at] = 1
        must_refuse(decode, bytes(changed))


@settings(max_examples=50)
@given(st.sets(paths, min_size=1, max_size=60), st.integers(0, 4))
def test_shards_hold_everything_once_and_begin_where_the_paths_say(chosen: set[bytes], cut_bits: int) -> None:
    wanted = sorted(chosen)
    found = []
    for first, raw in shards.cut(map(file, wanted), KEY, cut_bits):
        inside = [e.path for e in decode(raw)[1]]
        assert inside[0] == first
        assert not any(shards.is_cut(path, KEY, cut_bits) for path in inside[1:])
        found += inside
    assert found == wanted


@settings(max_examples=50)
@given(st.sets(paths, min_size=2, max_size=80), st.data())
def test_one_insertion_moves_no_other_cut(chosen: set[bytes], data: st.DataObject) -> None:
    new = data.draw(st.sampled_from(sorted(chosen)))
    before = dict(shards.cut(map(file, sorted(chosen - {new})), KEY, 2))
    after = dict(shards.cut(map(file, sorted(chosen)), KEY, 2))
    unchanged = set(before.values()) & set(after.values())
    assert len(set(before.values()) - unchanged) <= 1, "only the shard it went into may differ"
    assert len(set(after.values()) - unchanged) <= 2, "it may begin a shard of its own"


def test_cuts_depend_on_the_key_and_are_as_frequent_as_asked() -> None:
    chosen = [b"%06d" % i for i in range(4096)]
    cuts = [{p for p in chosen if shards.is_cut(p, key, 4)} for key in (KEY, bytes(32))]
    assert cuts[0] != cuts[1]
    assert all(180 < len(c) < 340 for c in cuts)


def test_a_shard_is_cut_before_it_outgrows_its_bound() -> None:
    chosen = [file(b"%04d" % i, 16 * 1000) for i in range(100)]
    sizes = [len(raw) for _, raw in shards.cut(chosen, KEY, 60)]
    assert len(sizes) > 1
    assert max(sizes) <= bounds.SHARD_MAX_BYTES


def test_a_path_that_comes_twice_is_found_before_anything_is_committed() -> None:
    for bad in ([file(b"a"), file(b"a")], [file(b"b"), file(b"a")]):
        with pytest.raises(SourceError, match="a"):
            list(shards.cut(bad, KEY, 0))
