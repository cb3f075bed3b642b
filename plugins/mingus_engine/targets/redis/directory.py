"""A restore of Redis into an empty directory: one server's, or one directory per shard of a cluster.

A server that is started on a restore which is not complete must refuse, not start empty: until the end an RDB has
another name and what is under its own cannot be loaded; likewise the manifest of an append-only file. Both get their
names when everything else is on stable storage. Beside an append-only file such a file stays under ``dbfilename``, so
that a server which is started with ``appendonly no`` refuses, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mingus_engine import bounds
from mingus_engine.redis.rdb_check import RdbCheck, RdbFacts
from mingus_engine.targets.base import EntryKind, FileEntry, FileWriter, TargetFile
from mingus_engine.targets.directory import DirectoryTarget
from mingus_engine.targets.paths import shown, translated
from mingus_engine.targets.redis.layout import AOF, RDB, ServerFiles

FILE_MODE, DIRECTORY_MODE, SECRET_MODE = 0o640, 0o750, 0o600
_RESTORING = b".mingus-restoring"
_INCOMPLETE = b"This restore by MINGUS Backup & Recovery is not complete: no server may start here.\n"
_NO_RDB = (
    b"This is no RDB, so that a server which is started here with appendonly no refuses instead of being empty:\n"
    b"the data is in the append-only file beside. Start the server with appendonly yes.\n"
)
_ZEROS = memoryview(bytes(bounds.MIB))


class RedisTarget:
    """See ``targets.base``; for entries of the snapshot that :meth:`wants` wants.

    :param owner: uid and gid of everything (needs root); ``None``: the process's user.
    """

    def __init__(
        self, root: Path, servers: Sequence[ServerFiles], *, owner: tuple[int, int] | None, durable: bool
    ) -> None:
        self._tree = DirectoryTarget(root, owner=owner, durable=durable, keep_directory_times=False)
        self.root = self._tree.root
        self._servers = servers
        self._files = {source: path for server in servers for source, path in server.files.items()}
        self._bases = {server.base for server in servers}
        self._renamed = {server.base: server.names.dbfilename.encode() for server in servers if server.form == RDB}
        #: What each RDB says of itself, by its path; known when it is complete.
        self.rdbs: dict[bytes, RdbFacts] = {}

    def wants(self, entry: FileEntry) -> bool:
        """Whether a file of the snapshot is restored."""
        return entry.path in self._files

    def inspect(self, needed_bytes: int, needed_files: int) -> None:
        """Refuse what ``prepare`` would refuse; nothing is written.

        :raises TargetError: see ``prepare``.
        """
        self._tree.inspect(needed_bytes, needed_files)

    def prepare(self, needed_bytes: Mapping[Path, int] | int = 0, needed_files: int = 0) -> None:
        """Take the directory, and make it one that no server starts on.

        :raises TargetError: see :class:`DirectoryTarget`.
        """
        self._tree.prepare(needed_bytes, needed_files)
        for server in self._servers:
            folders = [server.below] if server.below else []
            if server.form == AOF:
                folders.append(server.folder)
            for folder in folders:
                self.make_directory(TargetFile(folder.rstrip(b"/"), EntryKind.DIRECTORY))
            self.write_own(server.rdb, _INCOMPLETE if server.form == RDB else _NO_RDB)
            if server.form == AOF:
                self.write_own(server.manifest_path, _INCOMPLETE)

    def make_directory(self, entry: FileEntry) -> None:
        """Make a directory; see ``targets.base``."""
        self._tree.make_directory(TargetFile(entry.path, EntryKind.DIRECTORY, DIRECTORY_MODE))

    def make_symlink(self, entry: FileEntry) -> None:
        """:raises KeyError: always: a snapshot of Redis has no links, so none is wanted."""
        raise KeyError(shown(entry.path))

    def open_file(self, entry: FileEntry) -> FileWriter:
        """Make a file; see ``targets.base``. An RDB is checked on its way.

        :raises Damaged: (at its ``close``) an RDB is not whole.
        """
        path = self._files[entry.path]
        to = path + _RESTORING if path in self._renamed else path
        writer = self._tree.open_file(TargetFile(to, mode=FILE_MODE, size=entry.size, mtime_ns=entry.mtime_ns))
        if path not in self._bases:
            return writer

        def known(facts: RdbFacts) -> None:
            self.rdbs[path] = facts

        return _CheckedWriter(writer, entry, known)

    def open_present(self, entry: FileEntry) -> None:
        """Nothing is there that could be mended."""

    def write_own(self, path: bytes, content: bytes, mode: int = FILE_MODE) -> None:
        """A small file that is not of the snapshot's data.

        :raises TargetError: something is there, or the file system refused.
        """
        writer = self._tree.open_file(TargetFile(path, mode=mode, size=len(content)))
        try:
            writer.write(0, content)
            writer.close()
        finally:
            writer.abort()

    def write_commands(self, server: ServerFiles, chunks: Iterable[bytes]) -> int:
        """The increment of an append-only file; how many bytes it has.

        :raises TargetError: the file system refused. :raises Damaged: as *chunks* does.
        """
        path, written = server.folder + server.increment.encode(), 0
        with translated(path), self._tree.create(path) as file:
            os.fchmod(file.fileno(), FILE_MODE)
            for chunk in chunks:
                file.write(chunk)
                written += len(chunk)
        return written

    def finish(self) -> None:
        """Complete the restore: what makes servers start gets its name last.

        :raises TargetError: the file system refused; no server starts.
        """
        for server in self._servers:
            if server.manifest is not None:
                self.write_own(server.manifest_path + _RESTORING, server.manifest.encode())
        self._tree.settle()
        for base, name in self._renamed.items():
            self._tree.rename(base + _RESTORING, name)
        for server in self._servers:
            if server.manifest is not None:
                self._tree.rename(server.manifest_path + _RESTORING, server.manifest_path.rpartition(b"/")[2])
        with translated(self.root):
            self.root.chmod(DIRECTORY_MODE)
        self._tree.finish()

    def abandon(self) -> None:
        """Remove the restore; see ``targets.base``."""
        self._tree.abandon()

    def close(self) -> None:
        """Let go of the directory without changing it; idempotent."""
        self._tree.close()


class _CheckedWriter:
    """Shows what is written to an :class:`RdbCheck`; a :class:`~mingus_engine.targets.base.FileWriter`."""

    def __init__(self, writer: FileWriter, entry: FileEntry, on_whole: Callable[[RdbFacts], None]) -> None:
        self._writer, self._entry, self._on_whole = writer, entry, on_whole
        self._check = RdbCheck(f"RDB {shown(entry.path)}")
        self._position = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See the protocol."""
        self._writer.write(offset, data)
        self._zeros(offset)
        self._check.feed(data)
        self._position = offset + len(data)

    def close(self) -> int:
        """See the protocol. :raises Damaged: it is no whole RDB."""
        self._zeros(self._entry.size)
        self._on_whole(self._check.finish())
        return self._writer.close()

    def abort(self) -> None:
        """See the protocol."""
        self._writer.abort()

    def _zeros(self, upto: int) -> None:
        while self._position < upto:
            piece = _ZEROS[: upto - self._position]
            self._check.feed(piece)
            self._position += len(piece)
