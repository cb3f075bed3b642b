"""The walk of a backup: what is found is compared with the parent, and what is not known becomes work for others.

Parent and walk are in one order, so they are merged: a shard of the parent at a time. A shard whose files are all as
they were is taken over as a whole, without making an object of any entry.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from mingus_engine import bounds
from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry, RunTable
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.files.assembling import Assembler, LinkSlot, Slot, WholeShard
from mingus_engine.jobs.files.contents import SMALL_BYTES, WHOLE_BYTES, Contents, Wanted, large_file
from mingus_engine.jobs.files.in_place import in_place
from mingus_engine.jobs.files.storing import FileStoring
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.buffers import allocate_slab
from mingus_engine.sources.files.findings import Findings
from mingus_engine.sources.files.parts import BUFFER_BYTES, parts
from mingus_engine.sources.files.reading import (
    KINDS,
    TRIES,
    Unreadable,
    mark_of,
    open_file,
    same,
    special,
    storable,
    xattrs_of,
)
from mingus_engine.sources.files.walk import Found, Walker

#: What a worker thread does.
Work: TypeAlias = Callable[[Contents], None]
# Files that share a piece of work, and mostly a blob.
_TOGETHER_FILES = 512
# Findings that wait for the end of a shard: some 3 MiB.
_FOUND_MAX = 4096
# Buffers of large files: one is filled while others are stored.
_BUFFERS = 3
_POLL_S = 0.02
# A larger file that changes while it is read is not read again: that would take as long, and be as likely to.
_AGAIN_MAX_BYTES = 4 * bounds.GIB


class Walking:
    """See the module.

    :param reread: read also what seems unchanged.
    :ivar failed: set by whoever does the work, when it failed: nothing more is waited for.
    :ivar unread: files that were not read. :ivar removed: entries of the parent that are not there any more.
    """

    def __init__(
        self,
        walker: Walker,
        parent: ParentSnapshot | None,
        assembler: Assembler,
        storing: FileStoring,
        contents: Contents,
        *,
        findings: Findings,
        context: JobContext,
        reread: bool,
    ) -> None:
        self._walker, self._parent, self._assembler, self._storing = walker, parent, assembler, storing
        self._contents, self._findings, self._context, self._reread = contents, findings, context, reread
        self._small: list[Wanted] = []
        self._small_bytes = 0
        self._links: dict[tuple[int, int], tuple[Slot, bytes]] = {}
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._buffers_made = 0
        self.failed = threading.Event()
        self.unread = self.removed = 0

    def works(self) -> Iterator[Work]:
        """Everything that is to be read, in the order of the walk. Ends early when ``failed`` is set."""
        for work in self._all():
            yield work
            if self.failed.is_set():
                return
        yield from self._flush_small()

    def _all(self) -> Iterator[Work]:
        parent = self._parent
        if parent is None or not parent.first_paths:
            for found in self._walker.found():
                self._context.checkpoint()
                yield from self._one(found, None, unchanged=False)
                yield from self._crowded()
            return
        firsts, at = parent.first_paths, 0
        span = _Span(parent, 0)
        batch: list[Found] = []
        for found in self._walker.found():
            self._context.checkpoint()
            while at + 1 < len(firsts) and found.path >= firsts[at + 1]:
                yield from self._merge(span, batch, last=True)
                batch, at = [], at + 1
                span = _Span(parent, at)
            batch.append(found)
            if len(batch) >= _FOUND_MAX:
                yield from self._merge(span, batch, last=False)
                batch = []
        yield from self._merge(span, batch, last=True)
        for number in range(at + 1, len(firsts)):
            self.removed += len(parent.shard_table(number))

    def _merge(self, span: _Span, batch: Sequence[Found], *, last: bool) -> Iterator[Work]:
        """What was found of a shard's range; *last*: there is no more of it."""
        if last and not span.begun and (whole := self._whole(span, batch)) is not None:
            self._assembler.add(whole)
            self.unread += sum(record[0] == FileKind.FILE for record in whole.table.records)
            return
        for found in batch:
            number = span.seek(found.path)
            if number is None:
                yield from self._one(found, None, unchanged=False)
            else:
                before = TabledEntry(span.table.entry(number), span.table.runs)
                yield from self._one(found, before, unchanged=_unchanged(found, span.table, number))
            yield from self._crowded()
        if last:
            span.seek(None)
        self.removed += span.take_passed()

    def _whole(self, span: _Span, batch: Sequence[Found]) -> WholeShard | None:
        """The shard, if nothing of it changed and it may be referred to."""
        table = span.table
        if self._parent is None or not self._parent.all_usable or len(batch) != len(table):
            return None
        for number, found in enumerate(batch):
            if found.path != table.paths[number] or not _unchanged(found, table, number):
                return None
            # Its other names must be looked at; and who reads everything again has work to do.
            if stat.S_ISREG(found.status.st_mode) and (found.status.st_nlink > 1 or self._reread):
                return None
        ref = self._parent.whole_shard(span.number)
        return WholeShard(ref, table) if ref is not None else None

    def _one(self, found: Found, before: TabledEntry | None, *, unchanged: bool) -> Iterator[Work]:
        """One entry; *before*: what the parent has under its path."""
        mode, status = found.status.st_mode, found.status
        kind = KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            self._findings.note("socket", found.path)
            return
        slot = Slot()
        if kind == FileKind.FILE and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), (slot, found.path))
            if first[0] is not slot:
                self._assembler.add(LinkSlot(first[0], partial(_linked, path=found.path, to=first[1])))
                return
            # As another name of something it was not stored with what is its own.
            unchanged = unchanged and before is not None and not _attributes(before.entry).link
        again = self._reread and kind == FileKind.FILE
        if before is not None and unchanged and not again and self._storing.may_take_over(before):
            slot.fill(before, taken_over=True)
            self._assembler.add(slot)
            self.unread += kind == FileKind.FILE
            return
        if kind != FileKind.FILE:
            self._special(found, kind, slot)
            self._assembler.add(slot)
            return
        self._assembler.add(slot)
        yield from self._file(Wanted(found, slot, before, unchanged))

    def _file(self, wanted: Wanted) -> Iterator[Work]:
        status = wanted.found.status
        sparse = status.st_blocks * 512 + bounds.BLOCK_BYTES <= status.st_size
        if status.st_size > WHOLE_BYTES or sparse:
            yield from self._large(wanted)
        elif status.st_size > SMALL_BYTES:
            yield partial(Contents.whole, wanted=wanted)
        else:
            if self._small_bytes + status.st_size > bounds.BLOB_PLAIN_BYTES or len(self._small) >= _TOGETHER_FILES:
                yield from self._flush_small()
            self._small.append(wanted)
            self._small_bytes += status.st_size

    def _flush_small(self) -> Iterator[Work]:
        if self._small:
            yield partial(Contents.small, files=self._small)
            self._small, self._small_bytes = [], 0

    def _special(self, found: Found, kind: FileKind, slot: Slot) -> None:
        """Of what has no content the entry is known at once."""
        status = found.status
        try:
            target, more = special(found, self._findings)
        except Unreadable as error:
            self._findings.note(error.sort, found.path, error.why)
            slot.leave_out()
            return
        entry = Entry(
            found.path, kind, status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns, 0, target,
            more.encode(),
        )  # fmt: skip
        slot.fill(TabledEntry(entry, _NO_RUNS))

    def _large(self, wanted: Wanted) -> Iterator[Work]:
        """Read here, for chunks follow from each other; stored by all workers. Again while it changes, a few times."""
        try:
            descriptor = open_file(wanted.found, follow=self._contents.follow)
        except Unreadable as error:
            self._findings.note(error.sort, wanted.found.path, error.why)
            wanted.slot.leave_out()
            return
        tries = TRIES if wanted.found.status.st_size <= _AGAIN_MAX_BYTES else 1
        try:
            while not (yield from self._once(wanted, descriptor, last=tries == 1)):
                tries -= 1
        finally:
            os.close(descriptor)

    def _once(self, wanted: Wanted, descriptor: int, *, last: bool) -> Generator[Work, None, bool]:
        """Read a large file; whether that settled it: it did not change meanwhile, or this was the *last* try."""
        before = os.fstat(descriptor)
        large = large_file(wanted, before)
        length, settled = 0, True
        try:
            compare = in_place(self._parent, self._storing, wanted.before, descriptor)
            cutter, take = self._contents.cutter, self._take_buffer
            for part in parts(descriptor, before.st_size, before.st_blocks, cutter, take, compare=compare):
                self._context.checkpoint()
                large.map.submit(last=False)
                length = part.offset + part.length
                yield partial(Contents.part, large=large, part=part)
            after = os.fstat(descriptor)
            stable = same(before, after) and length == after.st_size
            settled = stable or last
            if settled:
                xattrs = storable(wanted.found.path, xattrs_of(descriptor), self._findings)
                large.extra = attributes.Attributes(mark_of(after) if stable else b"", b"", xattrs).encode()
            if settled and not stable:
                self._findings.note("changed", wanted.found.path)
        except OSError as error:
            self._findings.note("unreadable", wanted.found.path, error.strerror or "")
            large.left_out = True
        large.abandoned = not settled
        large.map.submit(last=True)
        yield partial(Contents.end, large=large)
        return settled

    def _take_buffer(self) -> tuple[memoryview, Callable[[], None]]:
        """A buffer of ``BUFFER_BYTES`` and what gives it back; waits for one."""
        if self._buffers_made < _BUFFERS and self._buffers.empty():
            self._buffers_made += 1
            self._buffers.put(allocate_slab(BUFFER_BYTES))
        while True:
            try:
                buffer = self._buffers.get(timeout=_POLL_S)
            except queue.Empty:
                self._context.checkpoint()
                if self.failed.is_set():
                    buffer = allocate_slab(BUFFER_BYTES)  # nobody gives one back any more, and nobody will take more
                else:
                    continue
            return buffer, partial(self._buffers.put, buffer)

    def _crowded(self) -> Iterator[Work]:
        """Waits while many entries wait for one before them."""
        if self._assembler.crowded():
            yield from self._flush_small()
            while self._assembler.crowded() and not self.failed.wait(_POLL_S):
                self._context.checkpoint()
                self._assembler.drain()


