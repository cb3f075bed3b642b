"""Windows on bodies: what clients read of them."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.errors import Damaged
from mingus_engine.store.bodies import Incoming, Window, pieces


@given(
    data=st.binary(max_size=300),
    edges=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    steps=st.lists(st.tuples(st.sampled_from(["read", "seek", "rewind"]), st.integers(0, 400)), max_size=10),
    in_memory=st.booleans(),
)
def test_a_window_reads_as_a_file_of_its_bytes(
    data: bytes, edges: tuple[int, int], steps: list[tuple[str, int]], in_memory: bool
) -> None:
    first, last = sorted(min(edge, len(data)) for edge in edges)
    window = Window(data if in_memory else io.BytesIO(data), first, last - first)
    model = io.BytesIO(data[first:last])
    assert len(window) == last - first
    for step, number in steps:
        if step == "read":
            assert window.read(number) == model.read(number)
        else:
            window.seek(number if step == "seek" else 0)
            model.seek(number if step == "seek" else 0)
        assert window.tell() == model.tell()
    assert window.read() == model.read()


def test_windows_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"aaaabbbb")
    with path.open("rb") as body:
        left, right = Window(body, 0, 4), Window(body, 4, 4)
        assert [left.read(2), right.read(2), left.read(2), right.read(2)] == [b"aa", b"bb", b"aa", b"bb"]
        assert body.tell() == 0


@pytest.mark.parametrize("body", [b"abc", io.BytesIO(b"abc")])
def test_pieces_end_where_the_body_ends(body: Any) -> None:
    assert b"".join(pieces(body, 1, 100)) == b"bc"


def test_a_wide_memoryview_counts_its_bytes_not_its_items() -> None:
    import array
    import hashlib

    body = memoryview(array.array("I", [1, 2, 3]))
    data = body.tobytes()
    Incoming("/srv/r", "x", body, len(data), hashlib.sha256(data).digest()).check()
    assert b"".join(pieces(body, 0, 100)) == data
    with pytest.raises(Damaged):
        Incoming("/srv/r", "x", body, 3, hashlib.sha256(data).digest()).check()
