"""What a pack holds: the list at its end, from which a later run resumes.

Plain form (all little-endian)::

    u16 version · u32 files · u32 blobs
    files:  u16 path length · path
    blobs:  u8 kind · u32 position · u32 sealed length · u32 plain length · u16 segments
            segment: u32 file · u64 file offset · u32 offset in blob · u32 length · u16 hashes · hashes (16 each)

A segment says which range of which file lies where in the blob, with the keyed hashes of its 64 KiB blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.errors import Damaged, FormatTooNew

VERSION = 1
_HEAD = struct.Struct("<HII")
_PATH = struct.Struct("<H")
_BLOB = struct.Struct("<BIIIH")
_SEGMENT = struct.Struct("<IQIIH")


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of a file inside a blob. ``hashes``: 16 bytes per 64 KiB block, may be empty."""

    path: bytes
    file_offset: int
    blob_offset: int
    length: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob of the pack. Lengths and position in bytes."""

    kind: BlobKind
    position: int
    sealed_bytes: int
    plain_bytes: int
    segments: tuple[Segment, ...]


class DirectoryBuilder:
    """Collects a pack's directory while it is written; not thread-safe (the pack's lock guards it)."""

    def __init__(self) -> None:
        self._paths: dict[bytes, int] = {}
        self._path_bytes = bytearray()
        self._blobs = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def encoded_bytes(self) -> int:
        """How long the plain form is so far."""
        return _HEAD.size + len(self._path_bytes) + len(self._blobs)

    def add(self, entry: BlobEntry) -> None:
        """Append one blob."""
        self._blobs += _BLOB.pack(
            entry.kind, entry.position, entry.sealed_bytes, entry.plain_bytes, len(entry.segments)
        )
        for s in entry.segments:
            index = self._paths.get(s.path)
            if index is None:
                index = self._paths[s.path] = len(self._paths)
                self._path_bytes += _PATH.pack(len(s.path)) + s.path
            count = len(s.hashes) // bounds.BLOCK_HASH_BYTES
            self._blobs += _SEGMENT.pack(index, s.file_offset, s.blob_offset, s.length, count) + s.hashes
        self._count += 1

    def encode(self) -> bytes:
        """The plain form."""
        head = _HEAD.pack(VERSION, len(self._paths), self._count)
        return head + bytes(self._path_bytes) + bytes(self._blobs)


def directory_bytes(segments: Sequence[Segment]) -> int:
    """The most that one blob of these *segments* adds to a directory."""
    return _BLOB.size + sum(_PATH.size + len(s.path) + _SEGMENT.size + len(s.hashes) for s in segments)


def decode(raw: bytes, what: str) -> Iterator[BlobEntry]:
    """The blobs of a directory in the order they were added.

    :raises FormatTooNew: a newer version. :raises Damaged: lengths that cannot be.
    """
    try:
        version, files, blobs = _HEAD.unpack_from(raw)
        if version > VERSION:
            raise FormatTooNew(f"{what}: directory version {version}, this program knows {VERSION}")
        if version != VERSION:
            raise Damaged(f"{what}: impossible directory version {version}")
        at = _HEAD.size
        paths = []
        for _ in range(files):
            (length,) = _PATH.unpack_from(raw, at)
            at += _PATH.size + length
            paths.append(raw[at - length : at])
        for _ in range(blobs):
            kind, position, sealed, plain, count = _BLOB.unpack_from(raw, at)
            at += _BLOB.size
            segments = []
            for _ in range(count):
                index, file_offset, blob_offset, span, hashes = _SEGMENT.unpack_from(raw, at)
                at += _SEGMENT.size + hashes * bounds.BLOCK_HASH_BYTES
                hash_bytes = raw[at - hashes * bounds.BLOCK_HASH_BYTES : at]
                segments.append(Segment(paths[index], file_offset, blob_offset, span, hash_bytes))
            if at > len(raw):
                raise Damaged(f"{what}: directory ends early")
            yield BlobEntry(BlobKind(kind), position, sealed, plain, tuple(segments))
    except (struct.error, IndexError, ValueError):
        raise Damaged(f"{what}: directory is not well-formed") from None
    if at != len(raw):
        raise Damaged(f"{what}: {len(raw) - at} bytes behind the directory")
