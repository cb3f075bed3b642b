import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mingus_engine import bounds, ulids
from mingus_engine.codec import directories
from mingus_engine.codec.blobs import Decompressor
from mingus_engine.codec.containers import (
    HEADER_BYTES,
    LENGTH,
    PACK_MAGIC,
    BlobKind,
    Cipher,
    ContainerKind,
    Header,
    directory_span,
)
from mingus_engine.codec.directories import BlobEntry, Segment
from mingus_engine.codec.entries import BlobRef
from mingus_engine.errors import StoreFull, StoreUnreachable
from mingus_engine.repository import packs, spool
from mingus_engine.repository.packs import PackWriter, pack_key
from mingus_engine.store.base import Store
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support.memory_store import MemoryStore
from tests.support.repositories import noise

RUN = ulids.new()
KEY = bytes(range(32))


def writer(store: Store, tmp_path: Path, **more: Callable[[packs.PackRef], None]) -> PackWriter:
    return PackWriter(store, "src", RUN, KEY, spool_path=tmp_path, level=1, **more)


class Stored:
    """What a store holds, opened without the writer's help."""

    def __init__(self, store: Store) -> None:
        self.packs = {}
        for info in store.list("packs/"):
            raw = store.get(info.name)
            header = Header.decode(raw, PACK_MAGIC, info.name)
            cipher = Cipher(header, pack_key(header, KEY))
            at, length = directory_span(len(raw), raw[-LENGTH.size :], info.name)
            plain = Decompressor().data(cipher.open(BlobKind.DIRECTORY, at, raw[at : at + length], "x"), "x")
            self.packs[header.number] = header, cipher, raw, list(directories.decode(plain, "x"))

    def data(self, kind: BlobKind, ref: BlobRef) -> bytes:
        _, cipher, raw, _ = self.packs[ref.pack]
        sealed = raw[ref.position : ref.position + ref.sealed_bytes]
        return Decompressor().data(cipher.open(kind, ref.position, sealed, "x"), "x")

    def directory(self, number: int) -> list[BlobEntry]:
        return self.packs[number][3]


def test_what_is_appended_is_read_back_and_listed_in_the_directory(tmp_path: Path) -> None:
    store = MemoryStore()
    put: list[packs.PackRef] = []
    with closing(writer(store, tmp_path, on_put=put.append)) as w:
        segment = Segment(b"file", 65536, 0, 5, b"h" * 16)
        refs = [w.append(BlobKind.DATA, b"first", (segment,)), w.append(BlobKind.DATA, b"second" * 100)]
        tree = w.append(BlobKind.SHARD, b"shard")
        w.flush()
        assert sorted(w.refs) == sorted(put)
        assert (w.statistics.blobs, w.statistics.plain_bytes) == (3, 610)
    stored = Stored(store)
    assert [stored.data(BlobKind.DATA, r) for r in refs] == [b"first", b"second" * 100]
    assert stored.data(BlobKind.SHARD, tree) == b"shard"
    assert {n: p[0].kind for n, p in stored.packs.items()} == {0: ContainerKind.DATA, 1: ContainerKind.TREE}
    assert stored.directory(0)[0].segments == (segment,)
    positions = [(b.position, b.sealed_bytes) for b in stored.directory(0)]
    assert positions == [(r.position, r.sealed_bytes) for r in refs]
    assert {r.name("src").number for r in put} == {0, 1}
    assert all(len(store.objects[str(r.name("src"))]) == r.size for r in put)


def test_a_run_that_stores_nothing_puts_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(writer(store, tmp_path)) as w:
        w.flush()
    assert store.objects == {}


def test_no_pack_is_larger_than_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 100_000
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", limit - 25)
    monkeypatch.setattr(bounds, "PACK_MAX_BLOBS", 40)
    store, chosen = MemoryStore(), random.Random(1)
    with closing(writer(store, tmp_path)) as w:
        for i in range(400):
            # Hashes do not compress: the directory takes what it says.
            segment = Segment(b"%d" % i, 0, 0, 1, chosen.randbytes(16 * 64))
            w.append(BlobKind.DATA, chosen.randbytes(chosen.randrange(1, 9000)), (segment,))
        w.flush()
    stored = Stored(store)
    assert max(map(len, store.objects.values())) <= limit
    assert max(len(p[3]) for p in stored.packs.values()) <= 40
    assert sorted(stored.packs) == list(range(len(stored.packs)))
    assert sum(len(p[3]) for p in stored.packs.values()) == 400


