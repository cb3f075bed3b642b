"""The manifest of a multi-part append-only file."""

from __future__ import annotations

import pytest

from mingus_engine.errors import Damaged
from mingus_engine.redis import aof

WHOLE = b"file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.4.incr.aof seq 4 type i\n"


def test_what_redis_writes_is_read_and_written_again_the_same() -> None:
    manifest = aof.parse(WHOLE, "m")
    assert [f.name for f in manifest.files] == ["appendonly.aof.2.base.rdb", "appendonly.aof.4.incr.aof"]
    assert manifest.encode() == WHOLE
    assert manifest.trouble() == ""


def test_quoted_names_comments_and_pairs_of_newer_servers_are_understood() -> None:
    raw = b'# made\nfile "a \\"b\\x20.rdb" seq 1 type b\nseq 3 type i file x.aof startoffset 12\n'
    manifest = aof.parse(raw, "m")
    assert [(f.name, f.seq, f.kind) for f in manifest.files] == [('a "b .rdb', 1, "b"), ("x.aof", 3, "i")]
    assert aof.parse(manifest.encode(), "m") == manifest


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"file a seq 1 type b", b"file a seq x type b\n", b"file ../a seq 1 type b\n", b"file a seq 1 type z\n",
        b"file a seq 1\n", b"file a seq 1 type b\nfile a seq 1 type i\n", b"\n", b"file .. seq 1 type b\n",
        b"file " + b"a" * 2000 + b" seq 1 type b\n",
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(Damaged):
        aof.parse(raw, "m")


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ([("b", 1), ("b", 2), ("i", 1)], "2 base files"),
        ([("i", 1)], "0 base files"),
        ([("b", 1)], "no incremental"),
        ([("b", 1), ("h", 1), ("i", 1)], "history"),
        ([("b", 1), ("i", 1), ("i", 3)], "1, 3"),
    ],
)
def test_a_set_of_files_that_would_start_with_less_is_named(kinds: list[tuple[str, int]], why: str) -> None:
    files = [aof.AofFile(f"f{n}", seq, kind) for n, (kind, seq) in enumerate(kinds)]
    assert why in aof.AofManifest(files).trouble()
