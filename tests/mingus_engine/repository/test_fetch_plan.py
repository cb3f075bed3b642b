"""Which reads bring the extents of a file: all of them, in few reads, within a bound."""

from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.bounds import FETCH_GAP_BYTES, FETCH_MAX_BYTES, KIB, MIB
from mingus_engine.codec.entries import Extent
from mingus_engine.repository.fetch_plan import Batch, Read, batches


def extent(offset: int, pack: int, position: int, *, length: int = 64 * KIB, sealed: int = 16 * KIB) -> Extent:
    return Extent(offset, length, 0, pack, position, sealed, 0)


def check(found: list[Batch], extents: list[Extent], max_bytes: int) -> None:
    """Every extent comes once, in order, inside its read; no batch is larger than it may be."""
    assert [e for batch in found for e in batch.extents] == extents
    for batch in found:
        blobs = {(e.pack, e.position): e.sealed_bytes for e in batch.extents if not e.hole}
        assert sum(blobs.values()) <= max(max_bytes, max(blobs.values(), default=0))
        assert batch.read_bytes <= 2 * sum(blobs.values())
        for e, number in zip(batch.extents, batch.read_of, strict=True):
            if e.hole:
                assert number == -1
            else:
                read = batch.reads[number]
                assert (read.run, read.pack) == (e.run, e.pack)
                assert read.start <= e.position
                assert e.position + e.sealed_bytes <= read.end
        assert list(batch.uses) == [list(batch.read_of).count(number) for number in range(len(batch.reads))]


def test_a_fresh_full_backup_is_read_as_it_lies() -> None:
    extents = [extent(i * 64 * KIB, 0, 64 + i * 16 * KIB) for i in range(600)]
    found = list(batches(extents, 8 * MIB))
    check(found, extents, 8 * MIB)
    assert [len(batch.reads) for batch in found] == [2, 1]


def test_after_many_increments_each_pack_is_read_once_a_batch() -> None:
    """Block i was stored last by increment i mod 48, beside those that this increment stored before and after."""
    extents = [extent(i * 64 * KIB, i % 48, 64 + i // 48 * 16 * KIB) for i in range(480)]
    found = list(batches(extents, 8 * MIB))
    check(found, extents, 8 * MIB)
    assert sum(len(batch.reads) for batch in found) == 48


def test_what_lies_between_is_not_read_when_it_would_be_more_than_what_is_wanted() -> None:
    extents = [extent(i * 64 * KIB, 0, i * (FETCH_GAP_BYTES // 2)) for i in range(10)]
    (batch,) = batches(extents)
    assert len(batch.reads) == 10


def test_a_large_stretch_is_cut() -> None:
    extents = [extent(i * MIB, 0, i * MIB, length=MIB, sealed=MIB) for i in range(6)]
    (batch,) = batches(extents)
    assert list(batch.reads) == [Read(0, 0, 0, FETCH_MAX_BYTES), Read(0, 0, 4 * MIB, 6 * MIB)]


EXTENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(1, 40 * KIB), st.booleans()), max_size=40
)


@given(EXTENTS, st.integers(1, 200 * KIB))
def test_every_extent_is_served(drawn: list[tuple[int, int, int, bool]], max_bytes: int) -> None:
    # A blob has one length wherever it is referred to.
    lengths: dict[tuple[int, int], int] = {}
    extents = []
    for i, (pack, place, sealed, hole) in enumerate(drawn):
        position = place * 50 * KIB
        sealed = lengths.setdefault((pack, position), sealed)
        new = (
            Extent(i * 10, 10, 0, 0, 0, 0, 0, hole=True)
            if hole
            else extent(i * 10, pack, position, length=10, sealed=sealed)
        )
        extents.append(new)
    check(list(batches(extents, max_bytes)), extents, max_bytes)
