"""Where the pieces of one file lie, collected while its items are processed in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.entries import (
    LOCATION,
    BlobRef,
    Entry,
    Extent,
    RunTable,
    decode_extents,
    encode_extents,
    encode_extents_blob,
)
from mingus_engine.jobs.storing import merged
from mingus_engine.sources.base import SourceFile

#: Stores a blob of the tree and says where it lies.
PutBlob = Callable[[BlobKind, bytes], BlobRef]
#: Path, number of the span, extents blob, hashes → where either is stored already.
FindSpan = Callable[[bytes, int, bytes, bytes], tuple[BlobRef | None, BlobRef | None]]


def nowhere(path: bytes, number: int, blob: bytes, hashes: bytes) -> tuple[None, None]:  # noqa: ARG001 - a FindSpan
    """For a snapshot without a parent."""
    return None, None


@dataclass
class FileMap:
    """One file in the making. ``piece`` is called once per item; the last call of a file gives its entry.

    :param pieces: offset → (length, encoded extents, hashes); compact, for a file of 1 GiB some 400 KB.
    """

    file: SourceFile
    pieces: dict[int, tuple[int, bytes, bytes]] = field(default_factory=dict)
    submitted: int = 0
    done: int = 0
    complete: bool = False
    vanished: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, last: bool) -> None:
        """One more item is on its way; *last*: there will be no other."""
        with self.lock:
            self.submitted += 1
            self.complete = self.complete or last

    def piece(self, offset: int, length: int, extents: list[Extent], hashes: bytes) -> bool:
        """An item is done; whether it was the file's last one to become so."""
        with self.lock:
            if length:
                self.pieces[offset] = (length, encode_extents(extents), hashes)
            return self._done()

    def vanish(self) -> bool:
        """An item found the file gone; whether it was the file's last one."""
        with self.lock:
            self.vanished = True
            return self._done()

    def entry(self, table: RunTable, put: PutBlob, find: FindSpan = nowhere) -> Entry | None:
        """The finished entry, ``None`` if the file has vanished.

        A file that ended early while it was read is cut at the first byte that could not be read.
        """
        if self.vanished:
            return None
        extents, hashes = bytearray(), bytearray()
        size = 0
        for offset in sorted(self.pieces):
            if offset != size:
                break
            length, more_extents, more_hashes = self.pieces[offset]
            extents += more_extents
            hashes += more_hashes
            size += length
        f = self.file
        maps = b""
        if size > bounds.MAP_SPAN_BYTES or len(extents) + len(hashes) > bounds.ENTRY_INLINE_MAX_BYTES:
            maps = _put_maps(f.path, (bytes(extents), bytes(hashes)), table, put, find)
            extents, hashes = bytearray(), bytearray()
        return Entry(
            path=f.path, kind=f.kind, mode=f.mode, uid=f.uid, gid=f.gid, mtime_ns=f.mtime_ns, size=size,
            target=f.target, extents=bytes(extents), hashes=bytes(hashes), maps=maps,
        )  # fmt: skip

    def _done(self) -> bool:
        self.done += 1
        return self.complete and self.done == self.submitted


def _cut_at_spans(extent: Extent) -> Iterator[Extent]:
    """*extent* in parts that lie in one span each: a span's map stands for itself."""
    while (room := bounds.MAP_SPAN_BYTES - extent.offset % bounds.MAP_SPAN_BYTES) < extent.length:
        yield extent._replace(length=room)
        inside = extent.blob_offset if extent.hole else extent.blob_offset + room
        extent = extent._replace(offset=extent.offset + room, length=extent.length - room, blob_offset=inside)
    yield extent


def _put_maps(path: bytes, whole: tuple[bytes, bytes], table: RunTable, put: PutBlob, find: FindSpan) -> bytes:
    """Store the map (extents, hashes) in pairs of blobs, one pair per 64 MiB of the file; their encoded locations."""
    extents, hashes = whole
    what = path.decode("utf-8", "replace")
    spans: dict[int, list[Extent]] = {}
    # Together again where pieces met: the map of a file that did not change is the parent's.
    for extent in merged(decode_extents(extents, what)):
        for part in _cut_at_spans(extent):
            spans.setdefault(part.offset // bounds.MAP_SPAN_BYTES, []).append(part)
    per_span = bounds.MAP_SPAN_BYTES // bounds.BLOCK_BYTES * bounds.BLOCK_HASH_BYTES
    maps = bytearray()
    for span, found in sorted(spans.items()):
        blob = encode_extents_blob(encode_extents(found), table, what)
        span_hashes = hashes[span * per_span : (span + 1) * per_span]
        known_extents, known_hashes = find(path, span, blob, span_hashes)
        for ref in (
            known_extents or put(BlobKind.EXTENTS, blob),
            known_hashes or put(BlobKind.HASHES, span_hashes),
        ):
            maps += LOCATION.pack(table.index(ref.run), 0, ref.pack, ref.position, ref.sealed_bytes)
    return bytes(maps)
