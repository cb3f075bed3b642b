"""``mingus check SOURCE``: would a backup of this source succeed, and is what it needs there?

Nothing is changed on the server but a temporary slot and, on a primary, one logical message in the write-ahead log
(which no one reads but us). Every check is made even if another failed, as far as that is possible.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mingus_engine import lsn as lsns
from mingus_engine.bounds import GIB
from mingus_engine.errors import Cancelled, SourceError
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import Check
from mingus_engine.sources.postgres import invariants
from mingus_engine.sources.postgres.backup import BackupWal
from mingus_engine.sources.postgres.connection import Session, connect_sql, mapped
from mingus_engine.sources.postgres.data_directory import find_data_directory
from mingus_engine.sources.postgres.facts import ServerFacts, read_facts
from mingus_engine.sources.postgres.slots import slot_checks
from mingus_engine.sources.postgres.sql_links import DataLinks, server_instance
from mingus_engine.sources.postgres.sql_tree import SqlTree
from mingus_engine.sources.postgres.sql_wal import FileWal
from mingus_engine.sources.postgres.tree import walk
from mingus_engine.sources.postgres.wal import WalReceiver

ROUND_TRIP_TIMEOUT_S = 15.0
# WAL that is written during a backup stays on the server; less free space than this is asking for trouble.
SPACE_MIN_BYTES = GIB
_LOCAL_FUNCTIONS = ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
_FUNCTIONS = {
    "local": _LOCAL_FUNCTIONS,
    "replication": (),
    "sql": (
        *_LOCAL_FUNCTIONS,
        "pg_read_binary_file(text, bigint, bigint, boolean)",
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
    ),
}
_ROLE = (
    "SELECT rolsuper, rolreplication, pg_has_role('pg_read_all_settings', 'USAGE')"
    " FROM pg_roles WHERE rolname = current_user"
)
_EXECUTE = "SELECT f FROM unnest(%s::text[]) f WHERE NOT has_function_privilege(current_user, f, 'EXECUTE')"
_USED = "SELECT (SELECT count(*) FROM pg_stat_replication), (SELECT count(*) FROM pg_replication_slots)"
_EMIT = "SELECT pg_logical_emit_message(true, 'mingus', %s)::text"


def check_source(settings: SourceSettings, cancel: threading.Event) -> Iterator[Check]:
    """Check after check, as they are made.

    :raises SourceUnreachable, SourceDenied, SourceUnsupported: no session, so nothing can be checked.
    """
    conn = settings.connection
    with contextlib.closing(connect_sql(conn)) as session:
        server = read_facts(session, conn)
        standby = ", a standby" if server.standby else ""
        yield Check("connection", True, f"PostgreSQL {server.version}{standby}, cluster {server.system_id}")
        rights = _Rights.of(session, settings)
        yield from rights.checks(settings)
        yield from _settings(session, settings, server, rights)
        yield _checksums(settings, server)
        if settings.wal.scheduled:
            yield from slot_checks(session, conn, settings.wal_slot)
        readable = True
        if settings.transport == "sql":
            files = _over_sql(session, settings, server)
            readable = files.ok
            yield files
        if rights.may_replicate or settings.transport != "sql":
            yield from _over_replication(session, settings, server)
        elif readable:
            yield _over_files(session, settings, server)
        yield from _invariants(settings, cancel)


@dataclass(frozen=True)
class _Rights:
    """What the role may do. ``missing``: functions that it may not call."""

    superuser: bool
    replication: bool
    reads_settings: bool
    missing: list[str]

    @classmethod
    def of(cls, session: Session, settings: SourceSettings) -> _Rights:
        with mapped(settings.connection, "asking for the role's rights"):
            row = session.execute(_ROLE).fetchone() or (False, False, False)
            functions = list(_FUNCTIONS[settings.transport])
            missing = [name for (name,) in session.execute(_EXECUTE, (functions,)).fetchall()]
        superuser, replication, reads_settings = row
        return cls(superuser, replication, reads_settings, missing)

    @property
    def may_replicate(self) -> bool:
        return self.superuser or self.replication

    def checks(self, settings: SourceSettings) -> Iterator[Check]:
        """Each missing right as the statement that gives it."""
        user, transport = settings.connection.user, settings.transport
        grant = f'ALTER ROLE "{user}" REPLICATION'
        if self.may_replicate:
            yield Check("right to replicate", True, "superuser" if self.superuser else "REPLICATION")
        elif transport == "sql":
            detail = f"none: no slot keeps write-ahead log for a backup, which fails if it is too slow for it; {grant}"
            yield Check("right to replicate", True, detail)
        else:
            yield Check("right to replicate", False, f"missing: {grant}")
        if _FUNCTIONS[transport]:
            grants = "; ".join(f'GRANT EXECUTE ON FUNCTION {name} TO "{user}"' for name in self.missing)
            detail = f"EXECUTE on {len(_FUNCTIONS[transport])} functions"
            if self.missing:  # rights on functions are kept in each database
                detail = f"missing: {grants} (in database {settings.connection.dbname})"
            yield Check("right to back up", not self.missing, detail)
        if transport == "sql":
            detail = "pg_read_all_settings"
            if not self.reads_settings:
                detail = (
                    "not all: whether configuration lies outside the data directory stays unknown;"
                    f' GRANT pg_read_all_settings TO "{user}"'
                )
            yield Check("right to read settings", True, detail)


def _settings(session: Session, settings: SourceSettings, server: ServerFacts, rights: _Rights) -> Iterator[Check]:
    level = server.settings.get("wal_level", "")
    yield Check("wal_level", level in {"replica", "logical"}, f"{level}; must be replica or logical")
    if settings.transport == "sql" and not rights.may_replicate:
        return
    with mapped(settings.connection, "counting senders and slots"):
        senders, slots = session.execute(_USED).fetchone() or (0, 0)
    needed = 2 if settings.transport == "replication" else 1
    for name, used, wanted in (("max_wal_senders", senders, needed), ("max_replication_slots", slots, 1)):
        limit = int(server.settings.get(name, "0"))
        yield Check(name, limit - used >= wanted, f"{used} of {limit} in use, a backup needs {wanted}")


def _checksums(settings: SourceSettings, server: ServerFacts) -> Check:
    if server.checksums:
        detail = "on" if settings.verify_page_checksums else "on, but verify_page_checksums is off"
    else:
        detail = "off: damaged pages cannot be noticed while reading (pg_checksums --enable)"
    return Check("data checksums", True, detail, {"enabled": server.checksums})


def _over_replication(session: Session, settings: SourceSettings, server: ServerFacts) -> Iterator[Check]:
    """What needs a slot: a slot, the data directory (it must hold our slot), a round trip of WAL."""
    conn, ended = settings.connection, threading.Event()
    try:
        receiver = WalReceiver(conn, ended)
    except SourceError as error:
        yield Check("replication connection", False, error.message)
        return
    with receiver:
        yield Check("replication connection", True, f"timeline {receiver.identify().timeline}")
        name = f"mingus_{secrets.token_hex(8)}"
        made = _attempt("temporary slot", lambda: receiver.create_temporary_slot(name), "can be made")
        yield made
        if not made.ok:
            return
        if settings.transport == "local":
            yield from _data_directory(settings, server, name)
        identity = receiver.identify()
        yield _round_trip(session, settings, server, receiver, ended, timeline=identity.timeline, flush=identity.flush)


def _over_sql(session: Session, settings: SourceSettings, server: ServerFacts) -> Check:
    """As many connections as a backup makes; every directory is listed, one file is read."""
    conn = settings.connection
    try:
        links = DataLinks(conn, settings.sql_connections, threading.Event(), server_instance(session, conn))
        with contextlib.closing(links):
            files = sum(1 for _ in SqlTree(links, server).walk())
            with links.borrowed() as link:
                link.read(b"PG_VERSION", 0, memoryview(bytearray(8)))
    except SourceError as error:
        return Check("data directory", False, error.message)
    return Check("data directory", True, f"readable over {settings.sql_connections} connections, {files} entries")


def _over_files(session: Session, settings: SourceSettings, server: ServerFacts) -> Check:
    """A round trip of WAL without a slot."""
    conn, ended = settings.connection, threading.Event()
    try:
        wal = FileWal(conn, server, ended, server_instance(session, conn))
    except SourceError as error:
        return Check("WAL round trip", False, error.message)
    with wal:
        return _round_trip(session, settings, server, wal, ended, timeline=wal.timeline, flush=wal.flush)


def _data_directory(settings: SourceSettings, server: ServerFacts, slot: str) -> Iterator[Check]:
    try:
        root = find_data_directory(settings, server, slot)
        # Every directory is opened; that files can be read shows one of them.
        files = sum(1 for _ in walk(root, server.major, server.catalog))
    except SourceError as error:
        yield Check("data directory", False, error.message)
        return
    try:
        (root / "PG_VERSION").read_bytes()
    except OSError as error:
        yield Check("data directory", False, f"cannot read {root / 'PG_VERSION'}: {error.strerror}")
        return
    yield Check("data directory", True, f"{root} is the server's and readable, {files} entries")
    yield _space(root)


def _space(root: Path) -> Check:
    status = os.statvfs(root / "pg_wal")
    free = status.f_bavail * status.f_frsize
    detail = f"{free / GIB:.1f} GiB free for WAL that is written during a backup"
    return Check("space on the server", free >= SPACE_MIN_BYTES, detail, {"free_bytes": free})


def _round_trip(
    session: Session,
    settings: SourceSettings,
    server: ServerFacts,
    receiver: BackupWal,
    ended: threading.Event,
    *,
    timeline: int,
    flush: int,
) -> Check:
    timer = threading.Timer(ROUND_TRIP_TIMEOUT_S, ended.set)
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    try:
        marker = secrets.token_hex(8).encode()
        if server.standby:
            target = flush
        else:
            with mapped(settings.connection, "writing a logical message"):
                # A stuck synchronous standby is not what is checked here.
                session.execute("SET synchronous_commit = local")
                (text,) = session.execute(_EMIT, (marker.decode(),)).fetchone() or ("0/0",)
            target = lsns.parse(text)
        receiver.stop_at(target)
        seen, tail = False, b""
        start = lsns.segment_start(flush, server.wal_segment_bytes)
        for piece in receiver.stream(start, timeline):
            tail = tail[-len(marker) :] + bytes(piece.data)
            seen = seen or marker in tail
        took = f"{(time.monotonic() - began) * 1000:.0f} ms"
    except SourceError as error:
        return Check("WAL round trip", False, error.message)
    except Cancelled:
        return Check("WAL round trip", False, f"nothing came back within {ROUND_TRIP_TIMEOUT_S:.0f} s")
    finally:
        timer.cancel()
    if server.standby:
        return Check("WAL round trip", True, f"read up to {lsns.text(target)} in {took}; a standby takes no message")
    # A page header may lie across the marker; then its position alone tells.
    return Check("WAL round trip", True, f"a message {'came back' if seen else 'was passed'} in {took}", {"seen": seen})


def _invariants(settings: SourceSettings, cancel: threading.Event) -> Iterator[Check]:
    if not settings.predicates and not settings.measurements:
        return
    try:
        measured = invariants.evaluate(settings.connection, settings.predicates, settings.measurements, cancel)
    except SourceError as error:
        yield Check("invariants", False, error.message)
        return
    yield from invariants.checks(measured)


def _attempt(name: str, deed: Callable[[], object], done: str) -> Check:
    try:
        deed()
    except SourceError as error:
        return Check(name, False, f"{error.message}; {error.hint}" if error.hint else error.message)
    return Check(name, True, done)
