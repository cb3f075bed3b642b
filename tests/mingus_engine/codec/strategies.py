"""Values of the formats, for property tests."""

from hypothesis import strategies as st

from mingus_engine import ulids
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.directories import BlobEntry, Segment
from mingus_engine.codec.entries import LOCATION, Entry, Extent, RunTable, encode_extents
from mingus_engine.codec.shards import TabledEntry

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
runs = st.binary(min_size=16, max_size=16).map(ulids.from_bytes)
tables = st.lists(runs, min_size=1, max_size=5, unique=True).map(RunTable)
paths = st.binary(min_size=1, max_size=40)


def hash_bytes(blocks: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=16 * blocks, max_size=16 * blocks)


@st.composite
def extents(draw: st.DrawFn, run_count: int) -> list[Extent]:
    """Ascending and gapless."""
    found, at = [], 0
    for _ in range(draw(st.integers(0, 4))):
        length = draw(st.integers(1, 2**22))
        if draw(st.booleans()):
            found.append(Extent(at, length, 0, 0, 0, 0, 0, hole=True))
        else:
            inside = draw(st.integers(0, 2**22 - length))
            run = draw(st.integers(0, run_count - 1))
            sealed = draw(st.integers(21, 2**22))
            found.append(Extent(at, length, run, draw(u32), draw(u32), sealed, inside))
        at += length
    return found


@st.composite
def entries(draw: st.DrawFn, path: bytes, run_count: int) -> Entry:
    pairs = draw(st.lists(st.tuples(st.integers(0, run_count - 1), u32, u32, u32), max_size=2))
    return Entry(
        path=path,
        kind=draw(st.integers(1, 3)),
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(u32),
        gid=draw(u32),
        mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        size=draw(st.integers(0, 2**64 - 1)),
        target=draw(st.binary(max_size=20)),
        extra=draw(st.binary(max_size=5)),
        extents=encode_extents(draw(extents(run_count))),
        hashes=draw(st.integers(0, 3).flatmap(hash_bytes)),
        maps=b"".join(LOCATION.pack(run, 0, pack, at, size) for run, pack, at, size in pairs * 2),
    )


@st.composite
def tabled_entries(draw: st.DrawFn) -> list[TabledEntry]:
    """In path order, with up to two different run tables."""
    two = draw(st.lists(tables, min_size=1, max_size=2))
    found = []
    for path in sorted(draw(st.sets(paths, min_size=1, max_size=6))):
        table = draw(st.sampled_from(two))
        found.append(TabledEntry(draw(entries(path, len(table))), table))
    return found


@st.composite
def blob_entries(draw: st.DrawFn) -> BlobEntry:
    segments = draw(
        st.lists(
            st.builds(
                Segment,
                st.sampled_from([b"one", b"two", b"\xff/three"]),
                st.integers(0, 2**64 - 1),
                u32,
                u32,
                st.integers(0, 3).flatmap(hash_bytes),
            ),
            max_size=3,
        )
    )
    return BlobEntry(draw(st.sampled_from(BlobKind)), draw(u32), draw(u32), draw(u32), tuple(segments))
