"""The archiver's replication slot: what it says of itself, and what is worth a warning.

A slot makes the server keep WAL until it is archived, on its own disk: a dead archiver fills that disk until the
server stops, unless ``max_slot_wal_keep_size`` bounds it; then the server gives the slot up (``lost``) and WAL is
missing from the archive: a gap. Both are for people to know before it happens (TRAPS "PostgreSQL" 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.bounds import GIB, MIB
from mingus_engine.checks import Check
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.postgres.connection import Session, mapped

LOST = "lost"
# Server parameter of a slot without bound.
_UNBOUNDED = "-1"
_SLOT = """
SELECT slot_type, coalesce(restart_lsn::text, ''), coalesce(wal_status, ''), coalesce(active_pid, 0), safe_wal_size,
       current_setting('max_slot_wal_keep_size')
FROM pg_replication_slots WHERE slot_name = %s
"""
_LIMIT = "SELECT current_setting('max_slot_wal_keep_size')"


@dataclass(frozen=True)
class Slot:
    """A replication slot as the server shows it.

    :param restart: WAL from this LSN on is kept; 0 = none is. :param active_pid: of who reads through it, 0 = nobody.
    :param wal_status: ``reserved``, ``extended``, ``unreserved`` or ``lost`` (PostgreSQL: ``pg_replication_slots``).
    :param safe_bytes: how much more may be written before it is in danger; ``None`` = no bound.
    """

    name: str
    physical: bool
    restart: int
    wal_status: str
    active_pid: int
    safe_bytes: int | None
    keep_limit: str

    @property
    def lost(self) -> bool:
        """Whether the server gave it up."""
        return self.wal_status == LOST or not self.restart


def read_slot(session: Session, conn: PostgresConnection, name: str) -> Slot | None:
    """The slot *name*, if there is one.

    :raises SourceError: the server did not answer.
    """
    with mapped(conn, f'looking at replication slot "{name}"'):
        row = session.execute(_SLOT, (name,)).fetchone()
    if row is None:
        return None
    kind, restart, status, pid, safe, limit = row
    return Slot(name, kind == "physical", lsns.parse(restart) if restart else 0, status, pid, safe, limit)


def slot_checks(session: Session, conn: PostgresConnection, name: str) -> Iterator[Check]:
    """What an administrator should know of the slot *name*; ``ok`` = nothing to do."""
    slot = read_slot(session, conn, name)
    with mapped(conn, "asking for max_slot_wal_keep_size"):
        (limit,) = session.execute(_LIMIT).fetchone() or ("",)
    yield Check(
        "max_slot_wal_keep_size",
        True,
        "not set: when archiving stops, WAL fills the server's disk; half of its free space is a good value"
        if limit == _UNBOUNDED
        else f"{limit}: with so much WAL not archived the slot is given up and a gap begins",
        {"limit": limit, "bounded": limit != _UNBOUNDED},
    )
    if slot is None:
        yield Check("archiving slot", True, f'"{name}" is not there: made by the first `mingus wal archive`')
        return
    held = f"holds WAL from {lsns.text(slot.restart)}" if slot.restart else "holds nothing"
    said = {
        "extended": f'"{name}" {held}, more than max_wal_size: archiving lags behind',
        "unreserved": f'"{name}" {held} and is about to be lost: archive now, or raise max_slot_wal_keep_size',
        LOST: f'"{name}" is lost: WAL was removed before it was archived; the next archiving declares the gap',
    }.get(slot.wal_status, f'"{name}" {held}')
    if slot.safe_bytes is not None:
        shown = f"{slot.safe_bytes / GIB:.1f} GiB" if slot.safe_bytes >= GIB else f"{slot.safe_bytes // MIB} MiB"
        said = f"{said}; {shown} more are safe"
    ok = slot.physical and slot.wal_status in {"reserved", "extended"}
    yield Check("archiving slot", ok, said if slot.physical else f'"{name}" is not a physical slot', {
        "wal_status": slot.wal_status, "active_pid": slot.active_pid, "restart_lsn": lsns.text(slot.restart),
    })  # fmt: skip
