"""Reading and storing the contents of files that are new, changed, or read again: what the worker threads do."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec.attributes import Attributes
from mingus_engine.codec.entries import Entry, Extent, RunTable, encode_extents
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.file_map import FileMap
from mingus_engine.jobs.files.assembling import Slot
from mingus_engine.jobs.files.storing import FileStoring, Small, uses_of
from mingus_engine.jobs.pipeline import Counters
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.files.chunking import CHUNK_MAX_BYTES, Cutter
from mingus_engine.sources.files.findings import Findings
from mingus_engine.sources.files.parts import Part
from mingus_engine.sources.files.reading import Content, Unreadable, mark_of, read_whole, storable
from mingus_engine.sources.files.walk import Found

#: A file up to this shares a blob with others; it is one block, whose hash begins its chunk's id.
SMALL_BYTES = bounds.BLOCK_BYTES
#: A file up to this is read as a whole.
WHOLE_BYTES = CHUNK_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plain file to be read. ``before``: its entry in the parent; ``unchanged``: nothing but its content can have
    changed since.
    """

    found: Found
    slot: Slot
    before: TabledEntry | None = None
    unchanged: bool = False


@dataclass
class Large:
    """A large file while its parts are stored. What is here is complete when its end is dealt with.

    :ivar extra: its attributes. :ivar dense: all that was stored looked encrypted. :ivar left_out: it cannot be read.
    :ivar abandoned: it changed meanwhile and is read again: nothing of this counts.
    """

    wanted: Wanted
    map: FileMap
    extra: bytes = b""
    dense: bool = True
    left_out: bool = False
    abandoned: bool = False


@dataclass
class Tally:
    """How many files are new, had another content than before, and of both how many look encrypted."""

    new: int = 0
    changed: int = 0
    dense_new: int = 0
    dense_changed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, *, before: bool, dense: bool) -> None:
        """One more file with a content of its own."""
        with self.lock:
            self.changed += before
            self.new += not before
            self.dense_changed += before and dense
            self.dense_new += dense and not before


