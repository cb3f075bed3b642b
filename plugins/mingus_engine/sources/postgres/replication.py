"""Transport ``replication``: the server sends everything by ``BASE_BACKUP``; no access to its files is needed.

Source: PostgreSQL documentation "Streaming Replication Protocol", ``backend/backup/basebackup_copy.c``; POSTGRES.md §1.
From 17 on it can send only what changed since the parent (``native``, ``increment``). The server verifies page
checksums while it reads. It warns of each bad page and, when all was sent, ends with the error ``data_corrupted``: the
backup is complete then and flagged, not lost.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from mingus_engine import lsn as lsns
from mingus_engine.bounds import MIB, PAGE_BYTES
from mingus_engine.errors import BackupBroken, SourceError, SourceUnsupported
from mingus_engine.postgres import backup_manifest
from mingus_engine.sources.base import Check, FileKind, Finished, Item, Parent, SourceFile
from mingus_engine.sources.postgres import native
from mingus_engine.sources.postgres.backup import PostgresBackup
from mingus_engine.sources.postgres.connection import connect_replication, place, server_error
from mingus_engine.sources.postgres.findings import Findings
from mingus_engine.sources.postgres.link import Rows, ServerFailure, take_over
from mingus_engine.sources.postgres.tar import ReadyItem, TarReader
from mingus_engine.sources.slabs import SlabItem, SlabPool

MANIFEST_PATH = b"mingus-origin/backup_manifest"
# About 110,000 files; a longer one is checked, but not kept: what a source makes itself is held in memory.
MANIFEST_KEPT_MAX_BYTES = 16 * MIB
# Slabs besides those that workers hold: one being filled, the others between reader and workers.
_SPARE_SLABS = 3
_DATA_CORRUPTED = "XX001"
# The server takes 32 KiB/s to 1 GiB/s.
_RATE_KIB = range(32, 1048576 + 1)
_BAD_PAGE = re.compile(r'"(?:\./)?([^"]+)"\D+(\d+)\D.*\b[0-9A-F]{1,4}\b.*\b[0-9A-F]{1,4}\b')
_BAD_TOTAL = re.compile(r"^(\d+) total checksum verification failure")
# "could not verify checksum in file …, block …: read buffer size 4096 and page size 8192 differ", in any language. The
# file ends within a page: a server was just extending or cutting it off. The rest of it is not verified, nor bad.
_CUT_PAGE = re.compile(rf"\b(\d{{1,5}})\D+{PAGE_BYTES}\b\D*$")
_NO_SCRATCH = memoryview(b"")
_TABLESPACE = re.compile(rb"([0-9]+)\.tar")


class ReplicationBackup(PostgresBackup):
    """See the module."""

    transport = "replication"
    _events: Iterator[Rows | memoryview]
    _manifest: gzip.GzipFile | None = None
    _end: Rows | None = None

    def items(self) -> Iterator[Item]:
        """Links of tablespaces, then items as the server sends them, ``global/pg_control`` last."""
        yield from self._links()
        try:
            for event in self._events:
                if isinstance(event, Rows):
                    self._end = event
                    continue
                kind = event[0]
                if kind == _DATA:
                    if self._manifest is None:
                        yield from self._merged(self._tar.feed(event[1:]))
                        while count := self._link.fill(self._tar.wanted):
                            yield from self._merged(self._tar.filled(count))
                    else:
                        self._manifest.write(event[1:])
                elif kind == _NEW_ARCHIVE:
                    self._tar.begin(_prefix(bytes(event[1:]).split(b"\0")[0]))
                elif kind == _MANIFEST:
                    self._tar.end()
                    self._manifest = gzip.GzipFile(fileobj=self._compressed, mode="wb", compresslevel=1)
        except ServerFailure as failure:
            if failure.sqlstate != _DATA_CORRUPTED or self._end is None:
                raise self._failed(failure) from None
            self._findings.note(failure.message)

    def expected_bytes(self) -> int:
        """The server's own estimate."""
        return self._expected

    def finish(self) -> Finished:
        """Check that everything arrived, then measure: the server stopped the backup by itself."""
        if self._end is None or self._manifest is None:
            raise BackupBroken(f"{place(self.conn)}: BASE_BACKUP has not ended")
        self._stopped(lsns.parse(_text(self._end, 0, 0)))
        if int(_text(self._end, 0, 1)) != self.timeline:
            raise BackupBroken(f"{place(self.conn)}: the backup ended on timeline {_text(self._end, 0, 1)}")
        self._manifest.close()
        files, manifest_check = self._check_manifest()
        measured = self._measure()
        return Finished(
            files=[*files, *self.configuration.files],
            facts=self._facts(measured, before_stop=False),
            checks=[*self._findings.checks(), manifest_check, *self._checks(measured)],
        )

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._refuse_in_place_tablespaces()
        verify = self.settings.verify_page_checksums
        self._findings = Findings(wanted=verify, enabled=self.server.checksums)
        self._pool = SlabPool(self.settings.workers + _SPARE_SLABS, self.cancel)
        self._received = _FileSet()
        self._compressed = io.BytesIO()
        link = self._link = take_over(connect_replication(self.conn), self.cancel, self._noticed)
        self._closing.callback(link.close)
        self._increment = self._upload_parent()
        try:
            start, spaces = self._begin()
        except ServerFailure as failure:
            # Before it sends anything the server has looked for its summaries.
            if self._increment is None or failure.sqlstate is None:
                raise self._failed(failure) from None
            self.notes.append(f"no increment of the server's own: {failure.message}")
            self._increment = None
            try:
                start, spaces = self._begin()
            except ServerFailure as again:
                raise self._failed(again) from None
        self.method = "the server's list of changed blocks" if self._increment is not None else self.method
        self._tar = TarReader(self._pool, self._member, self._increment.size if self._increment is not None else None)
        if not isinstance(start, Rows) or not isinstance(spaces, Rows):
            raise BackupBroken(f"{place(self.conn)}: BASE_BACKUP began with data")
        self.start_lsn, self.timeline = lsns.parse(_text(start, 0, 0)), int(_text(start, 0, 1))
        self._tablespaces = [(row[0], row[1]) for row in spaces.rows if row[0] and row[1]]
        self._expected = sum(int(row[2] or 0) for row in spaces.rows) * 1024

    def _begin(self) -> tuple[Rows | memoryview, Rows | memoryview]:
        settings = self.settings
        command = _command(
            self.label,
            verify=settings.verify_page_checksums,
            max_rate=settings.max_rate_bytes_per_s,
            increment=self._increment is not None,
        )
        self._events = self._link.run(command)
        return next(self._events), next(self._events)

    def _upload_parent(self) -> Parent | None:
        """The parent if the server can say what changed since, and was told of its files; else a note says why not."""
        parent = self.parent
        if parent is None or self.server.major < native.SINCE:
            return None
        why_not = ""
        if self.server.settings.get("summarize_wal") != "on":
            why_not = "summarize_wal is off"
        elif not parent.ranges_allowed:
            why_not = f"a pack of {parent.snapshot} may not be built on"
        elif not self.same_lifetime:
            why_not = f"the server was restarted since {parent.snapshot}"
        else:
            try:
                self._link.upload("UPLOAD_MANIFEST", native.parent_manifest(parent, self.server.major))
            except ServerFailure as failure:
                if failure.sqlstate is None:
                    raise self._failed(failure) from None
                why_not = failure.message
        if why_not:
            self.notes.append(f"no increment of the server's own: {why_not}")
        return None if why_not else parent

    def _refuse_in_place_tablespaces(self) -> None:
        """PostgreSQL 15 leaves them out of what it sends with a tablespace map, and its manifest agrees."""
        inside = [t["name"] for t in self.server.tablespaces if not str(t["location"]).startswith("/")]
        if inside and self.server.major == 15:
            raise SourceUnsupported(
                f"{place(self.conn)}: PostgreSQL 15 does not send the in-place tablespace {inside[0]}",
                hint="use the local transport, or move its tables to another tablespace",
            )

    # -- while reading ------------------------------------------------------------------------------------------------

    def _links(self) -> Iterator[Item]:
        """The server leaves the links out when it sends a ``tablespace_map``."""
        for oid, location in self._tablespaces:
            path = b"pg_tblspc/" + oid
            in_place = not location.startswith(b"/")  # allow_in_place_tablespaces
            kind = FileKind.DIRECTORY if in_place else FileKind.SYMLINK
            target = b"" if in_place else location
            yield SlabItem(SourceFile(path, kind, 0o700, target=target), 0, memoryview(b""), None, last=True)

    def _merged(self, ready: Sequence[ReadyItem]) -> Iterator[Item]:
        """Items as of a full backup: only the label of an increment differs."""
        for item in ready:
            if self._increment is not None and item.file.path == b"backup_label" and isinstance(item, SlabItem):
                label = native.full_label(bytes(item.read(_NO_SCRATCH) or b""), self._increment)
                item.release()
                file = replace(item.file, size=len(label))
                yield SlabItem(file, 0, memoryview(label), None, last=True)
            else:
                yield item

    def _member(self, file: SourceFile) -> None:
        if file.kind == FileKind.FILE:
            self._received.add(file.path, file.size)

    def _noticed(self, message: str) -> None:
        page, total, cut = _BAD_PAGE.search(message), _BAD_TOTAL.search(message), _CUT_PAGE.search(message)
        if cut and int(cut[1]) % PAGE_BYTES:
            self._findings.unverified(message)
        elif page:
            self._findings.add(page[1].encode(), int(page[2]))
        elif total:
            self._findings.total(int(total[1]))
        elif "checksum" in message:
            self._findings.note(message)

    def _failed(self, failure: ServerFailure) -> SourceError:
        return server_error(self.conn, failure.sqlstate, failure.message, "BASE_BACKUP")

    def _check_manifest(self) -> tuple[list[tuple[SourceFile, bytes]], Check]:
        """The server's list of files must be what arrived: nothing got lost between its disk and our items."""
        listed = _FileSet()
        self._compressed.seek(0)
        with gzip.GzipFile(fileobj=self._compressed, mode="rb") as stream:
            backup_manifest.scan(cast(BinaryIO, stream), lambda file: listed.add(file.path, file.size))
            size = stream.tell()
        if listed != self._received:
            raise BackupBroken(
                f"{place(self.conn)}: received {self._received.count} files of {self._received.size} bytes,"
                f" the server's backup_manifest lists {listed.count} of {listed.size} bytes"
            )
        check = Check("files as listed by the server", True, f"{listed.count} files", {"bytes": listed.size})
        if size > MANIFEST_KEPT_MAX_BYTES:
            return [], check
        content = gzip.decompress(self._compressed.getvalue())
        file = SourceFile(MANIFEST_PATH, FileKind.FILE, 0o600, mtime_ns=time.time_ns(), size=len(content))
        return [(file, content)], check


