"""The files of a multi-part append-only file, opened at one moment by the manifest of that moment.

An open file stays what it is when a rewrite unlinks it, and the server only ever appends to the last one: what is open
with an unchanged manifest is one consistent whole, whatever happens on the server afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mingus_engine import bounds
from mingus_engine.errors import BackupBroken, Damaged, SourceDenied, SourceError, SourceUnsupported
from mingus_engine.redis import aof
from mingus_engine.redis.aof import BASE, MANIFEST_SUFFIX, AofFile, AofManifest
from mingus_engine.redis.aof_commands import Scanner, Stamp
from mingus_engine.redis.rdb_check import RdbCheck, RdbFacts
from mingus_engine.redis.rdb_statistics import statistics

_MANIFEST_MAX_BYTES = 4 * bounds.MIB
_READ_BYTES = bounds.MIB
_RDB_MAGICS = (b"REDIS", b"VALKEY")
_HINT = "wait until a rewrite is finished; left-overs of a server that was killed may be removed by hand"


class NotYet(BackupBroken):
    """The files are not whole at this moment; a look a little later may find them so."""

    hint = _HINT


@dataclass
class OpenFile:
    """One file: ``handle`` is its descriptor, ``size`` what it had when it was opened, in bytes.

    :ivar whole: its first so many bytes are an RDB, or whole commands and transactions.
    """

    entry: AofFile
    handle: int
    status: os.stat_result
    whole: int = 0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.status.st_size

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """What it had when it was opened, from *start*."""
        at = start
        while at < self.size:
            data = os.pread(self.handle, min(_READ_BYTES, self.size - at), at)
            if not data:
                raise BackupBroken(f"{self.entry.name} shrank while it was read")
            yield data
            at += len(data)


class AofFiles:
    """The open files; closed by ``close``.

    :ivar base: what the base says of itself, once it was examined; ``None``: it is no RDB, or was known.

    :param directory: the server's ``appenddirname`` inside its data directory. :param filename: ``appendfilename``.
    :raises NotYet: no manifest, or not all that a server needs: see :meth:`AofManifest.trouble`.
    :raises SourceDenied: it may not be read.
    """

    def __init__(self, directory: Path, filename: str) -> None:
        self.directory = directory
        self._closing = ExitStack()
        self.base: RdbFacts | None = None
        path = directory / f"{filename}{MANIFEST_SUFFIX}"
        try:
            raw = _small(path)
            self.manifest: AofManifest = aof.parse(raw, str(path))
            if trouble := self.manifest.trouble():
                raise NotYet(f"{path}: {trouble}")
            self.files = [self._opened(entry) for entry in self.manifest.files]
            if temporary := sorted(p.name for p in directory.iterdir() if p.name.startswith("temp-")):
                raise NotYet(f"{directory} holds {temporary[0]}: a rewrite is under way, or was killed")
            if _small(path) != raw:
                raise NotYet(f"{path}: changed while the files were opened")
            self.manifest_name, self.manifest_raw, self.manifest_status = path.name, raw, path.stat()
        except FileNotFoundError as error:
            self.close()
            raise NotYet(f"{error.filename} is missing: a restore of this directory would come up empty") from None
        except OSError as error:
            self.close()
            raise SourceDenied(f"{error.filename or path}: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    @property
    def total(self) -> int:
        """Bytes together, as the server counts them (``aof_current_size``)."""
        return sum(file.size for file in self.files)

    @property
    def increments(self) -> int:
        """Bytes of the files besides the base."""
        return sum(file.size for file in self.files if file.entry.kind != BASE)

    def examine(self, known: Callable[[OpenFile], int], checkpoint: Callable[[], None]) -> list[Stamp]:
        """Find out where each file ends with a whole command; the annotations on the way.

        :param known: up to where a file was found whole by an earlier backup; 0 = not at all.
        :raises Damaged: a file is no RDB, or no commands; or one before the last ends within a command.
        """
        stamps: list[Stamp] = []
        for number, file in enumerate(self.files):
            last = number == len(self.files) - 1
            start = known(file)
            if file.entry.kind == BASE and os.pread(file.handle, 6, 0).startswith(_RDB_MAGICS):
                self.base = self._examine_rdb(file, start, checkpoint)
                continue
            try:
                found, file.whole = _scanned(file, start, checkpoint)
            except Damaged:
                if not start:
                    raise
                # Another file under a name that was there before: nothing of it is known.
                found, file.whole = _scanned(file, 0, checkpoint)
            stamps += found
            if file.whole < file.size and not last:
                raise Damaged(f"{file.entry.name}: ends within a command, at {file.whole} of {file.size} bytes")
        return stamps

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._closing.close()

    def _opened(self, entry: AofFile) -> OpenFile:
        handle = os.open(self.directory / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing.callback(os.close, handle)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnsupported(f"{self.directory / entry.name} is no regular file")
        return OpenFile(entry, handle, status)

    @staticmethod
    def _examine_rdb(file: OpenFile, known: int, checkpoint: Callable[[], None]) -> RdbFacts | None:
        file.whole = file.size
        if known == file.size:
            return None
        check = RdbCheck(file.entry.name)
        for chunk in file.chunks():
            checkpoint()
            check.feed(chunk)
        found = check.finish()
        if not found.checksum:  # only walking from end to end tells
            statistics(file.chunks(), file.entry.name, checkpoint=checkpoint)
        return found


def _scanned(file: OpenFile, start: int, checkpoint: Callable[[], None]) -> tuple[list[Stamp], int]:
    """The annotations from *start* on, and where the last whole command ends."""
    stamps: list[Stamp] = []
    scanner = Scanner(file.entry.name, start)
    for chunk in file.chunks(start):
        checkpoint()
        scanner.feed(chunk)
        stamps += scanner.stamps
    return stamps, scanner.boundary


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(_MANIFEST_MAX_BYTES + 1)
    if len(raw) > _MANIFEST_MAX_BYTES:
        raise SourceError(f"{path}: is larger than {_MANIFEST_MAX_BYTES} bytes")
    return raw
