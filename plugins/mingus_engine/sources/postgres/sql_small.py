"""Small files of transport ``sql``: a cluster has hundreds a database, so many are handled by one query.

Of each directory's small files one file of digests is kept (``mingus-origin/small/<directory>``): names, sizes and
SHA-256 cut to 16 bytes. The next backup has the server compute them again and takes over unread what is equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Iterator
from urllib.parse import quote_from_bytes

from mingus_engine.bounds import MIB, SLAB_BYTES
from mingus_engine.sources.base import Parent, SourceFile, Stretch, Stretches
from mingus_engine.sources.postgres.low_level import made_file
from mingus_engine.sources.postgres.sql_links import DataLinks, literal
from mingus_engine.sources.postgres.throttle import Throttle
from mingus_engine.sources.slabs import SlabItem, SlabPool

# A file of at most this size is small.
SMALL_BYTES = 128 * 1024
DIGESTS = b"mingus-origin/small/"
_BATCH_BYTES = MIB
_BATCH_FILES = 256
_RECORD = struct.Struct("<HQ16s")
_DIGEST_BYTES = 16

Known = dict[bytes, tuple[int, bytes]]


class KnownItem:
    """A small file that is not read: it has vanished, or is as the parent has it."""

    def __init__(self, file: SourceFile, *, kept: bool) -> None:
        self.file = file
        self.offset = 0
        self.length = file.size
        self.last = True
        self._kept = kept

    def read(self, scratch: memoryview) -> Stretches | None:  # noqa: ARG002 - the contract's signature
        """See ``sources.base.Item``."""
        return Stretches([Stretch(0, self.length, parent=True)]) if self._kept else None

    def release(self) -> None:
        """Nothing is held."""


Items = Iterator[SlabItem | KnownItem]


class SmallFiles:
    """Collects small files, directory by directory, and gives their items. For one thread.

    :param verify: verifies the pages of a file that was read (path, offset, data).
    :param parent: one that allows ranges, or ``None``.
    """

    def __init__(
        self,
        links: DataLinks,
        slabs: SlabPool,
        throttle: Throttle,
        verify: Callable[[bytes, int, memoryview], None],
        parent: Parent | None,
    ) -> None:
        self._links, self._slabs, self._throttle = links, slabs, throttle
        self._verify, self._parent = verify, parent
        self._directory: bytes | None = None
        self._known: Known = {}
        self._records = bytearray()
        self._batch: list[SourceFile] = []
        self._batch_bytes = 0

    def add(self, file: SourceFile) -> Items:
        """*file* belongs to the backup; the items that are due now.

        :raises SourceError: see ``DataLink.copy``. :raises ParentDamaged: see ``sources.base.Parent``.
        """
        directory = file.path.rpartition(b"/")[0]
        if directory != self._directory:
            yield from self.end()
            self._directory = directory
            self._known = self._of_parent(directory)
        elif len(self._batch) == _BATCH_FILES or self._batch_bytes + file.size > _BATCH_BYTES:
            yield from self._handle()
        self._batch.append(file)
        self._batch_bytes += file.size

    def end(self) -> Items:
        """The items of the rest of a directory, and of its digests."""
        yield from self._handle()
        if self._records and len(self._records) <= SLAB_BYTES:
            file, content = made_file(_digests_of(self._directory or b""), bytes(self._records))
            yield SlabItem(file, 0, memoryview(content), None, last=True)
        self._records = bytearray()

    def _handle(self) -> Items:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        kept = self._unchanged(batch)
        for number in kept:
            self._note(batch[number], self._known[batch[number].path][1])
            yield KnownItem(batch[number], kept=True)
        yield from self._fetched([file for number, file in enumerate(batch) if number not in kept])

    def _of_parent(self, directory: bytes) -> Known:
        known: Known = {}
        if self._parent is None:
            return known
        raw = b"".join(self._parent.content(_digests_of(directory)))
        at = 0
        while at + _RECORD.size <= len(raw):
            length, size, digest = _RECORD.unpack_from(raw, at)
            name = raw[at + _RECORD.size : at + _RECORD.size + length]
            known[directory + b"/" + name if directory else name] = size, digest
            at += _RECORD.size + length
        return known

    def _unchanged(self, batch: list[SourceFile]) -> set[int]:
        """Numbers of the files whose content is the parent's."""
        asked = [
            (number, file)
            for number, file in enumerate(batch)
            if file.path in self._known
            and self._known[file.path][0] == file.size
            and self._parent is not None
            and self._parent.size(file.path) == file.size
        ]
        if not asked:
            return set()
        query = (
            f"SELECT i, substring(sha256(pg_read_binary_file(p, 0, n, true)), 1, {_DIGEST_BYTES})"
            f" FROM (VALUES {_values(asked)}) v(i, p, n)"
        )
        with self._links.borrowed() as link:
            found = {
                int.from_bytes(number or b"", "big"): bytes(digest or b"")
                for number, digest in link.copy(query, f"comparing {len(asked)} small files")
            }
        return {number for number, file in asked if found.get(number) == self._known[file.path][1]}

    def _fetched(self, files: list[SourceFile]) -> Items:
        """One that became shorter has the size that it has now."""
        if not files:
            return
        self._throttle.take(sum(file.size for file in files))
        slab = self._slabs.take()
        try:
            query = (
                "SELECT i, pg_read_binary_file(p, 0, n, true)"
                f" FROM (VALUES {_values(list(enumerate(files)))}) v(i, p, n)"
            )
            found: list[tuple[SourceFile, memoryview | None]] = []
            with self._links.borrowed() as link:
                for number, data in link.copy(query, f"reading {len(files)} small files"):
                    file = files[int.from_bytes(number or b"", "big")]
                    if data is None:
                        found.append((file, None))
                        continue
                    begin, slab.used = slab.used, slab.used + len(data)
                    slab.data[begin : slab.used] = data
                    found.append((dataclasses.replace(file, size=len(data)), slab.data[begin : slab.used]))
            items: list[SlabItem | KnownItem] = []
            for file, content in found:
                if content is None:
                    items.append(KnownItem(file, kept=False))
                    continue
                self._verify(file.path, 0, content)
                self._note(file, hashlib.sha256(content).digest()[:_DIGEST_BYTES])
                items.append(SlabItem(file, 0, content, slab, last=True))
        finally:
            slab.drop()
        yield from items

    def _note(self, file: SourceFile, digest: bytes) -> None:
        name = file.path.rpartition(b"/")[2]
        self._records += _RECORD.pack(len(name), file.size, digest) + name


def _digests_of(directory: bytes) -> bytes:
    """Where the digests of a directory are kept; the data directory itself is ``%2F``."""
    return DIGESTS + quote_from_bytes(b"/" + directory, safe="").encode()


def _values(files: list[tuple[int, SourceFile]]) -> str:
    return ", ".join(f"({number}, {literal(file.path)}, {file.size}::bigint)" for number, file in files)
