"""Backups between ``pg_backup_start`` and ``pg_backup_stop``: what the transports that read files themselves share.

Both functions must run in one session, which is watched: when the server ends it, the backup is broken at once, not at
its end. Source: PostgreSQL documentation "Making a Base Backup Using the Low Level API".
"""

from __future__ import annotations

import abc
import select
import time
from collections.abc import Sequence

import psycopg

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken
from mingus_engine.sources.base import FileKind, Finished, SourceFile
from mingus_engine.sources.postgres.backup import PostgresBackup
from mingus_engine.sources.postgres.connection import Session, cancellable, mapped, place
from mingus_engine.sources.postgres.findings import Findings
from mingus_engine.sources.postgres.throttle import Throttle
from mingus_engine.sources.postgres.verifying import PageChecks

# A look at the session wakes the workers' interpreter; thousands of small files need no look each.
_LOOK_S = 0.02
# Idle sessions are dropped by firewalls after minutes.
_KEEPALIVE_S = 30.0

MadeFile = tuple[SourceFile, bytes]


class LowLevelBackup(PostgresBackup):
    """See the module."""

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
        files = [made_file(b"backup_label", label), control]
        if row[2]:
            files.append(made_file(b"tablespace_map", row[2].encode()))
        return Finished(
            files=[*files, *self.configuration.files, *self._origin_files()],
            facts=self._facts(measured, before_stop=True),
            checks=[*self._findings.checks(), *self._checks(measured)],
        )

    # -- for the transports -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._prepare()
        wanted = self.settings.verify_page_checksums
        self._findings = Findings(wanted=wanted, enabled=self.server.checksums)
        self._pages = PageChecks(self._findings, self.cancel) if wanted and self.server.checksums else None
        self._throttle = Throttle(self.settings.max_rate_bytes_per_s, self.cancel)
        self._watched = time.monotonic()
        self._glanced = 0.0
        with mapped(self.conn, "starting the backup"), cancellable(self.session, self.cancel):
            row = self.session.execute("SELECT pg_backup_start(%s, true)::text", (self.label,)).fetchone()
        if row is None:
            raise self._ended_session()
        self.start_lsn = lsns.parse(row[0])

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Make sure that the files can be read, before the server does anything for the backup."""

    @abc.abstractmethod
    def _control_entry(self) -> MadeFile:
        """``global/pg_control`` as it is now."""

    def _origin_files(self) -> Sequence[MadeFile]:
        """What documents the origin of the backup (``mingus-origin/``)."""
        return ()

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


def made_file(path: bytes, content: bytes) -> MadeFile:
    """A file that was made just now."""
    return SourceFile(path, FileKind.FILE, 0o600, mtime_ns=time.time_ns(), size=len(content)), content


def _is_readable(session: Session) -> bool:
    """Something came from a server that was asked nothing: it says farewell."""
    poll = select.poll()
    poll.register(session.fileno(), select.POLLIN)
    return bool(poll.poll(0))
