"""PostgreSQL 15 to 18 as a source: full backups that are crash-safe copies plus the WAL that makes them consistent.

Words: *start LSN* where recovery begins, *stop LSN* before which the copy is not consistent, *slot* what keeps the
server from removing WAL in between, *item* a stretch of a file, *piece* a stretch of WAL, *finding* a bad page.

What happens: (1) an SQL session asks for facts; (2) a replication connection makes a temporary slot, so no WAL from
here on is lost; (3) the backup starts with a fast checkpoint; (4) files are read while the server works, so they are
torn and of different moments, which replay mends; (5) the invariants are measured; (6) the backup stops and says its
stop LSN; (7) WAL is streamed until that was reached. Transports differ in (3), (4) and (6): ``local`` reads the data
directory between ``pg_backup_start`` and ``pg_backup_stop``, ``sql`` does so by the server's own file functions,
``replication`` lets ``BASE_BACKUP`` send it. A role without the right to replicate, which only ``sql`` accepts, has no
slot: WAL is then read from the files of ``pg_wal`` while the backup runs.

All give the same files: those of ``pg_basebackup`` without WAL, links of tablespaces as ``pg_tblspc/<oid>`` with their
contents below, ``backup_label`` and ``tablespace_map`` as the server made them, configuration from outside the data
directory under ``mingus-config/``, and what only documents the origin under ``mingus-origin/``.

Not promised: a copy that starts without its ``backup_label`` and WAL; the contents of unlogged and temporary tables;
statistics; that a page with a right checksum has the right contents (restore tests look for that).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import ChooseParent, no_parent

if TYPE_CHECKING:
    from mingus_engine.sources.postgres.backup import PostgresBackup


def open_backup(
    settings: SourceSettings, *, label: str, cancel: threading.Event, choose_parent: ChooseParent = no_parent
) -> PostgresBackup:
    """Start a backup by the transport of the settings; close it in every outcome.

    :param label: one line, in ``backup_label`` and the server's log.
    :param cancel: ends whatever is under way soon after it is set.
    :param choose_parent: asked once, with the facts of the server, before the backup starts.
    :raises SourceUnreachable, SourceDenied, SourceUnsupported, BackupBroken, Cancelled: nothing was started.
    """
    # Imported here: a restore needs LSNs of this package, but neither psycopg nor numpy, which take 0.4 s and 30 MB.
    if settings.transport == "replication":
        from mingus_engine.sources.postgres.replication import ReplicationBackup

        return ReplicationBackup(settings, label=label, cancel=cancel, choose_parent=choose_parent)
    if settings.transport == "sql":
        from mingus_engine.sources.postgres.sql import SqlBackup

        return SqlBackup(settings, label=label, cancel=cancel, choose_parent=choose_parent)
    from mingus_engine.sources.postgres.local import LocalBackup

    return LocalBackup(settings, label=label, cancel=cancel, choose_parent=choose_parent)
