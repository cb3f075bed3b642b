"""What the reader checks behind the seals: it believes no manifest that does not fit together."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mingus_engine import bounds
from mingus_engine.bounds import PAGE_BYTES
from mingus_engine.codec import entries as codec
from mingus_engine.codec.entries import EXTENT
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged
from mingus_engine.repository.manifests import Body
from mingus_engine.repository.reader import SnapshotReader
from tests.support import repositories as support
from tests.support.repositories import MadeRepository, MadeSource, noise

TREE = MadeSource(files={b"%d" % i: noise(100_000, i) for i in range(4)})


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


def committed(made: MadeRepository, change: object = None) -> SnapshotReader:
    """A snapshot of four shards whose body *change* has changed before it was sealed."""
    with closing(support.begin(made)) as run:
        body, _ = support.store_tree(made, run, TREE, cut_bits=0)
        body = change(body) if callable(change) else body
        manifest = run.commit(kind="x", position=0, flagged=False, packs=run.packs.refs, logs=[], body=body)
    return SnapshotReader(made.repository, manifest)


def wrong_digest(body: Body) -> Body:
    return replace(body, shards=[body.shards[0]._replace(digest=bytes(32)), *body.shards[1:]])


def swapped_blobs(body: Body) -> Body:
    one, two, *rest = body.shards
    return replace(body, shards=[one._replace(blob=two.blob), two._replace(blob=one.blob), *rest])


def other_order(body: Body) -> Body:
    return replace(body, shards=body.shards[::-1])


def twice(body: Body) -> Body:
    return replace(body, shards=[*body.shards, body.shards[-1]])


def unlisted_pack(body: Body) -> Body:
    first = body.shards[0]
    return replace(body, shards=[first._replace(blob=first.blob._replace(pack=99)), *body.shards[1:]])


def beyond_its_end(body: Body) -> Body:
    first = body.shards[0]
    return replace(body, shards=[first._replace(blob=first.blob._replace(position=2**31)), *body.shards[1:]])


@pytest.mark.parametrize("change", [wrong_digest, swapped_blobs, other_order, twice, unlisted_pack, beyond_its_end])
def test_a_list_of_shards_that_does_not_fit_is_refused(made: MadeRepository, change: object) -> None:
    reader = committed(made, change)
    with pytest.raises(Damaged) as caught:
        list(reader.files())
    assert str(reader.manifest.name) in caught.value.message or "packs/" in caught.value.message


def read(reader: SnapshotReader, file: TabledEntry) -> int:
    return sum(length for _, _, length in reader.data(file))


def test_every_recorded_hash_is_compared_and_unknown_ones_are_not(made: MadeRepository) -> None:
    reader = committed(made)
    entry, table = next(iter(reader.files()))
    for at in range(0, len(entry.hashes), 16):
        wrong = entry.hashes[:at] + b"\1" * 16 + entry.hashes[at + 16 :]
        with pytest.raises(Damaged, match="not the one that was backed up"):
            read(reader, TabledEntry(replace(entry, hashes=wrong), table))
        unknown = entry.hashes[:at] + bytes(16) + entry.hashes[at + 16 :]
        assert read(reader, TabledEntry(replace(entry, hashes=unknown), table)) == entry.size


def test_an_entry_whose_parts_do_not_add_up_is_refused(made: MadeRepository) -> None:
    reader = committed(made)
    entry, table = next(iter(reader.files()))
    cut = entry.extents[: -EXTENT.size]
    wrong = [
        replace(entry, size=entry.size + 1),
        replace(entry, size=entry.size - 1),
        replace(entry, hashes=entry.hashes[:-16]),
        replace(entry, hashes=entry.hashes + bytes(16)),
        replace(entry, extents=cut, hashes=b""),
        replace(entry, extents=EXTENT.pack(1, *EXTENT.unpack(entry.extents[: EXTENT.size])[1:])),
        replace(entry, extents=EXTENT.pack(0, entry.size, 7, 0, 0, 64, 30, 0)),
    ]
    for bad in wrong:
        with pytest.raises(Damaged, match="0"):
            read(reader, TabledEntry(bad, table))


def test_a_blob_that_many_stretches_of_a_file_lie_in_is_fetched_and_opened_once(
    made: MadeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Increments scatter a file over packs: what costs is how many blobs, not how many stretches."""
    pages = 256
    old = bytes(noise(pages * PAGE_BYTES, 1))
    manifest = support.backed_up(made, MadeSource(files={b"f": old}))
    reader = SnapshotReader(made.repository, manifest)
    (file,) = reader.files()
    extents = codec.decode_extents(file.entry.extents, "f")
    assert len(extents) == pages * PAGE_BYTES // bounds.BLOB_PLAIN_BYTES
    # Every other page from the blob where it lies, the others from the first blob: 256 stretches of 8 blobs.
    scattered = []
    for page in range(pages):
        at = page * PAGE_BYTES
        e = extents[0] if page % 2 else extents[at // bounds.BLOB_PLAIN_BYTES]
        inside = at % bounds.BLOB_PLAIN_BYTES
        scattered.append(e._replace(offset=at, length=PAGE_BYTES, blob_offset=inside))
    opened, fetched = [], []
    open_blob, take = reader._open, reader._prefetcher.take
    monkeypatch.setattr(reader, "_open", lambda *a: opened.append(a[2]) or open_blob(*a))
    monkeypatch.setattr(reader._prefetcher, "take", lambda *a: fetched.append(a) or take(*a))
    found = b"".join(bytes(data) for _, data in reader.fetch(scattered, file.table, "f") if data is not None)
    blob = bounds.BLOB_PLAIN_BYTES
    assert found == b"".join(
        old[at % blob : at % blob + PAGE_BYTES] if page % 2 else old[at : at + PAGE_BYTES]
        for page, at in enumerate(range(0, len(old), PAGE_BYTES))
    )
    assert len(opened) == len(set(opened)) == 8
    assert len([f for f in fetched if f[2] > 100]) <= 3
