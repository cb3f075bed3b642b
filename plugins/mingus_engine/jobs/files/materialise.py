"""Writing the entries of a snapshot of files into a tree: large files first, at last other names of files."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.materialise import Written
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.small_files import contents, together
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.files.tree import TreeTarget
from mingus_engine.targets.writer import DiskWriter

_QUEUE_GROUPS = 8
# A thread that makes a small file lets go of the interpreter at each of its calls, and would get it back only after the
# 5 ms that another one may compute: 200,000 small files took 14 s so, 11 s with this.
_SWITCH_S = 0.0005


#: What a worker thread does.
Work: TypeAlias = Callable[[], None]


class _Shared:
    """A large file that several threads write; its ``writer`` is closed by the one that does the last of its parts."""

    def __init__(self, writer: DiskWriter, parts: int) -> None:
        self.writer = writer
        self._left, self._lock = parts, threading.Lock()

    def is_last(self) -> bool:
        """A part is done; whether it was the last one."""
        with self._lock:
            self._left -= 1
            return not self._left

    def abort(self) -> None:
        """Let go of it, if it is not closed."""
        self.writer.abort()


class TreeMaterialiser:
    """See the module. Memory does not grow with the number of files.

    :param entries: gives what is restored, in path order; default: everything.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        target: TreeTarget,
        context: JobContext,
        total_bytes: int,
        entries: Callable[[], Iterator[TabledEntry]] | None = None,
    ) -> None:
        self._reader, self._target, self._context, self._total = reader, target, context, total_bytes
        self._entries = entries or reader.files
        self._lock = threading.Lock()
        self._links = False
        self._shared: list[_Shared] = []
        self.written = Written()

    def run(self, large: Sequence[TabledEntry], workers: int) -> Written:
        """Everything, by *workers* threads.

        :param large: the files with maps of their own: written first, so that no worker is left alone with one.
        :raises Damaged: what is stored is not what was backed up. :raises TargetError: :raises Cancelled:
        """
        crew: Crew[Work] = Crew(
            "restore", lambda: lambda work: work(), cancel=self._context.cancel, queue_items=_QUEUE_GROUPS
        )
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, _SWITCH_S))
        try:
            crew.run(self._works(large), workers)
        finally:
            sys.setswitchinterval(interval)
            for shared in self._shared:
                shared.abort()
        if self._links:
            self._make_links()
        return self.written

    def _works(self, large: Sequence[TabledEntry]) -> Iterator[Work]:
        """Work for others; a directory comes before what is in it, and is made before that is given away."""
        for file in sorted(large, key=lambda file: -file.entry.size):
            yield from self._large(file)
        for group in together(self._reader.expected(self._small())):
            self._context.checkpoint()
            yield partial(self._write, group)

    def _large(self, file: TabledEntry) -> Iterator[Work]:
        """A large file: all workers write it, each another 64 MiB."""
        spans = self._reader.spans_of(file)
        if spans < 2:
            yield partial(self._write_large, file)
            return
        shared = _Shared(self._target.open_file(file.entry), spans)
        self._shared.append(shared)
        for number in range(spans):
            self._context.checkpoint()
            yield partial(self._write_span, file, number, shared)

    def _small(self) -> Iterator[TabledEntry]:
        """Files without maps; what has no content is made on the way."""
        for file in self._entries():
            entry = file.entry
            if entry.kind == FileKind.DIRECTORY:
                self._target.make_directory(entry)
            elif entry.kind == FileKind.SYMLINK:
                self._target.make_symlink(entry)
            elif entry.kind != FileKind.FILE:
                self._target.make_special(entry)
            elif link_of(entry):
                self._links = True
            elif not entry.maps:
                yield file

    def _write(self, group: list[TabledEntry]) -> None:
        if len(group) == 1:
            self._write_large(group[0])
            return
        size = 0
        for file, pieces in contents(self._reader, group):
            self._target.write_small(file.entry, pieces)
            size += file.entry.size
        self._count(len(group), size, group[-1].entry.path)

    def _write_large(self, file: TabledEntry) -> None:
        writer = self._target.open_file(file.entry)
        try:
            for offset, data, length in self._reader.data(file):
                self._context.checkpoint()
                if data is not None:
                    writer.write(offset, data)
                self._count(0, length, file.entry.path)
            writer.close()
        finally:
            writer.abort()
        self._count(1, 0, file.entry.path)

    def _write_span(self, file: TabledEntry, number: int, shared: _Shared) -> None:
        for offset, data, length in self._reader.span_data(file, number):
            self._context.checkpoint()
            if data is not None:
                shared.writer.place(offset, data)
            self._count(0, length, file.entry.path)
        if shared.is_last():
            shared.writer.close()
            self._count(1, 0, file.entry.path)

    def _make_links(self) -> None:
        """Other names of files. The first of them may not be of this restore: then this one is written, and becomes the
        first for those that follow.
        """
        instead: dict[bytes, bytes] = {}
        for file in self._entries():
            entry = file.entry
            first = link_of(entry) if entry.kind == FileKind.FILE else b""
            if not first:
                continue
            self._context.checkpoint()
            if not self._target.make_link(entry, instead.get(first, first)):
                self._write_large(file)
                instead[first] = entry.path
            else:
                self._count(1, 0, entry.path)

    def _count(self, files: int, size: int, path: bytes) -> None:
        with self._lock:
            self.written.files += files
            self.written.bytes += size
            done = self.written.bytes
        self._context.progress("restore", done, self._total, path.decode("utf-8", "replace"))


def link_of(entry: Entry) -> bytes:
    """The path of which *entry* is another name; nothing if it is none."""
    if not attributes.has_more(entry.extra):
        return b""
    return attributes.decode(entry.extra, entry.path.decode("utf-8", "replace")).link
