"""What the backups of all transports have in common: sessions, slot, write-ahead log, facts and invariants."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol, Self

import psycopg

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken, Cancelled, SourceUnsupported
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import (
    Check,
    ChooseParent,
    Finished,
    Item,
    TimelineHistory,
    WalPiece,
    no_parent,
)
from mingus_engine.sources.postgres import invariants
from mingus_engine.sources.postgres.configuration import read_configuration
from mingus_engine.sources.postgres.connection import connect_sql, mapped, place
from mingus_engine.sources.postgres.facts import read_facts
from mingus_engine.sources.postgres.wal import TimelineSwitch, WalReceiver

# BASE_BACKUP and pg_backup_start refuse a label that does not fit a path (MAXPGPATH).
LABEL_MAX_BYTES = 1023


class BackupWal(Protocol):
    """Where a backup's WAL comes from: ``WalReceiver``, or the files of ``pg_wal``. See there."""

    @property
    def slot(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def switch(self) -> TimelineSwitch | None: ...
    def history(self, timeline: int) -> TimelineHistory: ...
    def stop_at(self, lsn: int) -> None: ...
    def confirm(self, lsn: int) -> None: ...
    def stream(self, start: int, timeline: int) -> Iterator[WalPiece]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class PostgresBackup(abc.ABC):
    """One running backup of a PostgreSQL cluster; a ``sources.base.Backup`` that also hands out its WAL.

    Making one connects, reserves WAL in a temporary slot and starts the backup (a fast checkpoint). ``wal`` is for one
    thread of its own, while ``items`` are read; it ends by itself after ``finish``. Not for use after ``close``.

    :ivar start_lsn, timeline: where recovery from this backup begins.
    :ivar method: how an incremental finds out what changed. :ivar notes: why not by another way.
    :ivar parent: what an incremental builds on, ``None`` = a full backup.
    :ivar stop_lsn: where it is consistent; 0 until ``finish``.
    """

    transport: str
    method = "compared blocks"

    def __init__(
        self,
        settings: SourceSettings,
        *,
        label: str,
        cancel: threading.Event,
        choose_parent: ChooseParent = no_parent,
    ) -> None:
        if len(label.encode()) > LABEL_MAX_BYTES or "\n" in label or "\r" in label:
            raise BackupBroken(f"a backup label must be one line of at most {LABEL_MAX_BYTES} bytes", hint="")
        self.settings = settings
        self.conn = settings.connection
        self.label = label
        self.cancel = cancel
        self.notes: list[str] = []
        self.start_lsn = self.stop_lsn = self.timeline = 0
        self._closing = contextlib.ExitStack()
        try:
            self.session = self._closing.enter_context(contextlib.closing(connect_sql(self.conn)))
            self.server = read_facts(self.session, self.conn)
            self.receiver = self._closing.enter_context(self._open_wal())
            self.postmaster_started = self._postmaster_started()
            self.parent = choose_parent(self._identity())
            self.configuration = read_configuration(self.session, self.server, local=self.transport == "local")
            self.started_at = datetime.now(UTC)
            self._start()
            self._started = invariants.moment(self.session, self.conn)
        except BaseException:
            self._closing.close()
            raise

    @property
    def system_id(self) -> int:
        """Identifies the cluster and its physical copies."""
        return self.server.system_id

    @property
    def wal_segment_bytes(self) -> int:
        """1 MiB to 1 GiB."""
        return self.server.wal_segment_bytes

    def expected_bytes(self) -> int:
        """What the databases hold, as far as the role may ask."""
        return self.server.database_bytes

    @abc.abstractmethod
    def items(self) -> Iterator[Item]:
        """See ``sources.base.Backup``."""

    @abc.abstractmethod
    def finish(self) -> Finished:
        """See ``sources.base.Backup``.

        :raises BackupBroken: the server did not complete the backup.
        """

    def wal(self) -> Iterator[WalPiece | TimelineHistory]:
        """The history of a timeline above 1, then WAL from the start of the segment that holds ``start_lsn``.

        It ends when ``finish`` has learnt the stop LSN and everything before that was yielded; the last piece may
        reach beyond it.

        :raises BackupBroken: WAL is missing, the timeline changed, the connection broke. :raises Cancelled: on request.
        """
        if self.timeline > 1:
            yield self.receiver.history(self.timeline)
        for piece in self.receiver.stream(lsns.segment_start(self.start_lsn, self.wal_segment_bytes), self.timeline):
            # A standby's clock says nothing of commits that have not reached it.
            yield dataclasses.replace(piece, server_clock_us=0, flush=0) if self.server.standby else piece
        if self.receiver.switch is not None and not 0 < self.stop_lsn <= self.receiver.position:
            raise BackupBroken(
                f"{place(self.conn)}: changed to timeline {self.receiver.switch.timeline} during the backup"
            )

    def close(self) -> None:
        """End all connections, and with them the slot and backup mode; idempotent."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for the transports -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _start(self) -> None:
        """Start the backup; sets ``start_lsn`` and ``timeline``."""

    def _checkpoint(self) -> None:
        if self.cancel.is_set():
            raise Cancelled("the backup was cancelled")

    def _measure(self) -> list[invariants.Measured]:
        return invariants.evaluate(self.conn, self.settings.predicates, self.settings.measurements, self.cancel)

    def _stopped(self, stop_lsn: int) -> None:
        self.stop_lsn = stop_lsn
        self.stopped_at = datetime.now(UTC)
        self.receiver.stop_at(stop_lsn)

    @property
    def same_lifetime(self) -> bool:
        """Whether the server has run without a restart since the parent was taken, on one timeline.

        Only then is its history the one that the parent was taken from: an older copy put in its place, with the same
        identifier and timeline, is not told apart by any LSN. Who takes over anything unread needs this.
        """
        if self.parent is None:
            return False
        facts = self.parent.facts
        return (facts.get("postmaster_started"), facts.get("timeline")) == (self.postmaster_started, self.timeline)

    def _identity(self) -> dict[str, Any]:
        """Facts that the choice of a parent depends on; ``position`` is the newest LSN."""
        return {
            **self.server.as_facts(),
            "timeline": self.timeline,
            "position": self._position,
            "postmaster_started": self.postmaster_started,
        }

    def _postmaster_started(self) -> str:
        with mapped(self.conn, "asking when the server was started"):
            row = self.session.execute("SELECT extract(epoch FROM pg_postmaster_start_time())::text").fetchone()
        return str(row[0]) if row else ""

    def _facts(self, measured: list[invariants.Measured], *, before_stop: bool) -> dict[str, Any]:
        return {
            **self.server.as_facts(),
            "transport": self.transport,
            "postmaster_started": self.postmaster_started,
            "label": self.label,
            "timeline": self.timeline,
            "start_lsn": lsns.text(self.start_lsn),
            "stop_lsn": lsns.text(self.stop_lsn),
            "started_at": self.started_at.isoformat(),
            "stopped_at": self.stopped_at.isoformat(),
            "configuration": self.configuration.as_facts(),
            "invariants": [m.as_facts(m.after if before_stop else self._started) for m in measured],
        }

    def _checks(self, measured: list[invariants.Measured]) -> list[Check]:
        return list(invariants.checks(measured))

    def _open_wal(self) -> BackupWal:
        """Where the WAL comes from, reserved from now on; sets ``timeline``."""
        receiver = WalReceiver(self.conn, self.cancel)
        try:
            self._reserve_wal(receiver)
        except BaseException:
            receiver.close()
            raise
        return receiver

    def _reserve_wal(self, receiver: WalReceiver) -> None:
        identity = receiver.identify()
        if identity.system_id != self.server.system_id:
            raise SourceUnsupported(
                f"{place(self.conn)}: SQL reaches cluster {self.server.system_id},"
                f" the replication protocol {identity.system_id}",
                hint="connect to the server itself, not to a pooler or balancer",
            )
        self.timeline, self._position = identity.timeline, identity.flush
        receiver.create_temporary_slot(f"mingus_{secrets.token_hex(8)}")

    def _ended_session(self, error: psycopg.Error | None = None) -> BackupBroken:
        what = f": {' '.join(str(error).split())}" if error else ""
        return BackupBroken(f"{place(self.conn)}: the session that holds the backup has ended{what}")
