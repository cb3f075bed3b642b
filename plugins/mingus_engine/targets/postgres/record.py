"""The ``backup_manifest`` of a restore, written while its files are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from typing import BinaryIO

from mingus_engine.postgres.backup_manifest import ManifestWriter, WalRange
from mingus_engine.targets.base import FileEntry


class Record:
    """Takes file and checksum of every finished file, from any thread; owns *file*, which is made complete at the end.

    An interrupted restore leaves a manifest without its last line, which every reader refuses.
    """

    def __init__(self, file: BinaryIO, version: int, cluster_id: int) -> None:
        self._file = file
        self._writer = ManifestWriter(file.write, version, cluster_id)
        self._lock = threading.Lock()

    def add(self, entry: FileEntry, crc32c: int) -> None:
        """A file is complete. What is in ``pg_wal`` is not part of a manifest."""
        if entry.path.startswith(b"pg_wal/"):
            return
        with self._lock:
            self._writer.add(entry.path, entry.size, entry.mtime_ns // 1_000_000_000, crc32c)

    def finish(self, wal_ranges: Iterable[WalRange]) -> None:
        """Write the end and close the file."""
        with self._lock:
            self._writer.finish(wal_ranges)
            self._file.close()

    def close(self) -> None:
        """Close the file as it is; idempotent. What a full file system refuses to take is of no use any more."""
        with contextlib.suppress(OSError):
            self._file.close()
