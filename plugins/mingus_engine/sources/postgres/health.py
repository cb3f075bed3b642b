"""A cheap look at a PostgreSQL server for the probe: one login and two statements; nothing is changed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from mingus_engine import lsn as lsns
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.postgres.connection import connect_sql, mapped
from mingus_engine.sources.postgres.slots import Slot, read_slot

# On a standby the newest record that arrived; its timeline is that of the last restart point.
_STANDING = """
SELECT clock_timestamp(), s.system_identifier, c.timeline_id,
       CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END::text
FROM pg_control_system() s, pg_control_checkpoint() c
"""


@dataclass(frozen=True)
class PostgresHealth:
    """What the server says. :param offset_s: its clock minus ours. :param slot: of the archiver; ``None`` = none."""

    offset_s: float
    system_id: int
    timeline: int
    flush: int
    slot: Slot | None

    @property
    def retained_bytes(self) -> int:
        """Log that the slot keeps."""
        return max(0, self.flush - self.slot.restart) if self.slot is not None and self.slot.restart else 0


def look(settings: SourceSettings) -> PostgresHealth:
    """:raises SourceError: it cannot be asked."""
    conn = settings.connection
    with contextlib.closing(connect_sql(conn)) as session:
        with mapped(conn, "asking where it stands"):
            before = datetime.now(UTC)
            row = session.execute(_STANDING).fetchone() or (before, 0, 0, None)
            middle = before + (datetime.now(UTC) - before) / 2
        slot = read_slot(session, conn, settings.wal_slot) if settings.wal.scheduled else None
    clock, system_id, timeline, flush = row
    return PostgresHealth(
        (clock - middle).total_seconds(),
        system_id & 0xFFFFFFFFFFFFFFFF,
        timeline,
        lsns.parse(flush) if flush else 0,
        slot,
    )