class _Span:
    """A shard of the parent that is merged with what is found in its range."""

    def __init__(self, parent: ParentSnapshot, number: int) -> None:
        self.number = number
        self.table: ShardTable = parent.shard_table(number)
        self._at = 0
        self._passed = 0

    @property
    def begun(self) -> bool:
        """Whether something of it was taken."""
        return self._at > 0

    def seek(self, path: bytes | None) -> int | None:
        """The entry at *path*, ``None`` = there is none; paths ascend, ``None`` is the end."""
        paths = self.table.paths
        while self._at < len(paths) and (path is None or paths[self._at] < path):
            self._at += 1
            self._passed += 1
        if path is not None and self._at < len(paths) and paths[self._at] == path:
            self._at += 1
            return self._at - 1
        return None

    def take_passed(self) -> int:
        """How many entries were passed over since the last time: they are not there any more."""
        passed, self._passed = self._passed, 0
        return passed


_NO_RUNS = RunTable()


def _unchanged(found: Found, table: ShardTable, number: int) -> bool:
    """Whether the entry says what the file says now, with a mark that can be trusted."""
    record, s = table.records[number], found.status
    kind = KINDS.get(stat.S_IFMT(s.st_mode))
    return (
        record[0] == kind
        and record[9] == s.st_mtime_ns
        and record[8] == (s.st_size if kind == FileKind.FILE else 0)
        and record[5] == s.st_mode & 0o7777
        and record[6] == s.st_uid
        and record[7] == s.st_gid
        and table.extra_begins_with(number, attributes.mark(s.st_ctime_ns, s.st_ino))
    )


def _attributes(entry: Entry) -> attributes.Attributes:
    return attributes.decode(entry.extra, entry.path.decode("utf-8", "replace"))


def _linked(first: TabledEntry, *, path: bytes, to: bytes) -> TabledEntry:
    """The entry of another name of *first*."""
    extra = replace(_attributes(first.entry), link=to).encode()
    return TabledEntry(replace(first.entry, path=path, extra=extra), first.table)
