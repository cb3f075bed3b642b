"""Putting entries into shards in the order of the walk, although their contents are stored in any order.

The walk leaves a slot for each entry. Slots at the head that are known are cut into shards and let go, so that memory
holds what is under way and no more. A shard of which nothing changed is referred to as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from mingus_engine import bounds
from mingus_engine.codec import shards
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.backing_up import CUT_BITS
from mingus_engine.jobs.files.storing import FileStoring, Use, uses_of
from mingus_engine.jobs.pipeline import Counters
from mingus_engine.repository.manifests import ShardRef
from mingus_engine.sources.base import FileKind

# Entries that wait for one before them: some 20 MiB.
_WAITING_MAX = 20_000


@dataclass
class Slot:
    """The place of an entry that is not known yet. A thread calls one of ``fill`` and ``leave_out``, once.

    :ivar file: the entry, ``None`` = there is none. :ivar uses: what it needs of packs, where it does not say so
        itself. :ivar taken_over: its content is the parent's.
    """

    file: TabledEntry | None = None
    uses: list[Use] | None = None
    taken_over: bool = False
    ready: bool = False

    def fill(self, file: TabledEntry, *, uses: list[Use] | None = None, taken_over: bool = False) -> None:
        """The entry is known."""
        self.file, self.uses, self.taken_over = file, uses, taken_over
        self.ready = True

    def leave_out(self) -> None:
        """There is no such entry."""
        self.ready = True


class WholeShard(NamedTuple):
    """A shard of the parent of which nothing changed."""

    ref: ShardRef
    table: ShardTable


class LinkSlot(NamedTuple):
    """Another name of a file that has a slot: ``make`` gives its entry from that one's."""

    first: Slot
    make: Callable[[TabledEntry], TabledEntry]


_Waiting: TypeAlias = Slot | WholeShard | LinkSlot


class Assembler:
    """See the module. All but the slots belongs to one thread.

    :ivar shards: what was cut so far; complete after ``finish``. :ivar owners: users and groups (ids) of all entries.
    """

    def __init__(self, storing: FileStoring, counters: Counters) -> None:
        self._storing, self._counters = storing, counters
        self._waiting: deque[_Waiting] = deque()
        self._batch: list[TabledEntry] = []
        self._batch_bytes = 0
        self.shards: list[ShardRef] = []
        self.owners: set[tuple[int, int]] = set()

    def add(self, waiting: _Waiting) -> None:
        """The next in path order."""
        self._waiting.append(waiting)
        self.drain()

    def crowded(self) -> bool:
        """Whether so many wait that nothing should be added before some are known."""
        return len(self._waiting) > _WAITING_MAX

    def finish(self) -> None:
        """Everything was added and is known."""
        self.drain()
        if self._waiting:
            raise RuntimeError(f"{len(self._waiting)} entries were never finished")
        self._flush()

    def drain(self) -> None:
        """Cut what is known into shards."""
        waiting = self._waiting
        while waiting:
            head = waiting[0]
            if isinstance(head, WholeShard):
                self._flush()
                self._storing.take_over_shard(head.ref, head.table)
                self._count_shard(head.table)
                self.shards.append(head.ref)
            elif isinstance(head, LinkSlot):
                if head.first.file is not None:
                    self._take(head.make(head.first.file), head.first)
            elif not head.ready:
                return
            elif head.file is not None:
                self._take(head.file, head)
            waiting.popleft()

    def _take(self, file: TabledEntry, slot: Slot) -> None:
        entry = file.entry
        if slot.taken_over:
            self._storing.take_over(file)
        elif slot.uses is not None:
            self._storing.account(slot.uses)
        else:
            self._storing.account(uses_of(entry.extents, file.table))
        if entry.kind == FileKind.FILE:
            self._counters.files += 1
            self._counters.read_bytes += entry.size
        more = shards.encoded_bytes(entry)
        full = self._batch_bytes + more > bounds.SHARD_MAX_BYTES - 4096
        if self._batch and (full or shards.is_cut(entry.path, self._storing.key, CUT_BITS)):
            self._flush()
        self.owners.add((entry.uid, entry.gid))
        self._batch.append(file)
        self._batch_bytes += more

    def _flush(self) -> None:
        if self._batch:
            first = self._batch[0].entry.path
            self.shards.append(self._storing.put_shard(first, shards.encode(self._batch)))
            self._batch, self._batch_bytes = [], 0

    def _count_shard(self, table: ShardTable) -> None:
        sizes = [record[8] for record in table.records if record[0] == FileKind.FILE]
        self.owners.update((record[6], record[7]) for record in table.records)
        self._counters.files += len(sizes)
        self._counters.read_bytes += sum(sizes)
