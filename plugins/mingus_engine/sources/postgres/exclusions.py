"""What a base backup leaves out: the rules of PostgreSQL's ``basebackup.c`` as pure functions over paths.

Paths are relative to the data directory, ``/``-separated bytes; a tablespace's files are ``pg_tblspc/<oid>/PG_…/…``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

# Their contents are rebuilt at start; the empty directory itself is needed.
EMPTIED = frozenset(
    b"pg_" + name for name in (b"dynshmem", b"notify", b"replslot", b"serial", b"snapshots", b"stat_tmp", b"subtrans")
)
_NAMES = frozenset(
    {
        b"postgresql.auto.conf.tmp",
        b"current_logfiles.tmp",
        b"backup_label",
        b"tablespace_map",
        b"backup_manifest",
        b"postmaster.pid",
        b"postmaster.opts",
    }
)
_PREFIXES = (b"pgsql_tmp", b"pg_internal.init")

_TEMPORARY = re.compile(rb"t[0-9]+_[0-9]+(_[a-z]+)?(\.[0-9]+)?")
_RELATION = re.compile(rb"([0-9]+)(?:_(fsm|vm|init))?(?:\.([0-9]+))?")
_DATABASE = re.compile(rb"base/[0-9]+|pg_tblspc/[0-9]+/PG_[^/]+/[0-9]+")
_SHARED = b"global"


@dataclass(frozen=True, slots=True)
class Relation:
    """What a relation file's name says. ``fork`` is ``main``, ``fsm``, ``vm`` or ``init``; ``segment`` counts GiB."""

    filenode: int
    fork: str
    segment: int


def relation(path: bytes) -> Relation | None:
    """The relation file at *path*, or ``None`` for any other file. Only these have page checksums."""
    directory, _, name = path.rpartition(b"/")
    if directory != _SHARED and _DATABASE.fullmatch(directory) is None:
        return None
    match = _RELATION.fullmatch(name)
    if match is None:
        return None
    return Relation(int(match[1]), (match[2] or b"main").decode(), int(match[3] or 0))


def leaves_out_name(name: bytes) -> bool:
    """Whether an entry of this name is left out wherever it lies."""
    return name in _NAMES or name.startswith(_PREFIXES)


def leaves_out_relation(directory: bytes, name: bytes, unlogged: Collection[bytes]) -> bool:
    """Whether the file *name* of a database directory holds nothing worth keeping.

    Temporary relations are left out, and every fork but ``_init`` of an unlogged one.

    :param unlogged: what :func:`unlogged_filenodes` gave for the directory.
    """
    if _DATABASE.fullmatch(directory) is None:
        return False
    if _TEMPORARY.fullmatch(name):
        return True
    match = _RELATION.fullmatch(name)
    return match is not None and match[2] != b"init" and match[1] in unlogged


def unlogged_filenodes(directory: bytes, names: Iterable[bytes]) -> frozenset[bytes]:
    """File node numbers (digits) of the unlogged relations among the *names* of a directory."""
    if _DATABASE.fullmatch(directory) is None:
        return frozenset()
    matches = (_RELATION.fullmatch(name) for name in names)
    return frozenset(match[1] for match in matches if match and match[2] == b"init")


def wal_directories(major: int) -> tuple[bytes, ...]:
    """Empty directories that stand for ``pg_wal``, whose segments are stored as log containers instead."""
    base = (b"pg_wal", b"pg_wal/archive_status")
    return (*base, b"pg_wal/summaries") if major >= 17 else base
