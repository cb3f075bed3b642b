"""Page checksums: against a plain implementation, and against pages of real servers."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.bounds import PAGE_BYTES, RELATION_SEGMENT_BLOCKS, SLAB_BYTES
from mingus_engine.sources.buffers import allocate_slab
from mingus_engine.sources.postgres import exclusions
from mingus_engine.sources.postgres.pages import _OFFSETS, PageVerifier
from tests.support.fixtures import MakeCluster

PRIME = 16777619
VERIFIER = PageVerifier()


def plain_checksum(page: bytes, block: int) -> int:
    """``pg_checksum_page`` of checksum_impl.h, word by word."""
    words = list(struct.unpack("<2048I", page[:8] + b"\0\0" + page[10:]))
    sums = [int(value) for value in _OFFSETS]
    for row in range(66):
        for lane in range(32):
            mixed = sums[lane] ^ (words[row * 32 + lane] if row < 64 else 0)
            sums[lane] = (mixed * PRIME & 0xFFFFFFFF) ^ (mixed >> 17)
    result = 0
    for value in sums:
        result ^= value
    return (result ^ block & 0xFFFFFFFF) % 65535 + 1


def signed(page: bytes, block: int) -> bytes:
    return page[:8] + struct.pack("<H", plain_checksum(page, block)) + page[10:]


def random_page(seed: int) -> bytes:
    page = random.Random(seed).randbytes(PAGE_BYTES)
    return page[:14] + b"\x01\x20" + page[16:]  # pd_upper is not 0


@given(st.integers(0, 2**32), st.integers(0, 2**32 - 2))
def test_checksums_equal_a_plain_implementation(seed: int, block: int) -> None:
    page = signed(random_page(seed), block)
    assert VERIFIER.bad_pages(memoryview(page), block) == []
    assert VERIFIER.bad_pages(memoryview(page), block + 1) != []


@given(st.integers(0, PAGE_BYTES * 8 - 1))
def test_each_flipped_bit_is_noticed(bit: int) -> None:
    pages = bytearray(b"".join(signed(random_page(i), i) for i in range(3)))
    pages[PAGE_BYTES + bit // 8] ^= 1 << bit % 8
    assert [bad.index for bad in VERIFIER.bad_pages(memoryview(pages), 0)] == [1]


def test_new_pages_are_good_only_if_all_zero() -> None:
    pages = bytearray(4 * PAGE_BYTES)
    assert VERIFIER.bad_pages(memoryview(pages), 0) == []
    pages[3 * PAGE_BYTES - 1] = 1  # pd_upper stays 0: the server would refuse this page
    assert [bad.index for bad in VERIFIER.bad_pages(memoryview(pages), 0)] == [2]


def test_a_partial_page_at_the_end_and_no_page_are_not_looked_at() -> None:
    assert VERIFIER.bad_pages(memoryview(b"\xff" * (PAGE_BYTES - 1)), 0) == []
    assert VERIFIER.bad_pages(memoryview(b""), 0) == []
    assert len(VERIFIER.bad_pages(memoryview(b"\xff" * (2 * PAGE_BYTES + 5)), 0)) == 2


def test_the_lsn_of_a_bad_page_is_told() -> None:
    page = struct.pack("<II", 0x12, 0x345678) + random_page(1)[8:]
    (bad,) = VERIFIER.bad_pages(memoryview(page), 0)
    assert bad.lsn == 0x12_00345678


def test_a_whole_slab_is_verified_without_being_written_to() -> None:
    slab = allocate_slab()
    page = random_page(7)
    for i in range(SLAB_BYTES // PAGE_BYTES):
        slab[i * PAGE_BYTES : (i + 1) * PAGE_BYTES] = page
    last = SLAB_BYTES // PAGE_BYTES - 1
    slab[last * PAGE_BYTES :] = signed(page, last + 5)
    before = bytes(slab)
    assert len(VERIFIER.bad_pages(slab.toreadonly(), 5)) >= last - 2
    assert slab == before
    assert last not in [bad.index for bad in VERIFIER.bad_pages(slab, 5)]


def test_a_slab_is_writable_and_starts_on_a_page() -> None:
    slab = allocate_slab(100_000)
    assert len(slab) == 100_000
    slab[:] = b"x" * 100_000
    assert bytes(slab[-3:]) == b"xxx"


@pytest.mark.parametrize("major", [15, 16, 18])
def test_all_pages_of_a_real_cluster_verify(make_cluster: MakeCluster, major: int) -> None:
    cluster = make_cluster(major)
    cluster.execute(
        "create table t (a int primary key, b text)",
        "insert into t select g, repeat(md5(g::text), 5) from generate_series(1, 20000) g",
        "create unlogged table u (a int primary key)",
        "vacuum t",
        "create sequence s",
    )
    cluster.stop()
    forks: set[str] = set()
    pages = 0
    for path in cluster.data_directory.rglob("*"):
        name = bytes(path.relative_to(cluster.data_directory))
        relation = exclusions.relation(name) if path.is_file() else None
        if relation is None:
            continue
        data = path.read_bytes()
        assert VERIFIER.bad_pages(memoryview(data), 0) == [], name
        forks.add(relation.fork)
        pages += len(data) // PAGE_BYTES
    assert forks == {"main", "fsm", "vm", "init"}
    assert pages > 500


def test_blocks_count_across_segments() -> None:
    page = signed(random_page(3), RELATION_SEGMENT_BLOCKS + 17)
    found = exclusions.relation(b"base/5/16384.1")
    assert found is not None
    assert VERIFIER.bad_pages(memoryview(page), found.segment * RELATION_SEGMENT_BLOCKS + 17) == []
    assert VERIFIER.bad_pages(memoryview(page), 17) != []
