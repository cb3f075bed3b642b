from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine import bounds
from mingus_engine.repository import chunk_table
from mingus_engine.repository.chunk_table import ChunkPlace, ChunkTable


def chunk(number: int) -> bytes:
    return number.to_bytes(32, "little")


@pytest.mark.parametrize("in_memory", [0, 1 << 14, 1 << 18], ids=["in a file", "first in memory", "in memory"])
def test_what_was_added_is_found_however_often_the_table_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(chunk_table, "_MEMORY_SLOTS", in_memory)
    table = ChunkTable(tmp_path)
    for i in range(30_000):
        table.add(chunk(i * 7), ChunkPlace(i, i + 1, i + 2, i + 3, i + 4))
    assert table.count == 30_000
    for i in range(30_000):
        assert table.get(chunk(i * 7)) == ChunkPlace(i, i + 1, i + 2, i + 3, i + 4)
        assert table.get(chunk(i * 7 + 1)) is None
    table.close()
    assert not list(tmp_path.iterdir())


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1000)), max_size=100))
def test_ids_that_begin_alike_are_told_apart_and_the_first_place_stays(found: list[tuple[int, int]]) -> None:
    table = ChunkTable(Path("/tmp"))
    known: dict[bytes, ChunkPlace] = {}
    for number, place in found:
        one = b"\xff" * 24 + number.to_bytes(8, "big")  # the last slot: probing goes around the end
        table.add(one, ChunkPlace(place, 0, 0, 0, 0))
        known.setdefault(one, ChunkPlace(place, 0, 0, 0, 0))
    assert {one: table.get(one) for one in known} == known
    table.close()


def test_a_full_table_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    table = ChunkTable(tmp_path, bounds.MIB)
    for i in range(20_000):
        table.add(chunk(i), ChunkPlace(i, 0, 0, 0, 0))
    assert table.full
    assert table.count < 20_000
    assert all(table.get(chunk(i)) == ChunkPlace(i, 0, 0, 0, 0) for i in range(table.count))
    table.close()