class _FileSet:
    """A set of (path, size), compared without holding it: the sum of digests of its members, and their number."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._sum = 0

    def add(self, path: bytes, size: int) -> None:
        digest = hashlib.blake2b(b"%d %s" % (size, path), digest_size=16).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % (1 << 128)
        self.count += 1
        self.size += size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FileSet) and (self.count, self._sum) == (other.count, other._sum)

    __hash__ = None  # type: ignore[assignment]


_DATA, _NEW_ARCHIVE, _MANIFEST = b"dnm"


def _command(label: str, *, verify: bool, max_rate: int, increment: bool = False) -> str:
    options = [
        f"LABEL {_quoted(label)}",
        "CHECKPOINT 'fast'",
        "WAIT 0",
        "PROGRESS",
        "MANIFEST 'yes'",
        "MANIFEST_CHECKSUMS 'CRC32C'",
        "TABLESPACE_MAP",
        f"VERIFY_CHECKSUMS {'true' if verify else 'false'}",
    ]
    if increment:
        options.append("INCREMENTAL")
    if max_rate and max_rate // 1024 < _RATE_KIB.stop:
        options.append(f"MAX_RATE {max(max_rate // 1024, _RATE_KIB.start)}")
    return f"BASE_BACKUP ({', '.join(options)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _prefix(archive: bytes) -> bytes:
    if archive == b"base.tar":
        return b""
    match = _TABLESPACE.fullmatch(archive)
    if match is None:
        raise BackupBroken(f"BASE_BACKUP sent an archive named {archive[:100]!r}")
    return b"pg_tblspc/" + match[1] + b"/"


def _text(rows: Rows, row: int, column: int) -> str:
    return (rows.rows[row][column] or b"").decode()