def test_workers_share_one_pack_until_it_is_full_and_then_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 50_000)
    store = MemoryStore()

    def used(count: int) -> set[int]:
        together = threading.Barrier(2)

        def work() -> list[BlobRef]:
            together.wait()
            return [w.append(BlobKind.DATA, noise(1000, i)) for i in range(count)]

        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(work), pool.submit(work)]
            return {ref.pack for f in futures for ref in f.result()}

    with closing(writer(store, tmp_path)) as w:
        assert used(10) == {0}
        late = used(40)
        w.flush()
    assert len(late) >= 3  # the shared one, and one of each


def test_many_threads_lose_and_mix_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of very different sizes around full packs: a small one must not enter a pack that is being finished."""
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 60_000)
    store = MemoryStore()

    def work(worker: int) -> list[tuple[BlobRef, bytes]]:
        chosen = random.Random(worker)
        found = []
        for _ in range(150):
            data = chosen.randbytes(chosen.choice([10, 500, 20_000]))
            found.append((w.append(BlobKind.DATA, data), data))
        return found

    with closing(writer(store, tmp_path)) as w, ThreadPoolExecutor(8) as pool:
        written = [pair for found in pool.map(work, range(8)) for pair in found]
        w.flush()
    stored = Stored(store)
    assert len(written) == 1200
    assert all(stored.data(BlobKind.DATA, ref) == data for ref, data in written)
    listed = {(n, b.position, b.sealed_bytes) for n, p in stored.packs.items() for b in p[3]}
    assert listed == {(r.pack, r.position, r.sealed_bytes) for r, _ in written}
    for number in stored.packs:
        at = HEADER_BYTES
        for blob in sorted(stored.directory(number), key=lambda b: b.position):
            assert blob.position == at, "no gap and no overlap: a position is a nonce"
            at += blob.sealed_bytes


def test_a_pack_found_full_takes_no_smaller_blob_from_a_worker_that_still_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 10_000)
    with closing(writer(MemoryStore(), tmp_path)) as w:
        w.append(BlobKind.DATA, noise(8000, 1))
        _, held = w._pack(ContainerKind.DATA)
        large, small = b"\0" + (8000).to_bytes(4, "little") + noise(8000, 2), b"\0\1\0\0\0x"
        assert held.append(BlobKind.DATA, large, 8000, ()) is None
        assert held.append(BlobKind.DATA, small, 1, ()) is None


def test_a_flushed_pack_takes_no_more_either(tmp_path: Path) -> None:
    with closing(writer(MemoryStore(), tmp_path)) as w:
        w.append(BlobKind.DATA, b"x")
        _, held = w._pack(ContainerKind.DATA)
        w.flush()
        assert held.append(BlobKind.DATA, b"\0\1\0\0\0x", 1, ()) is None
        assert w.append(BlobKind.DATA, b"y").pack == 1, "an abandoned number is not used again"
        w.flush()


def test_two_packs_never_have_one_salt_or_key(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(writer(store, tmp_path)) as w:
        for _ in range(3):
            w.append(BlobKind.DATA, b"same")
            w.flush()
    headers = [p[0] for p in Stored(store).packs.values()]
    assert len({h.salt for h in headers}) == len({pack_key(h, KEY) for h in headers}) == 3


def test_a_store_that_fails_is_told_by_flush(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore(), [Fault("put", "raise", times=None)])
    with closing(writer(store, tmp_path)) as w:
        w.append(BlobKind.DATA, b"x")
        with pytest.raises(StoreUnreachable):
            w.flush()
        assert w.refs == []


def test_a_store_that_fails_ends_appending_soon_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 5_000)
    store = FaultyStore(MemoryStore(), [Fault("put", "raise", nth=2, times=None, error=lambda: StoreFull("full"))])
    with closing(writer(store, tmp_path)) as w:
        with pytest.raises(StoreFull, match="full"):
            _ = [w.append(BlobKind.DATA, noise(3000, i)) for i in range(100)]
        with pytest.raises(StoreFull):
            w.flush()
        assert len(w.refs) == 1


def test_a_pack_whose_blob_was_not_written_is_never_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory names the place: a later run would believe it."""
    store = MemoryStore()
    with closing(writer(store, tmp_path)) as w:
        w.append(BlobKind.DATA, b"written")

        def full(file: object, position: int, data: bytes) -> None:
            raise StoreFull("no space in the spool")

        with monkeypatch.context() as patched:
            patched.setattr(spool, "write_at", full)
            with pytest.raises(StoreFull):
                w.append(BlobKind.DATA, b"lost")
        with pytest.raises(Exception, match="lacks a blob"):
            w.flush()
    assert store.objects == {}


def test_closing_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    w = writer(MemoryStore(), tmp_path)
    w.append(BlobKind.DATA, b"x")
    _, pack = w._pack(ContainerKind.DATA)
    w.close()
    w.close()
    assert pack.file.closed
    assert not any(t.name.startswith("mingus-put") for t in threading.enumerate())
    assert list(tmp_path.iterdir()) == []
