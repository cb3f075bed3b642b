"""What a target is: it is prepared, takes entries and bytes from several threads, and is finished or abandoned.

Contract:

* ``prepare`` is called once and writes nothing when it raises.
* ``make_directory``, ``make_symlink`` and ``open_file`` may be called from any thread and in any order; a parent that
  is not there yet is made. A second entry with the same path is an error, except of a directory.
* One worker owns one :class:`FileWriter`: it writes in ascending offset order, leaving holes out, and calls ``close``,
  or ``abort`` when it cannot go on.
* ``open_present`` gives a file that is there already and may be mended, ``None`` where ``open_file`` is to be called.
* ``finish`` is called once, after every writer was closed; before it returned the restore is not complete.
* ``abandon`` may be called in every state, also after ``finish``, and removes the restore; idempotent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class EntryKind(enum.IntEnum):
    """Kinds of entries; the numbers are those of docs/FORMAT.md."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER_DEVICE = 5
    BLOCK_DEVICE = 6


class FileEntry(Protocol):
    """What a target must know of an entry; entries of manifests and of sources fit as they are.

    ``path`` and ``target`` are raw bytes, ``mode`` permission bits (07777), ``mtime_ns`` since 1970, maybe negative.
    """

    @property
    def path(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def target(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TargetFile:
    """An entry made by a target or a test itself; see :class:`FileEntry`."""

    path: bytes
    kind: int = EntryKind.FILE
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""


class FileWriter(Protocol):
    """One file in the making, owned by one thread."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write *data* at *offset*; what was left out since the last write reads as zeros.

        *data* must not change before the file is closed: a writer may write several pieces together, later.

        :raises Damaged: before the last write's end, or beyond the entry's size.
        :raises TargetError: the file system refused this or an earlier piece (TargetTooSmall: it is full).
        """

    def close(self) -> int:
        """Finish the file: size, owner, mode, time. Returns the CRC32C of its whole content, holes included.

        :raises TargetError: the file system refused.
        """

    def abort(self) -> None:
        """Give up; what was written stays until ``abandon``. Idempotent, also after ``close``."""


class PresentFile(FileWriter, Protocol):
    """A file that is there, to be brought to an entry's content in ascending order, by one thread."""

    def read(self, offset: int, length: int) -> bytes:
        """At most *length* bytes that it has at *offset*."""

    def keep(self, offset: int, data: bytes | memoryview) -> None:
        """What it has at *offset* is *data*, and stays.

        :raises Damaged: as ``write``.
        """


class Target(Protocol):
    """Where a restore goes; see the module."""

    def prepare(self, needed_bytes: Mapping[Path, int] | int, needed_files: int = 0) -> None: ...
    def make_directory(self, entry: FileEntry) -> None: ...
    def make_symlink(self, entry: FileEntry) -> None: ...
    def open_file(self, entry: FileEntry) -> FileWriter: ...
    def open_present(self, entry: FileEntry) -> PresentFile | None: ...
    def abandon(self) -> None: ...
