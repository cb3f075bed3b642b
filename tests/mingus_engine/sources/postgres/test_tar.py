"""The tar stream: archives made by an independent writer, cut anywhere, damaged anywhere."""

import io
import struct
import tarfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import BackupBroken, Cancelled
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.postgres.tar import TarReader
from mingus_engine.sources.slabs import SlabItem, SlabPool

NEVER = threading.Event()
SCRATCH = memoryview(b"")


def archive(members: list[tuple[str, bytes | None]]) -> bytes:
    """``None`` = a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = 0o640, 101, 104, 1234567890
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Read:
    def __init__(self, slabs: int = 4) -> None:
        self.members: list[SourceFile] = []
        self.reader = TarReader(SlabPool(slabs, NEVER), self.members.append)
        self.contents: dict[bytes, bytes] = {}
        self.items: list[tuple[bytes, int, int, bool]] = []

    def take(self, items: list[SlabItem]) -> None:
        for item in items:
            data = item.read(SCRATCH)
            assert data is not None
            assert item.offset == len(self.contents.get(item.file.path, b""))
            self.contents[item.file.path] = self.contents.get(item.file.path, b"") + bytes(data)
            self.items.append((item.file.path, item.offset, item.length, item.last))
            item.release()
            item.release()

    def feed(self, data: bytes, sizes: list[int] | None = None) -> "Read":
        position = 0
        for size in sizes or []:
            self.take(self.reader.feed(memoryview(data)[position : position + size]))
            position += size
        self.take(self.reader.feed(memoryview(data)[position:]))
        return self


MEMBERS = st.lists(st.tuples(st.integers(0, 10**6), st.none() | st.binary(max_size=2000)), max_size=8)


@given(MEMBERS, st.lists(st.integers(1, 3000), max_size=20))
def test_any_archive_is_read_in_any_pieces(found: list[tuple[int, bytes | None]], sizes: list[int]) -> None:
    members = [(f"base/{i}/{name}", content) for i, (name, content) in enumerate(found)]
    read = Read()
    read.reader.begin(b"")
    read.feed(archive(members), sizes)
    read.reader.end()
    assert [m.path.decode() for m in read.members] == [name for name, _ in members]
    assert read.contents == {name.encode(): content or b"" for name, content in members}
    assert all(last for *_, last in read.items)


def test_a_file_larger_than_a_slab_comes_in_slabs() -> None:
    content = bytes(range(256)) * (SLAB_BYTES // 128) + b"end"
    read = Read(slabs=2)
    read.reader.begin(b"pg_tblspc/7/")
    read.feed(archive([("a", b"x"), ("big", content), ("z", b"y")]), [32768] * 300)
    read.reader.end()
    assert [(offset, length, last) for path, offset, length, last in read.items if path.endswith(b"big")] == [
        (0, SLAB_BYTES, False),
        (SLAB_BYTES, SLAB_BYTES, False),
        (2 * SLAB_BYTES, 3, True),
    ]
    assert read.contents[b"pg_tblspc/7/big"] == content
    assert read.contents[b"pg_tblspc/7/z"] == b"y"


def test_metadata_and_links_are_kept() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("./pg_tblspc/16400")
        info.type, info.linkname, info.mode, info.mtime = tarfile.SYMTYPE, "/srv/ts", 0o777, 5
        tar.addfile(info)
    read = Read()
    read.reader.begin(b"")
    read.feed(out.getvalue())
    (entry,) = read.members
    assert (entry.path, entry.kind, entry.target) == (b"pg_tblspc/16400", FileKind.SYMLINK, b"/srv/ts")
    assert (entry.mtime_ns, entry.size) == (5 * 10**9, 0)


def header(name: bytes, *, size: bytes = b"00000000000\0", kind: bytes = b"0", checksum: int | None = None) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000600\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[148:156] = size, b"00000000000\0", b" " * 8
    block[156:157] = kind
    block[257:263] = b"ustar\0"
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def test_sizes_of_8_gib_and_more_are_base_256() -> None:
    read = Read()
    read.reader.begin(b"")
    size = 9 << 30
    read.reader.feed(memoryview(header(b"base/1/2", size=b"\x80" + b"\0" * 3 + struct.pack(">Q", size))))
    assert read.members[0].size == size
    with pytest.raises(BackupBroken, match="inside a file"):
        read.reader.end()


@pytest.mark.parametrize(
    "block",
    [
        header(b"a", checksum=1),
        header(b"/etc/passwd"),
        header(b"../a"),
        header(b"base/../../a"),
        header(b"base//a"),
        header(b"."),
        header(b""),
        header(b"a", kind=b"x"),
        header(b"a", kind=b"3"),
        header(b"a", size=b"xxxxxxxxxxx\0"),
    ],
)
def test_what_postgresql_does_not_write_is_refused(block: bytes) -> None:
    read = Read()
    read.reader.begin(b"")
    with pytest.raises(BackupBroken, match="tar stream"):
        read.reader.feed(memoryview(block))


@pytest.mark.parametrize("cut", [1, 511, 513, 1023, 1030])
def test_a_cut_archive_is_noticed(cut: int) -> None:
    read = Read()
    read.reader.begin(b"")
    read.feed(archive([("a", b"x" * 600)])[:cut])
    with pytest.raises(BackupBroken, match="inside a file"):
        read.reader.end()


def test_nothing_may_follow_the_end_of_an_archive() -> None:
    read = Read()
    read.reader.begin(b"")
    read.feed(archive([("a", b"x")]))
    with pytest.raises(BackupBroken, match="after its end"):
        read.feed(archive([("b", b"x")]))


def test_memory_is_bounded_until_items_are_released() -> None:
    cancel = threading.Event()
    reader = TarReader(SlabPool(2, cancel), lambda _: None)
    reader.begin(b"")
    data = archive([("big", b"x" * (3 * SLAB_BYTES))])
    held = reader.feed(memoryview(data)[: 2 * SLAB_BYTES])
    assert len(held) == 1
    cancel.set()
    with pytest.raises(Cancelled):
        reader.feed(memoryview(data)[2 * SLAB_BYTES :])


def test_small_files_share_a_slab_that_comes_back_when_all_are_released() -> None:
    pool = SlabPool(1, NEVER)
    reader = TarReader(pool, lambda _: None)
    reader.begin(b"")
    items = reader.feed(memoryview(archive([(f"f{i}", bytes([i]) * 5000) for i in range(20)])))
    assert [bytes(item.read(SCRATCH) or b"") for item in items] == [bytes([i]) * 5000 for i in range(20)]
    reader.end()
    for item in items[:-1]:
        item.release()
    waiting = threading.Thread(target=pool.take)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "one item still holds the only slab"
    items[-1].release()
    waiting.join(10)
    assert not waiting.is_alive()
