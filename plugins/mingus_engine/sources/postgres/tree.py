"""The walk over a data directory: what a base backup would send, directory by directory, without ``global/pg_control``.

Names are yielded as they are read, so memory does not grow with their number (but for the unlogged relations of one
directory). A directory comes before its contents. Nothing is gained by an order of sizes: the work is handed out in
slabs, and a file of many slabs is read by all workers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mingus_engine.errors import SourceDenied, SourceError
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.postgres import control_file, exclusions

_TABLESPACES = b"pg_tblspc"
_HINT = "run as the server's operating-system user, or use the replication transport"


def walk(data_directory: Path, major: int, catalog: int) -> Iterator[SourceFile]:
    """Everything that belongs to a backup of the data directory.

    :param major, catalog: name the server's own directory in a tablespace, ``PG_<major>_<catalog>``.
    :raises SourceDenied: a directory may not be read (its path is named).
    """
    root = os.fsencode(data_directory)
    own = b"PG_%d_%d" % (major, catalog)
    for name in exclusions.wal_directories(major):
        yield _entry(name, FileKind.DIRECTORY, os.stat(os.path.join(root, b"pg_wal")))  # noqa: PTH116, PTH118 - bytes
    yield from _directory(root, b"", own)


def _directory(root: bytes, directory: bytes, own: bytes) -> Iterator[SourceFile]:
    unlogged = exclusions.unlogged_filenodes(directory, (entry.name for entry in _entries(root, directory)))
    below: list[SourceFile] = []
    for entry in _entries(root, directory):
        if exclusions.leaves_out_relation(directory, entry.name, unlogged):
            continue
        file = _classify(entry, directory)
        if file is not None and file.kind == FileKind.FILE:
            yield file
        elif file is not None:
            below.append(file)
    for file in below:
        yield file
        if file.path.rpartition(b"/")[2] in exclusions.EMPTIED:
            continue
        if directory == _TABLESPACES:
            inner = file.path + b"/" + own
            status = _status(os.path.join(root, inner))  # noqa: PTH118 - bytes
            if status is not None:
                yield _entry(inner, FileKind.DIRECTORY, status)
                yield from _directory(root, inner, own)
        else:
            yield from _directory(root, file.path, own)


def _entries(root: bytes, directory: bytes) -> Iterator[os.DirEntry[bytes]]:
    path = os.path.join(root, directory)  # noqa: PTH118 - bytes
    try:
        with os.scandir(path) as found:
            yield from (entry for entry in found if not exclusions.leaves_out_name(entry.name))
    except FileNotFoundError:
        if not directory:  # else a database dropped since its parent was listed
            raise SourceDenied(f"no data directory at {os.fsdecode(root)}", hint=_HINT) from None
    except OSError as error:
        raise read_error(os.fsdecode(path), error) from None


def _classify(entry: os.DirEntry[bytes], directory: bytes) -> SourceFile | None:
    path = directory + b"/" + entry.name if directory else entry.name
    if path in {b"pg_wal", control_file.PATH}:
        return None
    # One of these may be a link to a faster disk; the copy has a plain empty directory.
    emptied = entry.name in exclusions.EMPTIED
    try:
        status = entry.stat(follow_symlinks=emptied)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return _entry(path, FileKind.FILE, status)
    if stat.S_ISDIR(status.st_mode):
        return _entry(path, FileKind.DIRECTORY, status)
    if stat.S_ISLNK(status.st_mode) and directory == _TABLESPACES:
        return _entry(path, FileKind.SYMLINK, status, os.readlink(entry.path))  # noqa: PTH115 - bytes
    return None


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - bytes
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(os.fsdecode(path), error) from None


def _entry(path: bytes, kind: FileKind, status: os.stat_result, target: bytes = b"") -> SourceFile:
    return SourceFile(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind == FileKind.FILE else 0,
        target,
    )


def read_error(path: str, error: OSError) -> SourceError:
    """The error for a file or directory that could not be read."""
    if isinstance(error, PermissionError):
        return SourceDenied(f"cannot read {path}: {error.strerror}", hint=_HINT)
    return SourceError(f"cannot read {path}: {error.strerror}")
