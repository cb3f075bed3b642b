"""Large files that are changed where they are: only what changed is stored, and every snapshot is what the file was."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine import bounds, rescue
from mingus_engine.codec.entries import MAP_PAIR_BYTES, decode_extents
from mingus_engine.errors import Damaged
from mingus_engine.jobs.files import in_place
from mingus_engine.sources.files import reading
from tests.support.file_sets import SOURCE, FileSet, tick

SIZE = 20_000_000


@pytest.fixture
def one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSet]:
    """A set of one file of noise."""
    monkeypatch.setattr(reading, "RACY_NS", 0)
    made = FileSet.make(workspace / "set", reread_every_days=0)
    image(made).write_bytes(random.Random(1).randbytes(SIZE))
    yield made
    made.close()


def image(one: FileSet) -> Path:
    return one.tree / "image"


def overwrite(one: FileSet, offset: int, data: bytes) -> None:
    tick(one.root)
    with image(one).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blobs(one: FileSet) -> int:
    """In how many blobs the file lies."""
    with one.reader() as reader:
        (file,) = (file for file in reader.files() if file.entry.path == b"tree/image")
        found = decode_extents(file.entry.extents, "image")
        for number in range(len(file.entry.maps) // MAP_PAIR_BYTES):
            found += reader.span(file, number)[0]
        return len({(e.run, e.pack, e.position) for e in found})


def test_a_byte_changed_in_place_stores_one_block(one: FileSet) -> None:
    one.back_up()
    overwrite(one, 7_000_000, b"!")
    second = one.back_up()
    assert second.changed == 1
    assert second.bytes_given == SIZE
    assert second.bytes_stored < 2 * bounds.BLOCK_BYTES
    directory, _ = one.restore("back")
    assert digest(directory / "tree" / "image") == digest(image(one))


def test_a_file_that_is_written_by_rename_and_changed_inside_stores_what_differs(one: FileSet) -> None:
    one.back_up()
    tick(one.root)
    data = bytearray(image(one).read_bytes())
    data[12_000_000:12_000_003] = b"new"
    (one.tree / "new").write_bytes(data)
    (one.tree / "new").rename(image(one))
    assert one.back_up().bytes_stored < 2 * bounds.BLOCK_BYTES


def test_what_moved_within_a_file_is_found_again_behind_what_did_not(one: FileSet) -> None:
    one.back_up()
    tick(one.root)
    data = image(one).read_bytes()
    image(one).write_bytes(data[:14_000_000] + b"inserted" + data[14_000_000:])
    second = one.back_up()
    # Up to two chunks, where it was inserted and where cutting by content begins.
    assert second.bytes_stored < 9_000_000
    directory, _ = one.restore("back")
    assert digest(directory / "tree" / "image") == digest(image(one))


def test_a_file_that_is_only_read_again_stores_nothing_but_its_entry(one: FileSet) -> None:
    one.back_up()
    tick(one.root)
    os.utime(image(one))
    second = one.back_up()
    assert (second.changed, second.bytes_reused) == (0, SIZE)
    assert second.bytes_stored < 8192  # of which its block hashes are five


def test_every_state_of_a_file_that_is_changed_all_over_comes_back(one: FileSet) -> None:
    chance = random.Random(2)
    states = [(one.back_up().snapshot, digest(image(one)))]
    most = 0
    for _ in range(12):
        for _ in range(6):
            size = image(one).stat().st_size
            at = chance.randrange(size)
            overwrite(one, at, chance.randbytes(chance.choice([1, 70_000, 300_000])))
        if chance.random() < 0.5:
            os.truncate(image(one), chance.randrange(15_000_000, 25_000_000))
        report = one.back_up()
        states.append((report.snapshot, digest(image(one))))
        most = max(most, blobs(one))
    for number, (snapshot, expected) in enumerate(states):
        directory, _ = one.restore(f"back-{number}", snapshot)
        assert digest(directory / "tree" / "image") == expected
        (directory / "tree" / "image").unlink()
    with one.repository() as repository:
        assert len(list(repository.list_snapshots(SOURCE))) == len(states)
    assert most > 30, "nothing was changed in place"
    assert one.verify().ok
    rescue.main([str(one.root / "first"), "restore", SOURCE, str(one.root / "rescued")], os.environ[one.variable])
    assert digest(one.root / "rescued" / "tree" / "image") == states[-1][1]


def test_a_file_changed_here_and_there_again_and_again_does_not_fall_to_pieces(
    one: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SCATTER_MAX_BLOBS", 0.5)  # 16 blobs for 8 MiB, of which cutting makes some six
    os.truncate(image(one), 8 * bounds.MIB)
    one.back_up()
    chance = random.Random(3)
    stored = []
    for _ in range(12):
        for _ in range(2):
            overwrite(one, chance.randrange(8 * bounds.MIB), b"!")
        stored.append(one.back_up().bytes_stored)
        assert blobs(one) <= 20
    assert max(stored) > 4 * bounds.MIB, "it was never stored again"
    assert min(stored) < bounds.MIB
    directory, _ = one.restore("back")
    assert digest(directory / "tree" / "image") == digest(image(one))


def test_holes_of_a_sparse_file_that_is_changed_in_place_stay_holes(one: FileSet) -> None:
    hole = 200 * bounds.MIB
    with image(one).open("r+b") as file:
        os.truncate(file.fileno(), SIZE + hole)
        os.pwrite(file.fileno(), b"the end", SIZE + hole)
    one.back_up()
    overwrite(one, 1_000_000, b"!")
    overwrite(one, SIZE + hole // 2, random.Random(4).randbytes(100_000))
    second = one.back_up()
    assert second.bytes_stored < 10 * bounds.BLOCK_BYTES
    directory, _ = one.restore("back")
    restored = directory / "tree" / "image"
    assert digest(restored) == digest(image(one))
    assert restored.stat().st_blocks * 512 < SIZE + bounds.MIB


def test_a_file_that_shrinks_while_its_blocks_are_compared_is_stored_as_it_was_read(
    one: FileSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.back_up()
    overwrite(one, 5, b"!")
    compare = in_place._compare
    calls = 0

    def shrinking(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == in_place._SAMPLES + 1:
            os.truncate(image(one), 11_111_111)
        return compare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(in_place, "_compare", shrinking)
    second = one.back_up()
    assert calls > in_place._SAMPLES
    directory, _ = one.restore("back", second.snapshot)
    assert digest(directory / "tree" / "image") == digest(image(one))


def test_a_file_that_all_workers_write_comes_back_and_a_damaged_one_leaves_nothing(one: FileSet) -> None:
    with image(one).open("r+b") as file:
        for span in range(4):
            os.pwrite(file.fileno(), random.Random(span).randbytes(700_001), span * bounds.MAP_SPAN_BYTES + 12_345)
        os.truncate(file.fileno(), 4 * bounds.MAP_SPAN_BYTES + 777)
    image(one).chmod(0o2640)
    os.utime(image(one), ns=(1, 1_234_567_890))
    one.back_up()
    directory, report = one.restore("back")
    restored = (directory / "tree" / "image").stat()
    assert digest(directory / "tree" / "image") == digest(image(one))
    assert (restored.st_mode & 0o7777, restored.st_mtime_ns) == (0o2640, 1_234_567_890)
    assert (report.files, report.bytes_written) == (1, 4 * bounds.MAP_SPAN_BYTES + 777)
    packs = (one.root / "first" / "packs" / "documents").glob("*/*")
    pack = max(packs, key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Damaged):
        one.restore("damaged")
    assert not (one.root / "damaged").exists()
