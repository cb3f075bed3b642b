"""Write-ahead log into a restored data directory: whole segments, slices of the unfinished one, timeline histories."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mingus_engine.errors import Damaged
from mingus_engine.targets.base import TargetFile
from mingus_engine.targets.directory import DirectoryTarget

SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_HISTORY_MAX_BYTES = 1 << 20

WalFile = tuple[str, int, Iterable[bytes]]


def write(
    target: DirectoryTarget, files: Iterable[WalFile], segment_bytes: int, checkpoint: Callable[[], None]
) -> tuple[int, int]:
    """Write files into ``pg_wal``. Each is ``(name, size, chunks)``; *size* is what the chunks add up to.

    A slice of a segment is filled up with zeros, as the server itself makes segments. A whole segment and a history
    get an ``archive_status/….done``, as after ``pg_basebackup -X stream``: a server with archiving on does not archive
    again what was archived before.

    :returns: number of files and their bytes.
    :raises Damaged: a name that is none of these, fewer or more bytes than promised, a file twice.
    """
    count = total = 0
    seen: set[str] = set()
    for name, size, chunks in files:
        checkpoint()
        is_segment = SEGMENT.fullmatch(name) is not None
        if name in seen or not (is_segment or HISTORY.fullmatch(name)):
            raise Damaged(f"WAL file {name!r} comes twice or is neither a segment nor a history")
        if not 0 < size <= (segment_bytes if is_segment else _HISTORY_MAX_BYTES):
            raise Damaged(f"WAL file {name} has {size} bytes, a segment has {segment_bytes}")
        seen.add(name)
        _write_one(target, name, size, chunks, segment_bytes if is_segment else size)
        if size == segment_bytes or not is_segment:
            target.open_file(TargetFile(f"pg_wal/archive_status/{name}.done".encode())).close()
        count, total = count + 1, total + size
    return count, total


def _write_one(target: DirectoryTarget, name: str, size: int, chunks: Iterable[bytes], length: int) -> None:
    writer = target.open_file(TargetFile(f"pg_wal/{name}".encode(), size=length))
    try:
        position = 0
        for chunk in chunks:
            if position + len(chunk) > size:
                raise Damaged(f"WAL file {name} is longer than the {size} bytes promised")
            writer.write(position, chunk)
            position += len(chunk)
        if position != size:
            raise Damaged(f"WAL file {name} ends after {position} of {size} bytes")
        writer.close()
    finally:
        writer.abort()
