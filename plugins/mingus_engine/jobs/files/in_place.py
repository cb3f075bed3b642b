"""Large files that are changed in place: images of disks, mailboxes, databases of programs.

Cut by content, a change of one byte stores some 1.3 MiB again. So where a file mostly has what its parent has at the
same offsets, its 64 KiB blocks are compared with the parent's hashes, and only what differs is cut and stored. A few
blocks all over the file tell which kind it is: size and inode say nothing, for programs copy, and rewrite, and grow.
"""

from __future__ import annotations

import os
from functools import partial

from mingus_engine import bounds
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.files.storing import FileStoring
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.parts import Blocks, Compare

# Enough to tell a file of which a tenth changed from one that moved; a MiB to be read.
_SAMPLES = 16


def in_place(
    parent: ParentSnapshot | None, storing: FileStoring, before: TabledEntry | None, descriptor: int
) -> Compare | None:
    """What compares the open file with *before*, its entry in *parent*; ``None``: it is to be cut by content.

    :raises OSError: the file cannot be read. :raises ParentDamaged: the parent cannot.
    """
    if parent is None or before is None or before.entry.kind != FileKind.FILE:
        return None
    compare = partial(_compare, parent, storing, before.entry.path)
    blocks = before.entry.size // bounds.BLOCK_BYTES
    sampled = sorted({blocks * i // _SAMPLES * bounds.BLOCK_BYTES for i in range(_SAMPLES)}) if blocks else []
    same = 0
    for offset in sampled:
        data = memoryview(os.pread(descriptor, bounds.BLOCK_BYTES, offset))
        same += len(data) == bounds.BLOCK_BYTES and all(compare(offset, data).same)
    return compare if 2 * same > len(sampled) else None


def _compare(parent: ParentSnapshot, storing: FileStoring, path: bytes, offset: int, data: memoryview) -> Blocks:
    hashes, width = storing.block_hashes(data), bounds.BLOCK_HASH_BYTES
    known = parent.get(path, offset, len(data))
    same = []
    for number, begin in enumerate(range(0, len(data), bounds.BLOCK_BYTES)):
        block = known.get(offset + begin)
        same.append(
            block is not None
            and block.length == min(bounds.BLOCK_BYTES, len(data) - begin)
            and block.hash == hashes[number * width : (number + 1) * width]
        )
    return Blocks(hashes, same)
