"""Whether files that were restored are what was backed up, by reading them from the disk again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.checks import Check
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import FileKind

_UNKNOWN = bytes(bounds.BLOCK_HASH_BYTES)
# How many files that differ a report names; the rest are counted.
_NAMED = 20


def compare_files(reader: SnapshotReader, place: Callable[[bytes], Path | None], context: JobContext) -> Check:
    """L3: every restored file, read from the disk again, against the recorded block hashes.

    :param place: where the file of a path in the snapshot is; ``None``: it was not restored as it is.
    """
    bad: list[str] = []
    files = done = 0
    for file in reader.files():
        entry = file.entry
        path = place(entry.path) if entry.kind == FileKind.FILE else None
        if path is None:
            continue
        context.checkpoint()
        files += 1
        done += entry.size
        context.progress("verify L3", done, 0, str(entry.path))
        if problem := _differs(reader, file, path):
            bad.append(f"{os.fsdecode(entry.path)}: {problem}")
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        return Check("L3 compare", False, f"{len(bad)} of {files} files differ: {', '.join(bad[:_NAMED])}{more}")
    return Check("L3 compare", True, f"{files} files, {done} bytes equal what was backed up")


def _differs(reader: SnapshotReader, file: TabledEntry, path: Path) -> str:
    """How the file on disk differs, empty if it does not."""
    try:
        with path.open("rb", buffering=0) as restored:
            if (size := os.fstat(restored.fileno()).st_size) != file.entry.size:
                return f"{size} bytes instead of {file.entry.size}"
            hashes = reader.block_hashes(file)
            buffer = bytearray(bounds.SLAB_BYTES)
            block = 0
            while n := restored.readinto(buffer):
                data = memoryview(buffer)[:n]
                for at in range(0, n, bounds.BLOCK_BYTES):
                    expected = hashes[block * bounds.BLOCK_HASH_BYTES : (block + 1) * bounds.BLOCK_HASH_BYTES]
                    piece = data[at : at + bounds.BLOCK_BYTES]
                    digest = blake3(piece, key=reader.body.hash_key).digest(length=bounds.BLOCK_HASH_BYTES)
                    if expected not in (_UNKNOWN, digest):
                        return f"block {block} differs"
                    block += 1
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
