"""A scanner of write-ahead log: where transactions ended, where restore points and timelines lie.

It reads bytes as they are stored, in any portions, and knows of each record only what its header says, but for those
that a recovery target can name. Formats: PostgreSQL 15 to 18 (``access/xlog_internal.h``, ``access/xlogrecord.h``,
``access/xact.h``), little-endian, pages of 8 KiB.

Records begin at multiples of 8, and go on behind the header of the next page. A record that a crash cut off is
overwritten: the next page says so. Behind XLOG_SWITCH the segment is empty. Hostile bytes end the scan; they never
make it read what is not there, and never more than ``RECORD_MAX_BYTES`` are kept.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mingus_engine.bounds import MIB, PAGE_BYTES

# XLOG_PAGE_MAGIC of each major version.
PAGE_MAGICS = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
# A commit of a million subtransactions has 4 MiB; PostgreSQL's own limit of a record is 1020 MiB.
RECORD_MAX_BYTES = 64 * MIB
_RECORD_LIMIT_BYTES = 1020 * MIB

_PAGE = struct.Struct("<HHIQI")
_SHORT_BYTES, _LONG_BYTES = 24, 40
_CONTINUES, _LONG, _OVERWRITES = 0x1, 0x2, 0x8
_RECORD = struct.Struct("<IIQBB")
_HEADER_BYTES, _INFO_AT = 24, 16

_XLOG, _XACT = 0, 1
_SWITCH, _RESTORE_POINT, _END_OF_RECOVERY = 0x40, 0x70, 0x90
_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED = 0x00, 0x20, 0x30, 0x40
_HAS_INFO = 0x80
_DBINFO, _SUBXACTS, _RELATIONS, _INVALIDATIONS, _TWO_PHASE, _STATISTICS = 0x1, 0x2, 0x4, 0x8, 0x10, 0x100
_U32, _TIME = struct.Struct("<I"), struct.Struct("<q")
_NAME_BYTES = 64


class EventKind(enum.Enum):
    """What happened."""

    COMMIT = "commit"
    ABORT = "abort"
    RESTORE_POINT = "restore point"
    PROMOTION = "promotion"


@dataclass(frozen=True, slots=True)
class Event:
    """A record that a recovery target can name, or that stops one.

    :param lsn: of its first byte. :param end: of the byte behind it. :param previous: of the record before.
    :param xid: top-level transaction, of a prepared one the prepared one's; 0 = none.
    :param time_us: microseconds since 2000-01-01 UTC, by the server's clock.
    :param name: of a restore point; of a promotion the new timeline.
    """

    kind: EventKind
    lsn: int
    end: int
    previous: int
    xid: int
    time_us: int
    name: str = ""


@dataclass
class WalScanner:
    """Fed with log from *start*, a multiple of the page size, without gaps.

    :param segment_bytes: size of a WAL segment. :param watch: an LSN whose record is asked for.
    :ivar last: LSN of the last whole record, ``None`` before the first. :ivar end: of the byte behind it.
    :ivar watched: the first record at or behind ``watch`` (LSN): where it begins, where it ends, the one before.
    :ivar ended: why nothing more can be read; empty as long as there is no reason.
    :ivar version: major version of PostgreSQL, 0 before the first page.
    """

    start: int
    segment_bytes: int
    watch: int | None = None
    watched: tuple[int, int, int] | None = None
    last: int | None = None
    end: int = 0
    ended: str = ""
    version: int = 0
    _at: int = field(init=False)
    _page: bytearray = field(init=False, default_factory=bytearray)
    # What of the log without page headers is still needed, where its pages begin, and the next record in it.
    _log: bytearray = field(init=False, default_factory=bytearray)
    _pages: list[tuple[int, int]] = field(init=False, default_factory=list)
    _next: int = field(init=False, default=0)
    _skipped: tuple[int, int] | None = field(init=False, default=None)
    _empty_to: int = field(init=False, default=0)
    _synchronised: bool = field(init=False, default=False)
    _previous: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.start % PAGE_BYTES:
            raise ValueError(f"a scan begins with a page, not at {self.start:X}")
        self._at = self.start

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The next bytes of the log; what was found in them, in order."""
        found: list[Event] = []
        self._page += data
        whole = len(self._page) // PAGE_BYTES * PAGE_BYTES
        for offset in range(0, whole, PAGE_BYTES):
            if self.ended:
                break
            self._take_page(offset, found)
        if not self.ended:
            self._records(found)
        del self._page[:whole]
        return found

    def finish(self) -> list[Event]:
        """No more comes: what is found in a last page that is not whole."""
        found: list[Event] = []
        if self._page and not self.ended:
            rest = len(self._page)
            self._page += bytes(PAGE_BYTES - rest)
            if rest >= _LONG_BYTES:
                self._take_page(0, found, upto=rest)
                self._records(found)
            self._page.clear()
        return found

    def _take_page(self, offset: int, found: list[Event], upto: int = PAGE_BYTES) -> None:
        at, self._at = self._at, self._at + PAGE_BYTES
        if at < self._empty_to:
            return
        magic, info, _, address, rest_bytes = _PAGE.unpack_from(self._page, offset)
        long = at % self.segment_bytes == 0
        if magic == address == 0 and not self._synchronised:
            # A scan that begins behind an XLOG_SWITCH: the log goes on with the next segment.
            self._empty_to = (at // self.segment_bytes + 1) * self.segment_bytes
            return
        if magic not in PAGE_MAGICS or address != at or bool(info & _LONG) != long:
            self._records(found)
            if not self.ended and at >= self._empty_to:
                self.ended = f"there is no page of log at {at:X}"
            return
        self.version = PAGE_MAGICS[magic]
        if info & _OVERWRITES or not self._synchronised:
            self._records(found)
            skip_bytes = -(-rest_bytes // 8) * 8 if info & _CONTINUES else 0
            self._restart(skip_bytes)
            # Where nothing but a record's rest is on a page, the next page says again how much is left.
            self._synchronised = skip_bytes < PAGE_BYTES - (_LONG_BYTES if long else _SHORT_BYTES)
        else:
            if len(self._log) >= MIB:
                self._records(found)
            if at < self._empty_to or self.ended:
                return
        header = _LONG_BYTES if long else _SHORT_BYTES
        self._pages.append((len(self._log), at + header))
        self._log += memoryview(self._page)[offset + header : offset + upto]

    def _restart(self, skip_bytes: int) -> None:
        self._log.clear()
        self._pages.clear()
        self._next, self._skipped, self._previous = skip_bytes, None, None

    def _records(self, found: list[Event]) -> None:
        """Go through the records that are there as a whole; forget them."""
        log, here = self._log, 0
        size = len(log)
        while True:
            at = self._next
            if self._skipped is not None and at <= size:
                self._took(*self._skipped, self._lsn(at, here))
                self._skipped = None
            if size - at < _HEADER_BYTES:
                break
            total, xid, previous, info, manager = _RECORD.unpack_from(log, at)
            while here + 1 < len(self._pages) and self._pages[here + 1][0] <= at:
                here += 1
            lsn = self._pages[here][1] + at - self._pages[here][0]
            follows = previous < lsn if self._previous is None else previous == self._previous
            if not _HEADER_BYTES <= total <= _RECORD_LIMIT_BYTES or not follows:
                self.ended = f"there is no record at {lsn:X}"
                break
            operation = _operation(manager, info) if manager <= _XACT else None
            if at + total > size and operation is not None and total <= RECORD_MAX_BYTES:
                break  # its content is needed: wait for the rest
            self._next, self._previous = at + total + -total % 8, lsn
            if at + total > size:
                self._skipped = lsn, previous
                continue
            end = self._lsn(at + total, here)
            self._took(lsn, previous, end + -end % 8)
            if operation == (_XLOG, _SWITCH):
                self._empty_to = -(-end // self.segment_bytes) * self.segment_bytes
                self._restart(0)
                self._previous = lsn
                return
            if operation is not None:
                self._event(operation, xid, previous, bytes(log[at : at + total]), found)
        self._forget(min(self._next, size))

    def _took(self, lsn: int, previous: int, end: int) -> None:
        self.last, self.end = lsn, end
        if self.watch is not None and self.watched is None and lsn >= self.watch:
            self.watched = lsn, end, previous

    def _lsn(self, position: int, here: int) -> int:
        """The LSN behind the byte before *position* of the kept log."""
        while here + 1 < len(self._pages) and self._pages[here + 1][0] < position:
            here += 1
        return self._pages[here][1] + position - self._pages[here][0]

    def _forget(self, size: int) -> None:
        """Drop the first *size* bytes of the kept log."""
        del self._log[:size]
        self._next -= size
        kept = [(position - size, lsn) for position, lsn in self._pages]
        while len(kept) > 1 and kept[1][0] <= 0:
            del kept[0]
        self._pages = kept

    def _event(self, operation: tuple[int, int], xid: int, previous: int, record: bytes, found: list[Event]) -> None:
        lsn, kind, name = self.last or 0, _KINDS[operation], ""
        try:
            data = _main_data(record)
            (time_us,) = _TIME.unpack_from(data)
            if kind is EventKind.RESTORE_POINT:
                name = data[8 : 8 + _NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")
            elif kind is EventKind.PROMOTION:
                name = str(_U32.unpack_from(data, 8)[0])
            elif operation[1] in (_COMMIT_PREPARED, _ABORT_PREPARED):
                commit = operation[1] == _COMMIT_PREPARED
                xid = (self._prepared(data, commit=commit) if record[_INFO_AT] & _HAS_INFO else 0) or xid
        except (struct.error, IndexError):
            self.ended = f"the record at {lsn:X} is not well-formed"
            return
        found.append(Event(kind, lsn, self.end, previous, xid, time_us, name))

    def _prepared(self, data: bytes, *, commit: bool) -> int:
        """The transaction that a COMMIT PREPARED or ROLLBACK PREPARED is about (``ParseCommitRecord``)."""
        (flags,) = _U32.unpack_from(data, 8)
        at = 12
        if flags & _DBINFO:
            at += 8
        statistics_bytes = 16 if self.version >= 18 else 12
        for flag, item_bytes in ((_SUBXACTS, 4), (_RELATIONS, 12), (_STATISTICS, statistics_bytes)):
            if flags & flag:
                at += 4 + _U32.unpack_from(data, at)[0] * item_bytes
        if commit and flags & _INVALIDATIONS:
            at += 4 + _U32.unpack_from(data, at)[0] * 16
        return int(_U32.unpack_from(data, at)[0]) if flags & _TWO_PHASE else 0


_KINDS = {
    (_XACT, _COMMIT): EventKind.COMMIT,
    (_XACT, _COMMIT_PREPARED): EventKind.COMMIT,
    (_XACT, _ABORT): EventKind.ABORT,
    (_XACT, _ABORT_PREPARED): EventKind.ABORT,
    (_XLOG, _RESTORE_POINT): EventKind.RESTORE_POINT,
    (_XLOG, _END_OF_RECOVERY): EventKind.PROMOTION,
}


def _operation(manager: int, info: int) -> tuple[int, int] | None:
    """Manager and operation of a record whose content is needed."""
    key = manager, info & (0x70 if manager == _XACT else 0xF0)
    return key if key in _KINDS or key == (_XLOG, _SWITCH) else None


def _main_data(record: bytes) -> bytes:
    """The part of a record without references to blocks that is its own."""
    at = _HEADER_BYTES
    while True:
        part = record[at]
        if part == 255:  # XLR_BLOCK_ID_DATA_SHORT
            return record[at + 2 : at + 2 + record[at + 1]]
        if part == 254:  # XLR_BLOCK_ID_DATA_LONG
            return record[at + 5 : at + 5 + _U32.unpack_from(record, at + 1)[0]]
        if part == 253:  # XLR_BLOCK_ID_ORIGIN
            at += 3
        elif part == 252:  # XLR_BLOCK_ID_TOPLEVEL_XID
            at += 5
        else:
            raise IndexError("a reference to a block")


def scan(scanner: WalScanner, chunks: Iterable[bytes]) -> Iterator[Event]:
    """Everything that *scanner* finds in *chunks*; it ends with them or with the log."""
    for chunk in chunks:
        yield from scanner.feed(chunk)
        if scanner.ended:
            return
    yield from scanner.finish()