class Contents:
    """See the module. Every method may be called by any thread.

    :param follow: links are followed.
    """

    def __init__(
        self,
        run: WriteRun,
        storing: FileStoring,
        table: RunTable,
        parent: ParentSnapshot | None,
        *,
        findings: Findings,
        counters: Counters,
        follow: bool,
    ) -> None:
        self._run, self._storing, self._table, self._parent = run, storing, table, parent
        self._findings, self._counters, self.follow = findings, counters, follow
        self._local = threading.local()
        self._lock = threading.Lock()
        self._zero_hash = blake3(bytes(bounds.BLOCK_BYTES), key=storing.key).digest(length=bounds.BLOCK_HASH_BYTES)
        self.tally = Tally()

    def small(self, files: Sequence[Wanted]) -> None:
        """Files of at most ``SMALL_BYTES``."""
        held: list[tuple[Wanted, Content, bytes]] = []
        size = 0
        for wanted in files:
            content = self._read(wanted, SMALL_BYTES)
            if content is None:
                continue
            chunk = blake3(content.data, key=self._storing.key).digest() if content.data else b""
            hashes = chunk[: bounds.BLOCK_HASH_BYTES]
            if self._has_other_content(wanted, hashes):
                # Of a first backup nobody asks: nothing was replaced.
                self._differs(wanted, dense=self._parent is not None and self._storing.incompressible(content.data))
            elif self._taken_over(wanted, content, hashes):
                continue
            if size + len(content.data) > bounds.BLOB_PLAIN_BYTES:
                self._store_small(held)
                held, size = [], 0
            held.append((wanted, content, chunk))
            size += len(content.data)
        self._store_small(held)

    def whole(self, wanted: Wanted) -> None:
        """A file of at most ``WHOLE_BYTES``, without holes."""
        content = self._read(wanted, WHOLE_BYTES)
        if content is None:
            return
        data = memoryview(content.data)
        hashes = self._storing.block_hashes(data)
        other = self._has_other_content(wanted, hashes)
        if not other and self._taken_over(wanted, content, hashes):
            return
        extents, dense = self._storing.chunks(data, list(self.cutter.lengths(data, complete=True)), 0)
        if other:
            self._differs(wanted, dense=dense)
        self._fill(wanted, content, encode_extents(extents), hashes)

    def part(self, large: Large, part: Part) -> None:
        """A part of a file; the last work of a file to be done finishes it."""
        try:
            if part.data is None:
                count = -(-part.length // bounds.BLOCK_BYTES)
                hashes = self._zero_hash * (count - 1)
                tail = part.length - (count - 1) * bounds.BLOCK_BYTES
                hashes += blake3(bytes(tail), key=self._storing.key).digest(length=bounds.BLOCK_HASH_BYTES)
                extents = [
                    Extent(at, min(bounds.GIB, part.offset + part.length - at), 0, 0, 0, 0, 0, hole=True)
                    for at in range(part.offset, part.offset + part.length, bounds.GIB)
                ]
            elif part.blocks is not None:
                hashes = part.blocks.hashes
                extents = self._storing.mended(
                    large.wanted.found.path, part.offset, part.data, part.blocks, self.cutter
                )
                large.dense = False
                self._given(part.length)
            else:
                hashes = self._storing.block_hashes(part.hashed or memoryview(b""))
                extents, dense = self._storing.chunks(part.data, part.lengths, part.offset)
                large.dense = large.dense and dense
                self._given(part.length)
        finally:
            part.release()
        if large.map.piece(part.offset, part.length, extents, hashes):
            self._finish(large)

    def end(self, large: Large) -> None:
        """All parts of a file were given."""
        if large.map.vanish() if large.left_out else large.map.piece(0, 0, [], b""):
            self._finish(large)

    def _finish(self, large: Large) -> None:
        """All parts of a file are stored."""
        if large.abandoned:
            return
        if large.left_out:
            large.wanted.slot.leave_out()
            return
        wanted, pieces = large.wanted, [large.map.pieces[at] for at in sorted(large.map.pieces)]
        if self._has_other_content(wanted, b"".join(hashes for _, _, hashes in pieces)):
            self._differs(wanted, dense=large.dense and bool(pieces))
        entry = large.map.entry(self._table, self._run.packs.append, self._storing.find_span)
        if entry is None:
            raise RuntimeError(f"{wanted.found.path!r} was left out unawares")
        uses = list(uses_of(b"".join(extents for _, extents, _ in pieces), self._table))
        wanted.slot.fill(TabledEntry(replace(entry, extra=large.extra), self._table), uses=uses)

    @property
    def cutter(self) -> Cutter:
        """This thread's."""
        found: Cutter | None = getattr(self._local, "cutter", None)
        if found is None:
            found = self._local.cutter = Cutter(self._storing.key)
        return found

    def _read(self, wanted: Wanted, max_bytes: int) -> Content | None:
        """The content; ``None`` = the file is dealt with."""
        whole = max_bytes == WHOLE_BYTES
        try:
            content = read_whole(wanted.found, max_bytes, follow=self.follow, cut=whole)
        except Unreadable as error:
            self._findings.note(error.sort, wanted.found.path, error.why)
            wanted.slot.leave_out()
            return None
        if content is None:  # no small one any more
            self.whole(wanted)
            return None
        self._given(len(content.data))
        if not content.stable:
            self._findings.note("changed", wanted.found.path)
        return content

    def _store_small(self, held: Sequence[tuple[Wanted, Content, bytes]]) -> None:
        full = [(content, chunk) for _, content, chunk in held if chunk]
        extents = iter(self._storing.small([Small(content.data, chunk) for content, chunk in full]))
        for wanted, content, chunk in held:
            encoded = encode_extents([next(extents)]) if chunk else b""
            self._fill(wanted, content, encoded, chunk[: bounds.BLOCK_HASH_BYTES])

    def _taken_over(self, wanted: Wanted, content: Content, hashes: bytes) -> bool:
        """Fill the slot with the parent's extents of the same content, where they may be referred to."""
        before = wanted.before
        if before is None or before.entry.maps or not self._storing.may_take_over(before):
            return False
        entry = self._entry(wanted, content, before.entry.extents, hashes)
        wanted.slot.fill(TabledEntry(entry, before.table), taken_over=True)
        return True

    def _has_other_content(self, wanted: Wanted, hashes: bytes) -> bool:
        """Whether the parent has no file under this path, or one of other blocks."""
        before = wanted.before
        if before is None or before.entry.kind != FileKind.FILE or self._parent is None:
            return True
        known = before.entry.hashes
        if before.entry.maps:
            known = b"".join(hashes for _, _, hashes in self._parent.spans(before))
        return known != hashes

    def _differs(self, wanted: Wanted, *, dense: bool) -> None:
        """The content is not the one that the parent has."""
        before = wanted.before is not None and wanted.before.entry.kind == FileKind.FILE
        self.tally.note(before=before, dense=dense)
        if wanted.unchanged:
            self._findings.note("silent", wanted.found.path)

    def _fill(self, wanted: Wanted, content: Content, extents: bytes, hashes: bytes) -> None:
        wanted.slot.fill(TabledEntry(self._entry(wanted, content, extents, hashes), self._table))

    def _entry(self, wanted: Wanted, content: Content, extents: bytes, hashes: bytes) -> Entry:
        path, status = wanted.found.path, content.status
        mark = mark_of(status) if content.stable else b""
        xattrs = storable(path, content.xattrs, self._findings)
        return Entry(
            path, FileKind.FILE, status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns,
            len(content.data), extra=Attributes(mark, b"", xattrs).encode(), extents=extents, hashes=hashes,
        )  # fmt: skip

    def _given(self, length: int) -> None:
        with self._lock:
            self._counters.given_bytes += length


def large_file(wanted: Wanted, status: os.stat_result) -> Large:
    """A large file before its first part."""
    file = SourceFile(
        wanted.found.path, FileKind.FILE, status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns,
        status.st_size,
    )  # fmt: skip
    return Large(wanted, FileMap(file))
