"""The tar stream of ``BASE_BACKUP``, turned into items as it comes.

Source: ``src/port/tar.c``, ``backend/backup/basebackup.c``. PostgreSQL writes plain ustar headers: regular files,
directories, and links in ``pg_tblspc``; sizes of 8 GiB and more as base-256 numbers; names of at most 100 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.postgres.increment import PREFIX, IncrementMember, Room, StretchItem
from mingus_engine.sources.slabs import Slab, SlabItem, SlabPool

_BLOCK = 512
_KINDS = {b"0": FileKind.FILE, b"\0": FileKind.FILE, b"2": FileKind.SYMLINK, b"5": FileKind.DIRECTORY}
_NOTHING = memoryview(b"")


#: An item whose bytes are there already.
ReadyItem: TypeAlias = SlabItem | StretchItem
#: Size of the file at a path in the parent, which the server sends an increment over.
ParentSize = Callable[[bytes], int | None]


class _PlainMember:
    """The contents of one file, a slab at a time."""

    def __init__(self, file: SourceFile, room: Room) -> None:
        self._file, self._room = file, room
        self._offset = 0
        self._target, self._slab = room(min(file.size, SLAB_BYTES))

    def aim(self) -> memoryview:
        return self._target

    def complete(self) -> list[SlabItem]:
        end = self._offset + len(self._target)
        last = end == self._file.size
        item = SlabItem(self._file, self._offset, self._target, self._slab, last=last)
        self._offset = end
        # The slab must be held by the item before the next one is taken, maybe from the same memory.
        self._target, self._slab = (
            (_NOTHING, self._slab) if last else self._room(min(self._file.size - end, SLAB_BYTES))
        )
        return [item]


class TarReader:
    """Takes the bytes of one archive after the other. Not thread-safe.

    :param on_member: called with each complete header.
    :param parent_size: of an incremental backup; ``None`` = no increments are expected.
    """

    def __init__(
        self, pool: SlabPool, on_member: Callable[[SourceFile], None], parent_size: ParentSize | None = None
    ) -> None:
        self._pool = pool
        self._on_member = on_member
        self._parent_size = parent_size
        self._prefix = b""
        self._header = bytearray()
        self._member: _PlainMember | IncrementMember | None = None
        self._target = _NOTHING  # where the member's next bytes go
        self._filled = 0
        self._padding = self._padding_next = 0
        self._ended = True
        self._slab: Slab | None = None

    def begin(self, prefix: bytes) -> None:
        """The next archive begins; *prefix* is put before its members' names.

        :raises BackupBroken: the one before is incomplete.
        """
        self.end()
        self._prefix = prefix
        self._ended = False

    def end(self) -> None:
        """No more bytes come.

        :raises BackupBroken: the archive is cut.
        """
        if self._member is not None or self._padding or self._header:
            raise _wrong("ends inside a file")
        if self._slab is not None:
            self._slab.drop()
            self._slab = None

    def feed(self, data: memoryview) -> list[ReadyItem]:
        """Take the next bytes; returns the items that became complete.

        :raises BackupBroken: this is not a tar archive of PostgreSQL. :raises Cancelled: while waiting for a slab.
        """
        ready: list[ReadyItem] = []
        position, size = 0, len(data)
        while position < size:
            if self._member is not None:
                count = min(len(self._target) - self._filled, size - position)
                self._target[self._filled : self._filled + count] = data[position : position + count]
                position += count
                ready += self.filled(count)
            elif self._padding:
                count = min(self._padding, size - position)
                self._padding -= count
                position += count
            else:
                count = min(_BLOCK - len(self._header), size - position)
                self._header += data[position : position + count]
                position += count
                if len(self._header) == _BLOCK:
                    self._begin_member(bytes(self._header), ready)
                    self._header.clear()
        return ready

    @property
    def wanted(self) -> memoryview:
        """Where the next bytes belong when they are contents of a file; else empty."""
        return self._target[self._filled :] if self._member is not None else _NOTHING

    def filled(self, count: int) -> Sequence[ReadyItem]:
        """The first *count* bytes of :attr:`wanted` are there; returns the items that became complete."""
        self._filled += count
        if self._member is None or self._filled < len(self._target):
            return ()
        ready = self._member.complete()
        self._target, self._filled = self._member.aim(), 0
        if not self._target:
            self._member, self._padding = None, self._padding_next
        return ready

    def _begin_member(self, header: bytes, ready: list[ReadyItem]) -> None:
        if not any(header):
            self._ended = True
            return
        if self._ended:
            raise _wrong("goes on after its end")
        file = _parse(header, self._prefix)
        self._on_member(file)
        if file.kind != FileKind.FILE or not file.size:
            ready.append(SlabItem(file, 0, _NOTHING, None, last=True))
            return
        self._padding_next = -file.size % _BLOCK
        self._member = self._increment(file) or _PlainMember(file, self._room)
        self._target, self._filled = self._member.aim(), 0

    def _increment(self, file: SourceFile) -> IncrementMember | None:
        folder, slash, name = file.path.rpartition(b"/")
        if self._parent_size is None or not name.startswith(PREFIX):
            return None
        path = folder + slash + name.removeprefix(PREFIX)
        parent_bytes = self._parent_size(path)
        if parent_bytes is None:
            raise BackupBroken(f"the server sent an increment of {path[:200]!r}, which the parent does not have")
        return IncrementMember(replace(file, path=path), parent_bytes, self._room)

    def _room(self, length: int) -> tuple[memoryview, Slab]:
        """Memory for *length* bytes: of the rest of a slab if they fit, else of a new one."""
        if self._slab is None or self._slab.free < length:
            if self._slab is not None:
                self._slab.drop()
                self._slab = None
            self._slab = self._pool.take()
        begin = self._slab.used
        self._slab.used = begin + length
        return self._slab.data[begin : begin + length], self._slab


def _parse(header: bytes, prefix: bytes) -> SourceFile:
    stated = _number(header[148:156])
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _wrong("has a header with a wrong checksum")
    name = _text(header[:100])
    if header[257:262] == b"ustar" and header[345]:
        name = _text(header[345:500]) + b"/" + name
    name = name.removeprefix(b"./").rstrip(b"/")
    kind = _KINDS.get(header[156:157])
    if kind is None or any(part in {b"", b".", b".."} for part in name.split(b"/")):
        raise _wrong(f"has a member of an unexpected kind or name: {name[:200]!r}")
    return SourceFile(
        path=prefix + name,
        kind=kind,
        mode=_number(header[100:108]) & 0o7777,
        uid=_number(header[108:116]),
        gid=_number(header[116:124]),
        mtime_ns=_number(header[136:148]) * 10**9,
        size=_number(header[124:136]) if kind == FileKind.FILE else 0,
        target=_text(header[157:257]) if kind == FileKind.SYMLINK else b"",
    )


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise _wrong("has a header with a field that is no number") from None


def _wrong(what: str) -> BackupBroken:
    return BackupBroken(f"the tar stream of BASE_BACKUP {what}")
