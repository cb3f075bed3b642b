"""Names in a data directory that a restore treats specially, and why."""

from __future__ import annotations

from mingus_engine.targets.base import FileEntry, TargetFile

# Without it no server starts: the last file of a restore.
CONTROL = b"global/pg_control"
# Without it a server starts and silently has wrong rows (TRAPS.md "PostgreSQL" 1): required.
LABEL = b"backup_label"
MAP = b"tablespace_map"
MANIFEST = b"backup_manifest"
VERSION = b"PG_VERSION"
AUTO = b"postgresql.auto.conf"
# Configuration that lay outside the data directory is stored under this prefix and restored beside the directory.
OUTSIDE = b"mingus-config"
# Kept to document the origin. In a data directory it would be taken for the origin of the next backup.
ORIGIN = b"mingus-origin"
TABLESPACES = b"pg_tblspc"
# Of the server that was backed up; here they would make the server a standby, or belong to a dead process. Its
# backup_manifest is replaced by one over the bytes that are really written.
LEFT_OUT = frozenset({b"standby.signal", b"recovery.signal", b"postmaster.pid", b"postmaster.opts", MANIFEST})
# pg_control is 8 KiB; a line of a tablespace map has at most some 1,050 bytes; a label some 300.
CONTROL_MAX_BYTES = 64 * 1024
MAP_MAX_BYTES = 4 * 1024 * 1024
LABEL_MAX_BYTES = 8 * 1024
AUTO_MAX_BYTES = 4 * 1024 * 1024


def tablespace_link(oid: int) -> bytes:
    """Path of a tablespace's link."""
    return b"%s/%d" % (TABLESPACES, oid)


def wal_directories(version: int) -> tuple[bytes, ...]:
    """Directories of WAL, whose content no backup has but which the server wants to find."""
    summaries = (b"pg_wal/summaries",) if version >= 17 else ()
    return (b"pg_wal", b"pg_wal/archive_status", *summaries)


def below_outside(entry: FileEntry) -> TargetFile:
    """An entry under OUTSIDE as an entry of the directory that holds those; the prefix alone has an empty path."""
    return TargetFile(
        path=entry.path.partition(b"/")[2],
        kind=entry.kind,
        mode=entry.mode & 0o777,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        target=entry.target,
    )
