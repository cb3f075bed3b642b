"""``INCREMENTAL.*`` files: which blocks of a relation changed, and those blocks; merged into the parent as they come.

Source: ``backend/backup/basebackup_incremental.c``, ``bin/pg_combinebackup/reconstruct.c``; POSTGRES.md §2. Layout,
little-endian: u32 magic · u32 number of blocks · u32 truncation length t · so many u32 block numbers, ascending; zeros
up to a multiple of 8 KiB if there are blocks; the blocks.

The merged file has max(t, last block + 1) blocks: block b is from the increment if listed; else from the parent if
b < t and the parent has it; else zeros, which WAL replay fills (a relation that was extended while the backup ran).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

from mingus_engine.bounds import PAGE_BYTES, RELATION_SEGMENT_BLOCKS, SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.sources.base import SourceFile, Stretch, Stretches
from mingus_engine.sources.slabs import Slab

PREFIX = b"INCREMENTAL."
_MAGIC = 0xD3AE1F0D
_FIXED = struct.Struct("<III")
_SLAB_PAGES = SLAB_BYTES // PAGE_BYTES

#: So many bytes of memory for what comes next, and the slab they lie in.
Room = Callable[[int], tuple[memoryview, Slab]]


class StretchItem:
    """An item that gives what changed; see ``sources.base.Item``."""

    __slots__ = ("_slab", "_stretches", "file", "last", "length", "offset")

    def __init__(
        self, file: SourceFile, offset: int, stretches: Sequence[Stretch], slab: Slab | None, *, last: bool
    ) -> None:
        self.file = file
        self.offset = offset
        self.last = last
        self._stretches = Stretches(stretches)
        self.length = self._stretches.length
        self._slab = slab
        if slab is not None:
            slab.hold()

    def read(self, scratch: memoryview) -> Stretches:  # noqa: ARG002 - the contract's signature
        """What changed, and what did not."""
        return self._stretches

    def release(self) -> None:
        """Give the memory back to the stream; idempotent."""
        slab, self._slab = self._slab, None
        if slab is not None:
            self._stretches = Stretches(())
            slab.drop()


class IncrementMember:
    """One member of a tar stream while its bytes come: first the header, then the blocks, a slab's range at a time.

    :param file: named as the merged file; its size is that of the member. :param parent_bytes: size of the file in the
        parent.
    """

    def __init__(self, file: SourceFile, parent_bytes: int, room: Room) -> None:
        self._file, self._room = file, room
        self._parent_blocks = parent_bytes // PAGE_BYTES
        self._header = bytearray(_FIXED.size)
        self._known = 0  # bytes of the header that are there
        self._blocks: Sequence[int] = ()
        self._taken = 0  # of these blocks, those that were given to items
        self._truncated = self._end = 0  # t, and length of the merged file, in blocks
        self._at = 0  # block where the next item begins
        self._target = memoryview(self._header)
        self._slab: Slab | None = None

    def aim(self) -> memoryview:
        """Where the next bytes of the member go; empty = it is complete."""
        return self._target

    def complete(self) -> list[StretchItem]:
        """:meth:`aim` was filled; the items that became complete.

        :raises BackupBroken: this is no increment.
        """
        if self._slab is None:
            self._header_came()
            if self._target:
                return []
            ready = []
        else:
            ready = [self._item(self._target)]
        ready += self._without_data()
        self._aim_at_blocks()
        return ready

    def _header_came(self) -> None:
        magic, count, truncated = _FIXED.unpack_from(self._header)
        length = _FIXED.size + 4 * count
        length += -length % PAGE_BYTES if count else 0
        if magic != _MAGIC or count > RELATION_SEGMENT_BLOCKS or self._file.size != length + count * PAGE_BYTES:
            raise self._wrong()
        if self._known == 0 and length > _FIXED.size:
            rest = bytearray(length)
            rest[: _FIXED.size] = self._header
            self._header, self._known = rest, _FIXED.size
            self._target = memoryview(rest)[_FIXED.size :]
            return
        self._target = memoryview(b"")
        self._blocks = struct.unpack_from(f"<{count}I", self._header, _FIXED.size)
        last = -1
        for block in self._blocks:
            if not last < block < RELATION_SEGMENT_BLOCKS:
                raise self._wrong()
            last = block
        # Some versions of 17 and 18 count beyond the segment after a truncation (test t/011_ib_truncation.pl).
        self._truncated = min(truncated, RELATION_SEGMENT_BLOCKS)
        self._end = max(self._truncated, last + 1)
        self._file = replace(self._file, size=self._end * PAGE_BYTES)

    def _without_data(self) -> list[StretchItem]:
        """The items up to the next one for which blocks must come."""
        ready = []
        if not self._end:
            ready.append(StretchItem(self._file, 0, (), None, last=True))
        while self._at < self._end and not self._coming():
            ready.append(self._item(memoryview(b"")))
        return ready

    def _coming(self) -> int:
        """How many listed blocks lie in the range of the next item."""
        behind = self._taken
        while behind < len(self._blocks) and self._blocks[behind] < self._at + _SLAB_PAGES:
            behind += 1
        return behind - self._taken

    def _aim_at_blocks(self) -> None:
        count = self._coming() if self._at < self._end else 0
        self._target, self._slab = self._room(count * PAGE_BYTES) if count else (memoryview(b""), None)

    def _item(self, data: memoryview) -> StretchItem:
        """The item of the next range, whose listed blocks are *data*."""
        begin, end = self._at, min(self._at + _SLAB_PAGES, self._end)
        stretches: list[Stretch] = []
        at = begin
        for i in range(len(data) // PAGE_BYTES):
            block = self._blocks[self._taken + i]
            stretches += self._old(at, block)
            page = data[i * PAGE_BYTES : (i + 1) * PAGE_BYTES]
            last = stretches[-1] if stretches else None
            if last is not None and last.data is not None:  # neighbours lie side by side in the data too
                page = data[i * PAGE_BYTES - last.length : (i + 1) * PAGE_BYTES]
                stretches[-1] = Stretch(last.offset, len(page), page)
            else:
                stretches.append(Stretch(block * PAGE_BYTES, PAGE_BYTES, page))
            at = block + 1
        stretches += self._old(at, end)
        self._taken += len(data) // PAGE_BYTES
        self._at = end
        return StretchItem(
            self._file, begin * PAGE_BYTES, stretches, self._slab if data else None, last=end == self._end
        )

    def _old(self, begin: int, end: int) -> list[Stretch]:
        """Blocks that are not listed: the parent's, then zeros."""
        known = max(begin, min(end, self._truncated, self._parent_blocks))
        parts = []
        if begin < known:
            parts.append(Stretch(begin * PAGE_BYTES, (known - begin) * PAGE_BYTES, parent=True))
        if known < end:
            parts.append(Stretch(known * PAGE_BYTES, (end - known) * PAGE_BYTES))
        return parts

    def _wrong(self) -> BackupBroken:
        return BackupBroken(f"the server sent an increment of {self._file.path[:200]!r} that is not well-formed")
