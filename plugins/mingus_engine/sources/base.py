"""What a source is: it opens a backup, which yields work items and, at the end, what was learnt.

The pipeline (``mingus_engine.jobs.pipeline``) hands each item to a worker thread, which calls ``read``, hashes,
compresses, seals and appends. A source therefore keeps one thing in mind: bytes of which file, which range.
No source knows repositories, keys or packs.

Contract (``tests/contracts/test_source.py``):

* ``items`` yields the items of a file in ascending, gapless offset order, ``last`` on the final one; an empty file,
  a directory or a link is one item of length 0 with ``last``. Items of different files may interleave.
* The iterator is consumed by one thread; ``read`` is called exactly once per item, by any worker thread, maybe after
  later items were yielded. An iterator that owns buffers must bound how many are outstanding by itself
  (``Item.release`` is called when the worker is done with an item).
* With a parent (:class:`Parent`) that allows ranges, ``read`` may give :class:`Stretches`: bytes that are new, zeros,
  and ranges that are as the parent has them, which nobody reads or sends. It says so only of a file that
  ``Parent.size`` knows, of bytes within that size, and only if it is certain: nothing compares them again.
* ``finish`` is called once, after every item was read; it raises when the source did not complete.
* ``close`` is called in every outcome, also after an error or a kill request, and leaves nothing on the source
  (no backup mode, no slot). It is idempotent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

# Re-exported: sources and targets, which do not know each other, report in the same type.
from mingus_engine.checks import Check as Check  # noqa: PLC0414


class FileKind(enum.IntEnum):
    """Kinds of entries; the numbers are bytes on disk (docs/FORMAT.md)."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER_DEVICE = 5
    BLOCK_DEVICE = 6


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, directory or link as the source saw it.

    :param path: relative to the source's root, ``/``-separated raw bytes; tablespaces under ``pg_tblspc/<oid>/``.
    :param mode: permission bits (07777). :param mtime_ns: since 1970, may be negative.
    :param size: bytes promised; the items of the file cover exactly this much.
    :param target: of a symbolic link, raw bytes.
    """

    path: bytes
    kind: FileKind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""


class Stretch(NamedTuple):
    """Bytes ``offset`` to ``offset + length`` of a file, the offset counted in the file.

    ``data``: these bytes, ``length`` of them. ``None``: as in the parent if ``parent``, else zeros.
    """

    offset: int
    length: int
    data: memoryview | None = None
    parent: bool = False


@dataclass(frozen=True, slots=True)
class Stretches:
    """What an item's range consists of, gapless and ascending from the item's offset; any granularity.

    Fewer bytes than the item's length = the file ends earlier now, as with plain bytes.
    """

    stretches: Sequence[Stretch]

    @property
    def length(self) -> int:
        """Bytes together."""
        return sum(stretch.length for stretch in self.stretches)

    @property
    def read_bytes(self) -> int:
        """Bytes that the source gave."""
        return sum(len(stretch.data) for stretch in self.stretches if stretch.data is not None)


class Parent(Protocol):
    """The snapshot of the same source that an incremental backup builds on. May be used by any thread.

    Every method may fetch from a repository.

    :raises ParentDamaged: it turned out not to be whole; the backup cannot go on.
    """

    @property
    def snapshot(self) -> str:
        """Its ULID."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its own backup found out (``Finished.facts``)."""

    @property
    def ranges_allowed(self) -> bool:
        """Whether ranges of it may be taken over unread (``Stretch.parent``); else only blocks that are compared."""

    def size(self, path: bytes) -> int | None:
        """Bytes of the file *path*, ``None`` = it has no such file."""

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Path and size of every file, in order of their paths."""

    def content(self, path: bytes) -> Iterator[bytes]:
        """The content of the file *path* in pieces of at most ``bounds.BLOB_PLAIN_MAX_BYTES``; nothing if there is
        none.
        """


#: Given the facts of a source that is about to be backed up, the parent to build on; ``None`` = all is stored again.
ChooseParent = Callable[[Mapping[str, Any]], Parent | None]


def no_parent(facts: Mapping[str, Any]) -> Parent | None:  # noqa: ARG001 - a ChooseParent
    """For a full backup."""
    return None


class Item(Protocol):
    """One piece of work: ``length`` bytes (at most ``bounds.SLAB_BYTES``) of ``file`` from ``offset``."""

    @property
    def file(self) -> SourceFile: ...
    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def last(self) -> bool: ...

    def read(self, scratch: memoryview) -> memoryview | Stretches | None:
        """The item's bytes: *scratch* (``SLAB_BYTES`` long) filled and cut, or a buffer of its own; or stretches.

        Pages were verified where that is asked for (findings are kept by the source for ``finish``).
        Fewer bytes than ``length`` = the file ends earlier now (the rest is a hole that reads as nothing:
        the entry's size is cut to what was read). ``None`` = the file has vanished and is left out.
        """

    def release(self) -> None:
        """The worker is done with the bytes; idempotent."""


@dataclass(frozen=True)
class Finished:
    """What the source says at the end.

    :param files: small files that the source itself made (``backup_label``, ``tablespace_map``, configuration outside
        the data directory), path → (meta, content).
    :param facts: JSON-able facts for the manifest. :param checks: findings.
    """

    files: Sequence[tuple[SourceFile, bytes]]
    facts: Mapping[str, Any]
    checks: Sequence[Check]


class Backup(Protocol):
    """One running backup of a source."""

    def items(self) -> Iterator[Item]: ...

    def expected_bytes(self) -> int:
        """Estimate of the bytes that ``items`` will cover, for progress; 0 = unknown."""

    def finish(self) -> Finished: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class WalPiece:
    """A stretch of write-ahead log. ``start`` is the LSN of its first byte.

    Pieces of one timeline come in order without gaps. ``server_clock_us`` (since 2000-01-01 UTC) and ``flush`` are the
    newest sample of the server's clock and flush LSN at the time.
    """

    timeline: int
    start: int
    data: memoryview
    server_clock_us: int
    flush: int


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """A ``.history`` file as the server gave it."""

    timeline: int
    filename: str
    content: bytes
