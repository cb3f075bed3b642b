"""Transport ``local``: the data directory is read in parallel between ``pg_backup_start`` and ``pg_backup_stop``.

Both must run in one session, which is watched: when the server ends it, the backup is broken at once, not at its end.
Source: PostgreSQL documentation "Making a Base Backup Using the Low Level API".

A page with a wrong checksum may be one that the server was just writing, so it is read again, several times. PostgreSQL
itself skips pages that are newer than the start of the backup; but garbage looks newer than anything. So whatever stays
wrong in five reads over half a second is reported: a write takes microseconds.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections.abc import Iterator

import psycopg

from mingus_engine import lsn as lsns
from mingus_engine.bounds import PAGE_BYTES, RELATION_SEGMENT_BLOCKS, SLAB_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.sources.base import FileKind, Finished, Item, SourceFile
from mingus_engine.sources.postgres import control_file, exclusions, tree
from mingus_engine.sources.postgres.backup import PostgresBackup
from mingus_engine.sources.postgres.connection import Session, cancellable, mapped, place
from mingus_engine.sources.postgres.data_directory import find_data_directory
from mingus_engine.sources.postgres.findings import Findings
from mingus_engine.sources.postgres.throttle import Throttle

# Pauses before each of the repeated reads of a page that does not verify.
_REREAD_PAUSES_S = (0.0, 0.01, 0.05, 0.15, 0.3)
# A disk full of bad pages must not take half a second each.
_PATIENT_FINDINGS = 200
# A look at the session wakes the workers' interpreter; thousands of small files need no look each.
_LOOK_S = 0.02
# Idle sessions are dropped by firewalls after minutes.
_KEEPALIVE_S = 30.0


class LocalItem:
    """A stretch of one file; read with ``preadv`` into the worker's own buffer."""

    __slots__ = ("_backup", "file", "last", "length", "offset")

    def __init__(self, backup: LocalBackup, file: SourceFile, offset: int, length: int, last: bool) -> None:
        self._backup = backup
        self.file = file
        self.offset = offset
        self.length = length
        self.last = last

    def read(self, scratch: memoryview) -> memoryview | None:
        """See ``sources.base.Item``."""
        return self._backup.read(self, scratch)

    def release(self) -> None:
        """Nothing to give back: the buffer is the worker's."""


