"""Small files that are not written when they come: held back, or left out."""

from __future__ import annotations

from collections.abc import Callable

from mingus_engine.errors import Damaged
from mingus_engine.targets.base import FileEntry
from mingus_engine.targets.paths import shown
from mingus_engine.targets.writer import Progress


class HeldWriter:
    """Keeps a file in memory and gives its content to *on_close*; a :class:`~mingus_engine.targets.base.FileWriter`.

    :raises Damaged: the entry is larger than *max_bytes*.
    """

    def __init__(self, entry: FileEntry, max_bytes: int, on_close: Callable[[FileEntry, bytes], None]) -> None:
        if entry.size > max_bytes:
            raise Damaged(f"file {shown(entry.path)} has {entry.size} bytes, at most {max_bytes} are possible")
        self._entry = entry
        self._progress = Progress(entry)
        self._content = bytearray(entry.size)
        self._on_close = on_close

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See the protocol."""
        self._progress.cover(offset, data)
        self._content[offset : offset + len(data)] = data

    def close(self) -> int:
        """See the protocol."""
        total = self._progress.complete()
        self._on_close(self._entry, bytes(self._content))
        return total

    def abort(self) -> None:
        """See the protocol."""


class DroppedWriter:
    """Writes nothing, but checks and sums up as if; a :class:`~mingus_engine.targets.base.FileWriter`."""

    def __init__(self, entry: FileEntry) -> None:
        self._progress = Progress(entry)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See the protocol."""
        self._progress.cover(offset, data)

    def close(self) -> int:
        """See the protocol."""
        return self._progress.complete()

    def abort(self) -> None:
        """See the protocol."""
