"""A server whose write-ahead log is archived: an SQL session, a replication connection, and the archiver's slot."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from mingus_engine import lsn as lsns
from mingus_engine.checks import Check
from mingus_engine.errors import SourceBusy, SourceDenied, SourceError, SourceUnsupported
from mingus_engine.postgres import timelines
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import TimelineHistory
from mingus_engine.sources.postgres import slots
from mingus_engine.sources.postgres.connection import connect_sql, mapped, place
from mingus_engine.sources.postgres.facts import check_version
from mingus_engine.sources.postgres.slots import Slot
from mingus_engine.sources.postgres.wal import WalReceiver

_EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_FACTS = """
SELECT s.system_identifier, i.bytes_per_wal_segment, pg_is_in_recovery()
FROM pg_control_system() s, pg_control_init() i
"""
# The clock is read first: whatever a client was told is committed by then lies before the position that is read after.
_SAMPLE = """
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS t)
SELECT (extract(epoch FROM t - '2000-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint,
       pg_current_wal_flush_lsn()::text FROM clock
"""
# A standby's own clock says nothing of commits that it has not got yet: the time of the last one that it has does.
_STANDBY_SAMPLE = """
WITH clock AS MATERIALIZED (SELECT pg_last_xact_replay_timestamp() AS t)
SELECT coalesce((extract(epoch FROM t - '2000-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint, 0),
       pg_last_wal_replay_lsn()::text FROM clock
"""
# Transactional, so that its commit flushes it: a message outside waits for the WAL writer, which may nap.
_MARK = "SELECT pg_logical_emit_message(true, 'mingus', %s)::text"


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything committed before the server's clock showed *clock_us* (since 2000-01-01 UTC) lies before *flush*.

    ``clock_us`` 0 = not known.
    """

    clock_us: int = 0
    flush: int = 0

    @property
    def time(self) -> datetime | None:
        """The clock as a time."""
        return _EPOCH_2000 + timedelta(microseconds=self.clock_us) if self.clock_us else None


class WalSource:
    """Made for one stretch of archiving; ``close`` in every outcome.

    :ivar system_id, segment_bytes, version, standby: what the server is.
    :ivar timeline, flush: where it stood when asked.
    """

    def __init__(self, settings: SourceSettings, cancel: threading.Event) -> None:
        self.conn, self.slot_name = settings.connection, settings.wal_slot
        self._closing = contextlib.ExitStack()
        try:
            self.session = self._closing.enter_context(contextlib.closing(connect_sql(self.conn)))
            check_version(self.session, self.conn)
            with mapped(self.conn, "asking what the server is"):
                row = self.session.execute(_FACTS).fetchone() or (0, 0, False)
            self.system_id, self.segment_bytes = row[0] & 0xFFFFFFFFFFFFFFFF, row[1]
            self.standby: bool = row[2]
            self.version: int = self.session.info.server_version
            self.receiver = self._closing.enter_context(WalReceiver(self.conn, cancel))
            identity = self.receiver.identify()
            if identity.system_id != self.system_id:
                raise SourceUnsupported(
                    f"{place(self.conn)}: SQL reaches cluster {self.system_id},"
                    f" the replication protocol {identity.system_id}",
                    hint="connect to the server itself, not to a pooler or balancer",
                )
            self.timeline, self.flush = identity.timeline, identity.flush
        except BaseException:
            self._closing.close()
            raise

    def slot(self) -> Slot | None:
        """The archiver's slot as it is now."""
        return slots.read_slot(self.session, self.conn, self.slot_name)

    def ready_slot(self) -> tuple[Slot, str]:
        """The slot, made where it is missing and made anew where it is lost; and which of that was needed (or empty).

        :raises SourceBusy: another receiver has it. :raises SourceError: it cannot be made.
        """
        slot, done = self.slot(), ""
        if slot is not None and not slot.physical:
            raise SourceUnsupported(
                f'{place(self.conn)}: replication slot "{slot.name}" is not a physical one', hint="set wal.slot"
            )
        if slot is not None and slot.active_pid:
            raise SourceBusy(f'{place(self.conn)}: slot "{slot.name}" is active for PID {slot.active_pid}')
        if slot is not None and slot.lost:
            self.receiver.drop_slot(slot.name)
            slot, done = None, "lost"
        if slot is None:
            self.receiver.create_slot(self.slot_name)
            slot, done = self.slot(), done or "missing"
        if slot is None or not slot.restart:
            raise SourceError(f'{place(self.conn)}: slot "{self.slot_name}" was made and holds nothing')
        self.receiver.slot = slot.name
        return slot, done

    def checks(self) -> list[Check]:
        """What an administrator should know of the slot."""
        return list(slots.slot_checks(self.session, self.conn, self.slot_name))

    def histories(self) -> list[TimelineHistory]:
        """The history files of the server's timeline and, as far as it still has them, of those before; oldest first.

        :raises SourceError: it does not give the one of its own timeline.
        """
        if self.timeline == 1:
            return []
        own = self.receiver.history(self.timeline)
        found = [own]
        for step in timelines.path(self.timeline, own.content, own.filename)[:-1]:
            if step.timeline > 1:
                with contextlib.suppress(SourceError):
                    found.append(self.receiver.history(step.timeline))
        return sorted(found, key=lambda history: history.timeline)

    def sample(self) -> Sample:
        """A sample of now. :raises SourceError: the server did not answer."""
        with mapped(self.conn, "reading the clock and the flush position"):
            clock, flush = self.session.execute(_STANDBY_SAMPLE if self.standby else _SAMPLE).fetchone() or (0, None)
        return Sample(clock, lsns.parse(flush)) if flush else Sample()

    def mark(self, marker: str) -> int:
        """Write *marker* into the write-ahead log; the LSN behind the record that holds it. It is flushed.

        :raises SourceDenied: the role may not. :raises SourceError: it failed.
        """
        with mapped(self.conn, "writing a marker"):
            # A stuck synchronous standby must not stop archiving.
            self.session.execute("SET synchronous_commit = local")
            (text,) = self.session.execute(_MARK, (marker,)).fetchone() or ("",)
        if not text:
            raise SourceDenied(f"{place(self.conn)}: the marker was not written")
        return lsns.parse(text)

    def close(self) -> None:
        """End both connections; the slot stays. Idempotent."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