class LocalBackup(PostgresBackup):
    """See the module."""

    transport = "local"

    def items(self) -> Iterator[Item]:
        """Items of all files but ``global/pg_control``, which ``finish`` gives."""
        for file in tree.walk(self._root, self.server.major, self.server.catalog):
            if file.kind != FileKind.FILE or not file.size:
                self._glance()
                yield LocalItem(self, file, 0, 0, True)
                continue
            for offset in range(0, file.size, SLAB_BYTES):
                self._glance()
                length = min(SLAB_BYTES, file.size - offset)
                yield LocalItem(self, file, offset, length, offset + length == file.size)

    def finish(self) -> Finished:
        """Measure, copy ``pg_control``, stop the backup."""
        self._watch()
        measured = self._measure()
        # Last of all files, as the documentation demands: what it says must not be older than what was copied.
        control = self._control_entry()
        try:
            row = self.session.execute("SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)").fetchone()
        except psycopg.Error as error:
            raise self._ended_session(error) from error
        if row is None:
            raise self._ended_session()
        self._stopped(lsns.parse(row[0]))
        label = row[1].encode()
        if b"\nSTART TIMELINE: %d\n" % self.timeline not in label:
            raise BackupBroken(f"{place(self.conn)}: backup_label does not say timeline {self.timeline}")
        files = [_made(b"backup_label", label), control]
        if row[2]:
            files.append(_made(b"tablespace_map", row[2].encode()))
        return Finished(
            files=[*files, *self.configuration.files],
            facts=self._facts(measured, before_stop=True),
            checks=[*self._findings.checks(), *self._checks(measured)],
        )

    def read(self, item: LocalItem, scratch: memoryview) -> memoryview | None:
        """Read and verify *item*; for :meth:`LocalItem.read`."""
        if not item.length:
            return scratch[:0]
        self._throttle.take(item.length)
        path = self._root_bytes + b"/" + item.file.path
        try:
            # Not through a link, not waiting at a FIFO: the file may have been replaced since it was listed.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = scratch[: _read_fully(handle, scratch[: item.length], item.offset)]
                if self._verify:
                    self._verify_pages(handle, item, data)
                return data
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise tree.read_error(os.fsdecode(path), error) from None

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._root = find_data_directory(self.settings, self.server, self.receiver.slot)
        self._root_bytes = os.fsencode(self._root)
        self._verify = self.settings.verify_page_checksums and self.server.checksums
        self._findings = Findings(wanted=self.settings.verify_page_checksums, enabled=self.server.checksums)
        self._throttle = Throttle(self.settings.max_rate_bytes_per_s, self.cancel)
        self._threads = threading.local()
        self._watched = time.monotonic()
        self._glanced = 0.0
        with mapped(self.conn, "starting the backup"), cancellable(self.session, self.cancel):
            row = self.session.execute("SELECT pg_backup_start(%s, true)::text", (self.label,)).fetchone()
        if row is None:
            raise self._ended_session()
        self.start_lsn = lsns.parse(row[0])

    # -- while reading ------------------------------------------------------------------------------------------------

    def _glance(self) -> None:
        """Watch now and then; cheap enough for every item."""
        now = time.monotonic()
        if now - self._glanced >= _LOOK_S:
            self._glanced = now
            self._watch()

    def _watch(self) -> None:
        """Notice that the session has ended, or that the job is to be cancelled."""
        self._checkpoint()
        now = time.monotonic()
        if now - self._watched < _KEEPALIVE_S and not _is_readable(self.session):
            return
        self._watched = now
        try:
            self.session.execute("SELECT 1")
        except psycopg.Error as error:
            raise self._ended_session(error) from error

    def _verify_pages(self, handle: int, item: LocalItem, data: memoryview) -> None:
        relation = exclusions.relation(item.file.path)
        if relation is None:
            return
        verifier = getattr(self._threads, "verifier", None)
        if verifier is None:
            from mingus_engine.sources.postgres.pages import PageVerifier  # numpy: only for who verifies

            verifier = self._threads.verifier = PageVerifier()
        first = relation.segment * RELATION_SEGMENT_BLOCKS + item.offset // PAGE_BYTES

        def still_bad(index: int) -> bool:
            page = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
            cut_off = _read_fully(handle, page, item.offset + index * PAGE_BYTES) < PAGE_BYTES
            return not cut_off and bool(verifier.bad_pages(page, first + index))

        bad = [page.index for page in verifier.bad_pages(data, first)]
        pauses = _REREAD_PAUSES_S if self._findings.count < _PATIENT_FINDINGS else _REREAD_PAUSES_S[:1]
        for pause in pauses:
            if not bad:
                break
            self.cancel.wait(pause)
            bad = list(filter(still_bad, bad))
        self._findings.verified(len(data) // PAGE_BYTES)
        for index in bad:
            self._findings.add(item.file.path, item.offset // PAGE_BYTES + index)

    def _control_entry(self) -> tuple[SourceFile, bytes]:
        content = control_file.read(self._root).content
        status = (self._root / control_file.PATH.decode()).stat()
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        return SourceFile(control_file.PATH, FileKind.FILE, mode, *owner, status.st_mtime_ns, len(content)), content


def _read_fully(handle: int, buffer: memoryview, offset: int) -> int:
    done = 0
    while done < len(buffer):
        count = os.preadv(handle, [buffer[done:]], offset + done)
        if not count:
            break
        done += count
    return done


def _is_readable(session: Session) -> bool:
    """Something came from a server that was asked nothing: it says farewell."""
    poll = select.poll()
    poll.register(session.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _made(path: bytes, content: bytes) -> tuple[SourceFile, bytes]:
    return SourceFile(path, FileKind.FILE, 0o600, mtime_ns=time.time_ns(), size=len(content)), content
