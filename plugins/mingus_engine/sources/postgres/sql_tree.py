"""The walk over a data directory through the server's own functions: the same entries as ``tree`` finds on a disk.

A directory is listed by one query and kept packed, some ten bytes a file, so that no query and no snapshot stays open
while files are read. What the functions cannot tell: owners and modes of single files (the cluster's own mode is
taken), and links from what they lead to (a linked configuration file is stored as a file).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from mingus_engine.errors import SourceUnsupported
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.postgres import control_file, exclusions
from mingus_engine.sources.postgres.facts import ServerFacts
from mingus_engine.sources.postgres.sql_links import DataLinks, literal

_TABLESPACES = b"pg_tblspc"
# PostgreSQL's own directories are five deep; a link that leads to a directory above it is endless.
_DEPTH_MAX = 12
_SOCKET = b".s.PGSQL."
_ENTRY = struct.Struct("<HBQq")


class SqlTree:
    """Lists the data directory of the server that *links* reach."""

    def __init__(self, links: DataLinks, server: ServerFacts) -> None:
        self._links = links
        self._server = server
        self._own = b"PG_%d_%d" % (server.major, server.catalog)
        directory_mode = int(server.settings.get("data_directory_mode", "0700"), 8) & 0o777
        self._modes = {FileKind.DIRECTORY: directory_mode, FileKind.FILE: directory_mode & 0o666}

    def walk(self) -> Iterator[SourceFile]:
        """Everything that belongs to a backup, without ``global/pg_control``; a directory before its contents.

        :raises SourceError: a directory may not be read.
        """
        for name in exclusions.wal_directories(self._server.major):
            yield self._entry(name, FileKind.DIRECTORY)
        yield from self._directory(b"", 0)

    def control(self, size: int, mtime_s: int) -> SourceFile:
        """The entry of ``global/pg_control``."""
        return self._entry(control_file.PATH, FileKind.FILE, size, mtime_s)

    def _directory(self, directory: bytes, depth: int) -> Iterator[SourceFile]:
        if depth > _DEPTH_MAX:
            raise SourceUnsupported(
                f"directory {directory.decode('utf-8', 'replace')[:200]} is {depth} deep in the data directory",
                hint="is there a link that leads to a directory above it? remove it, or use another transport",
            )
        listing = _Listing()
        with self._links.borrowed() as link:
            for row in link.copy(_query(directory), f"listing {_shown(directory)}"):
                entry, is_dir, length, modified = row
                # No size: gone since it was listed, or a link that leads nowhere.
                if entry is not None and is_dir is not None and length is not None and modified is not None:
                    listing.add(bytes(entry), bool(is_dir[0]), _number(length), _number(modified))
        unlogged = exclusions.unlogged_filenodes(directory, (name for name, *_ in listing))
        below: list[SourceFile] = []
        for name, is_directory, size, mtime in listing:
            path = directory + b"/" + name if directory else name
            if (
                exclusions.leaves_out_name(name)
                or exclusions.leaves_out_relation(directory, name, unlogged)
                or path in {b"pg_wal", control_file.PATH}
                or (name.startswith(_SOCKET) and not size)
            ):
                continue
            if not is_directory:
                yield self._entry(path, FileKind.FILE, size, mtime)
            elif directory == _TABLESPACES and name.isdigit():
                below += self._tablespace(path)
            else:
                below.append(self._entry(path, FileKind.DIRECTORY, 0, mtime))
        for file in below:
            yield file
            if (
                file.path.rpartition(b"/")[2] not in exclusions.EMPTIED
                and file.path.rpartition(b"/")[0] != _TABLESPACES
            ):
                yield from self._directory(file.path, depth + 1)

    def _tablespace(self, path: bytes) -> list[SourceFile]:
        """The link, and the server's own directory behind it."""
        oid = int(path.rpartition(b"/")[2])
        inner = path + b"/" + self._own
        query = f"SELECT pg_tablespace_location({oid}), (pg_stat_file({literal(inner)}, true)).isdir"
        with self._links.borrowed() as link:
            rows = [
                (bytes(row[0] or b""), row[1] is not None) for row in link.copy(query, f"looking at tablespace {oid}")
            ]
        (location, there) = rows[0]
        if not location.startswith(b"/"):  # allow_in_place_tablespaces
            found = [self._entry(path, FileKind.DIRECTORY)]
        else:
            found = [SourceFile(path, FileKind.SYMLINK, 0o777, target=location)]
        return [*found, self._entry(inner, FileKind.DIRECTORY)] if there else found

    def _entry(self, path: bytes, kind: FileKind, size: int = 0, mtime_s: int = 0) -> SourceFile:
        return SourceFile(path, kind, self._modes[kind], mtime_ns=mtime_s * 10**9, size=size)


class _Listing:
    """The entries of one directory, compressed; iterated any number of times."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._compress = zlib.compressobj(1)
        self._ended = False

    def add(self, name: bytes, is_directory: bool, size: int, mtime: int) -> None:
        self._packed += self._compress.compress(_ENTRY.pack(len(name), is_directory, size, mtime) + name)

    def __iter__(self) -> Iterator[tuple[bytes, bool, int, int]]:
        if not self._ended:
            self._packed += self._compress.flush()
            self._ended = True
        decompress = zlib.decompressobj()
        rest = b""
        for at in range(0, len(self._packed), 1 << 16):
            rest += decompress.decompress(self._packed[at : at + (1 << 16)])
            begin = 0
            while len(rest) - begin >= _ENTRY.size:
                length, is_directory, size, mtime = _ENTRY.unpack_from(rest, begin)
                end = begin + _ENTRY.size + length
                if end > len(rest):
                    break
                yield rest[begin + _ENTRY.size : end], bool(is_directory), size, mtime
                begin = end
            rest = rest[begin:]


def _query(directory: bytes) -> str:
    prefix = literal(directory + b"/") if directory else "''"
    return (
        "SELECT n, s.isdir, s.size, extract(epoch FROM s.modification)::bigint"
        f" FROM pg_ls_dir({literal(directory or b'.')}, true, false) n,"
        f" LATERAL pg_stat_file({prefix} || n, true) s"
    )


def _number(value: memoryview) -> int:
    return int.from_bytes(value, "big", signed=True)


def _shown(directory: bytes) -> str:
    return directory.decode("utf-8", "replace") or "the data directory"
