"""The writer of one file on disk: sparse, checksummed while the bytes pass, its metadata set when it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable

from mingus_engine import bounds
from mingus_engine.errors import Damaged
from mingus_engine.targets import checksum
from mingus_engine.targets.base import FileEntry
from mingus_engine.targets.paths import shown, translated

# Not preallocated: every byte is written once, in order, which delayed allocation lays out well; holes stay holes, and
# the space was checked before.

# Pieces that follow each other are written by one call: after many increments most are single blocks, or pages.
_TOGETHER_BYTES = bounds.MIB
_TOGETHER_PIECES = 256


class Progress:
    """Where a writer is: the end of what was covered and the CRC32C up to there. Checks what it is told."""

    def __init__(self, entry: FileEntry) -> None:
        self._entry = entry
        self.position = 0
        self.crc32c = 0

    def cover(self, offset: int, data: bytes | memoryview) -> None:
        """*data* follows at *offset*.

        :raises Damaged: it overlaps what was covered, or lies beyond the size.
        """
        end = offset + len(data)
        if offset < self.position or end > self._entry.size:
            raise Damaged(
                f"file {shown(self._entry.path)} of {self._entry.size} bytes: bytes {offset} to {end}"
                f" do not follow byte {self.position}"
            )
        if offset > self.position:
            self.crc32c = checksum.append_zeros(self.crc32c, offset - self.position)
        self.crc32c = checksum.append(self.crc32c, data)
        self.position = end

    def complete(self) -> int:
        """Everything up to the size is covered (the rest by a hole); returns the CRC32C."""
        self.crc32c = checksum.append_zeros(self.crc32c, self._entry.size - self.position)
        self.position = self._entry.size
        return self.crc32c


class DiskWriter:
    """A :class:`~mingus_engine.targets.base.FileWriter` over an open descriptor, which it owns.

    :param owner: given to the file; ``None`` leaves it to the process's user. :param mode: permission bits.
    :param decorate: called with the complete file, its owner set, before its mode and times are.
    :param on_close: told the entry and its CRC32C when the file is complete, in the worker's thread.
    """

    def __init__(
        self,
        descriptor: int,
        entry: FileEntry,
        *,
        owner: tuple[int, int] | None,
        mode: int,
        on_close: Callable[[FileEntry, int], None] | None = None,
        decorate: Callable[[int, FileEntry], None] = lambda _, __: None,
    ) -> None:
        self._decorate = decorate
        self._descriptor = descriptor
        self._entry = entry
        self._owner = owner
        self._mode = mode
        self._on_close = on_close
        self._progress = Progress(entry)
        self._end = 0  # of what was really written
        self._waiting: list[bytes | memoryview] = []  # what follows _end
        self._waiting_bytes = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See the protocol."""
        self._progress.cover(offset, data)
        if offset != self._end + self._waiting_bytes:
            self._flush()
            self._end = offset
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _TOGETHER_BYTES or len(self._waiting) == _TOGETHER_PIECES:
            self._flush()

    def place(self, offset: int, data: bytes | memoryview) -> None:
        """Write *data* anywhere, by any thread; whoever does so has checked that all of the file is covered. What
        ``close`` returns says nothing then.
        """
        with translated(self._entry.path):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written

    def read(self, offset: int, length: int) -> bytes:
        """What a file that was there has; its descriptor must be readable."""
        self._flush()
        with translated(self._entry.path):
            return os.pread(self._descriptor, length, offset)

    def keep(self, offset: int, data: bytes | memoryview) -> None:
        """See :class:`~mingus_engine.targets.base.PresentFile`."""
        self._progress.cover(offset, data)
        self._flush()
        self._end = offset + len(data)

    def close(self) -> int:
        """See the protocol."""
        self._flush()
        total = self._progress.complete()
        with translated(self._entry.path):
            if self._end < self._entry.size or os.fstat(self._descriptor).st_size != self._entry.size:
                os.ftruncate(self._descriptor, self._entry.size)
            if self._owner is not None:
                os.fchown(self._descriptor, *self._owner)
            self._decorate(self._descriptor, self._entry)
            os.fchmod(self._descriptor, self._mode)  # after the owner: a change of owner clears setuid
            os.utime(self._descriptor, ns=(self._entry.mtime_ns, self._entry.mtime_ns))
            self.abort()
            if self._on_close is not None:
                self._on_close(self._entry, total)
        return total

    def abort(self) -> None:
        """See the protocol."""
        self._waiting.clear()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _flush(self) -> None:
        if not self._waiting:
            return
        rest, until = self._waiting, self._end + self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        with translated(self._entry.path):
            while True:
                self._end += os.pwritev(self._descriptor, rest, self._end)
                if self._end == until:
                    return
                # A signal or a disk that is nearly full ends a write early.
                rest = [memoryview(b"".join(rest))[self._end - until :]]
