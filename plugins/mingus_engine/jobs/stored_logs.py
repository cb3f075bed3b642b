"""Reading the logs of a source out of a repository: containers opened once, keys kept, bytes in order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mingus_engine.codec.containers import HEADER_BYTES, LOG_MAGIC, Header
from mingus_engine.errors import Damaged, FormatTooNew, KeyUnavailable, MingusError, ObjectMissing
from mingus_engine.repository import log_index
from mingus_engine.repository.log_index import LogIndex, StoredLog
from mingus_engine.repository.logs import LogDirectory, LogReader
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.state import SourceState
from mingus_engine.repository.wal_path import Piece

#: Clocks of servers are counted from here, in microseconds.
EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Sample:
    """Everything that was committed before the server's clock said ``at`` lies below the position ``flush``."""

    at: datetime
    flush: int


class DamagedLog(Damaged):
    """A log container is not whole, or its key is not there; ``log`` names it."""

    def __init__(self, log: StoredLog, error: MingusError) -> None:
        super().__init__(error.message)
        self.log = log


class StoredLogs:
    """The logs of one source in one open repository. Thread-safe.

    :param seen: what a look at the source showed: what an open plan names is not there.
    :ivar damaged: stored name → what is wrong, of what was discarded.
    """

    def __init__(self, repository: Repository, source: str, seen: SourceState) -> None:
        self.repository, self.source = repository, source
        self.index: LogIndex = log_index.list_logs(repository, source, seen.planned)
        self.damaged: dict[str, str] = {}
        self._run_keys: dict[str, bytes] = {}
        self._directories: dict[StoredLog, LogDirectory] = {}
        self._lock = threading.Lock()

    def discard(self, error: DamagedLog) -> None:
        """Count a container that is not whole as not there. Paths made before still have it."""
        self.damaged[str(error.log.name)] = error.message
        kept = (log for logs in self.index.timelines.values() for log in logs.logs if log != error.log)
        histories = (log for log in self.index.histories.values() if log != error.log)
        self.index = log_index.index([*kept, *histories])

    def content(self, log: StoredLog, max_bytes: int) -> bytes:
        """All of a small container. :raises DamagedLog: it is larger than *max_bytes*, or not what was stored."""
        with named(log):
            if log.name.end - log.name.start > max_bytes:
                raise Damaged(f"{log.name}: is larger than {max_bytes} bytes")
        return b"".join(self.whole(log))

    def whole(self, log: StoredLog) -> Iterator[bytes]:
        """The bytes of one container. :raises DamagedLog: see :meth:`chunks`."""
        return self.chunks([Piece(log, log.name.start, log.name.end)])

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """The bytes of *pieces*, which follow each other, in parts of at most 256 KiB.

        :raises DamagedLog: changed, cut, or the digest differs.
        """
        for piece in pieces:
            at = piece.log.name.start
            with named(piece.log):
                for chunk in self._reader(piece.log).chunks():
                    low, high = max(piece.start - at, 0), min(piece.end - at, len(chunk))
                    if low < high:
                        yield chunk[low:high]
                    at += len(chunk)

    def directory(self, log: StoredLog) -> LogDirectory:
        """What a container says of itself. :raises DamagedLog: it is not whole."""
        with self._lock:
            if log in self._directories:
                return self._directories[log]
        with named(log):
            found = self._reader(log).directory()
        with self._lock:
            self._directories[log] = found
        return found

    def sample(self, log: StoredLog) -> Sample | None:
        """The newest sample of a container, ``None`` where it has none. :raises DamagedLog: it is not whole."""
        directory = self.directory(log)
        if directory.server_clock_us <= 0 or directory.flush <= 0:
            return None
        with named(log):
            return Sample(time_of(directory.server_clock_us, str(log.name)), directory.flush)

    def _reader(self, log: StoredLog) -> LogReader:
        name = log.name
        header = Header.decode(self.repository.store.get_range(str(name), 0, HEADER_BYTES), LOG_MAGIC, str(name))
        ref = LogRef(name.lineage, name.start, name.end, header.run, log.size, name.sha256, name.putting_run)
        with self._lock:
            key = self._run_keys.get(header.run)
        if key is None:
            key = self.repository.log_key(self.source, header.run)
            with self._lock:
                self._run_keys[header.run] = key
        return LogReader(self.repository, self.source, ref, key)


def time_of(clock_us: int, what: str) -> datetime:
    """The time of a server's clock, in microseconds since 2000. :raises Damaged: it is no time."""
    try:
        return EPOCH_2000 + timedelta(microseconds=clock_us)
    except OverflowError:
        raise Damaged(f"{what}: its clock is no time") from None


@contextmanager
def named(log: StoredLog) -> Iterator[None]:
    """Lets errors inside the block name the container."""
    try:
        yield
    except (Damaged, FormatTooNew, KeyUnavailable, ObjectMissing) as error:
        raise DamagedLog(log, error) from None
