"""Configuration files outside the data directory (Debian keeps them in /etc): a base backup does not hold them.

They are stored under ``mingus-config/<absolute path>``; a restore lays them beside the data, never over a live file.
What may not be read is noted, not fatal: the backup restores without it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from mingus_engine.bounds import MIB
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.postgres.connection import Session
from mingus_engine.sources.postgres.facts import ServerFacts

ROOT = b"mingus-config/"
# A configuration file of more is a mistake; their sum is held in memory.
FILE_MAX_BYTES = MIB

Files = list[tuple[SourceFile, bytes]]


@dataclass(frozen=True)
class Configuration:
    """What was found. ``unreadable`` says path → why."""

    files: Files
    unreadable: dict[str, str]

    def as_facts(self) -> dict[str, object]:
        """JSON types, for a manifest."""
        return {
            "stored": [file.path.removeprefix(ROOT[:-1]).decode("utf-8", "replace") for file, _ in self.files],
            "unreadable": self.unreadable,
        }


def read_configuration(session: Session, facts: ServerFacts, *, local: bool) -> Configuration:
    """Read the files that lie outside the data directory, or are links in it, which a base backup skips.

    :param local: read them from this machine's file system; else by the server (needs ``pg_read_server_files``).
    """
    read: Callable[[str], tuple[SourceFile, bytes]] = _read_local if local else _ServerReader(session)
    files: Files = []
    unreadable: dict[str, str] = {}
    for path in sorted(_paths(session, facts)):
        try:
            # A link in the data directory is not part of a base backup; what it leads to is taken here.
            if not _inside(path, facts.settings.get("data_directory", "")) or (local and Path(path).is_symlink()):
                files.append(read(path))
        except OSError as error:
            unreadable[path] = error.strerror or "not readable"
        except psycopg.Error as error:
            unreadable[path] = error.diag.message_primary or "not readable"
    return Configuration(files, unreadable)


def _paths(session: Session, facts: ServerFacts) -> set[str]:
    paths = {facts.settings[name] for name in ("config_file", "hba_file", "ident_file") if facts.settings.get(name)}
    queries = ["SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL"]
    if facts.major >= 16:
        queries.append("SELECT DISTINCT file_name FROM pg_hba_file_rules WHERE file_name IS NOT NULL")
        queries.append("SELECT DISTINCT file_name FROM pg_ident_file_mappings WHERE file_name IS NOT NULL")
    for query in queries:
        try:
            paths.update(path for (path,) in session.execute(query).fetchall())
        except psycopg.errors.InsufficientPrivilege:  # included files stay unknown; the three main ones do not
            continue
    return paths


def _inside(path: str, directory: str) -> bool:
    return bool(directory) and os.path.commonpath([os.path.normpath(path), directory]) == os.path.normpath(directory)


def _read_local(path: str) -> tuple[SourceFile, bytes]:
    with Path(path).open("rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        content = stream.read(FILE_MAX_BYTES + 1)
    meta = SourceFile(
        _stored(path),
        FileKind.FILE,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        len(content),
    )
    return _bounded(meta, content)


class _ServerReader:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, path: str) -> tuple[SourceFile, bytes]:
        # The forms with `missing_ok`: those that transport `sql` is granted.
        query = "SELECT pg_read_binary_file(%s, 0, %s, false), (pg_stat_file(%s, false)).modification"
        row = self._session.execute(query, (path, FILE_MAX_BYTES + 1, path)).fetchone()
        content, modified = row or (b"", None)
        mtime_ns = int(modified.timestamp()) * 10**9 if modified else 0
        return _bounded(SourceFile(_stored(path), FileKind.FILE, 0o600, mtime_ns=mtime_ns, size=len(content)), content)


def _stored(path: str) -> bytes:
    return ROOT + os.fsencode(os.path.normpath(path)).lstrip(b"/")


def _bounded(file: SourceFile, content: bytes) -> tuple[SourceFile, bytes]:
    if len(content) > FILE_MAX_BYTES:
        raise OSError(0, f"larger than {FILE_MAX_BYTES} bytes")
    return file, content
