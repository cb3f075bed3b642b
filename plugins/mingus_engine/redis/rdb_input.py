"""The bytes of an RDB as they come, for a reader that goes through them once and holds no more than it must."""

from __future__ import annotations

from collections.abc import Iterable

from mingus_engine import bounds
from mingus_engine.errors import Damaged
from mingus_engine.redis import rdb_strings
from mingus_engine.redis.rdb_format import ENC_INT32, ENC_LZF, ENCODED, require_lzf, unpack_lzf

# At least so much is joined at a time: what a chunk cuts in two is copied once more.
_STEP_BYTES = bounds.MIB


class RdbInput:
    """What is at hand of an RDB, and where in it the reader is.

    Every method takes what it reads, or raises; a length that reaches beyond the last byte takes no memory.

    :param held_max_bytes: of what :meth:`hold` began to hold, at most.
    :ivar data: what is at hand. :ivar at: place in it of the next byte. :ivar base: offset of ``data`` in the RDB.
    """

    def __init__(self, chunks: Iterable[bytes | memoryview], what: str, held_max_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._what = what
        self._held_max = held_max_bytes
        # What is held lies in pieces that have gone, and in ``data`` from the mark on; a mark of -1 = nothing is held.
        self._mark = -1
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self.data, self.at, self.base = b"", 0, 0

    @property
    def offset(self) -> int:
        """Of the next byte, in the RDB."""
        return self.base + self.at

    @property
    def where(self) -> str:
        """The same, for an error."""
        return f"{self._what} at byte {self.offset}"

    def hold(self) -> None:
        """Begin to hold what is read."""
        self._mark = self.at
        self._kept, self._kept_bytes = [], 0

    def held(self) -> bytes | None:
        """What was read since :meth:`hold`; ``None`` = it was more than may be held."""
        self._keep()
        whole, self._kept = self._kept, []
        found = None if self._mark < 0 else b"".join(whole)
        self._mark = -1
        return found

    def more(self) -> bool:
        """Have more at hand, as much again where that is more than a step. ``False`` = there is no more."""
        self._keep()
        parts, wanted = [self.data[self.at :]], max(_STEP_BYTES, len(self.data) - self.at)
        for chunk in self._chunks:
            parts.append(bytes(chunk))
            wanted -= len(chunk)
            if wanted <= 0:
                break
        if len(parts) == 1:
            return False
        self.data = b"".join(parts)
        self.base += self.at
        self.at = 0
        self._mark = min(self._mark, 0)
        return True

    def _keep(self) -> None:
        """Put aside what is held and was read, before it goes; give up what has become too much."""
        if self._mark < 0:
            return
        self._kept_bytes += self.at - self._mark
        if self._kept_bytes > self._held_max:
            self._mark, self._kept = -1, []
            return
        self._kept.append(self.data[self._mark : self.at])
        self._mark = self.at

    def need(self, count: int) -> None:
        """Have *count* bytes at hand.

        :raises Damaged: there are not so many.
        """
        while self.at + count > len(self.data):
            if not self.more():
                raise Damaged(f"{self.where}: ends where {count} more bytes must be", hint="")

    def byte(self) -> int:
        """The next byte."""
        self.need(1)
        self.at += 1
        return self.data[self.at - 1]

    def take(self, count: int) -> bytes:
        """*count* bytes."""
        self.need(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def skip(self, count: int) -> None:
        """Go over *count* bytes; they need not be at hand together."""
        while (here := len(self.data) - self.at) < count:
            self.at += here
            count -= here
            self.need(1)
        self.at += count

    def length(self) -> int:
        """A length."""
        while True:
            try:
                found, self.at = rdb_strings.length(self.data, self.at, self.where)
            except rdb_strings.NotWhole:
                self.need(len(self.data) - self.at + 1)
            else:
                return found

    def string(self, max_bytes: int = 512 * bounds.MIB) -> bytes:
        """A string, unpacked. Redis takes none above 512 MiB."""
        self.need(1)
        first = self.data[self.at]
        if first < ENCODED:
            return self.take(self._bounded(self.length(), max_bytes))
        if first == ENC_LZF:
            self.at += 1
            packed, length = self._bounded(self.length(), max_bytes), self._bounded(self.length(), max_bytes)
            return unpack_lzf(self.take(packed), length, self.where)
        if first <= ENC_INT32:
            self.need(5)
        found, self.at = rdb_strings.string(self.data, self.at, self.where)
        return found

    def skip_string(self) -> None:
        """Leave a string out."""
        first = self.byte()
        if first < ENCODED:
            self.at -= 1
            self.skip(self.length())
        elif first <= ENC_INT32:
            self.skip(1 << (first - ENCODED))
        elif first == ENC_LZF:
            packed = self.length()
            require_lzf(packed, self.length(), self.where)
            self.skip(packed)
        else:
            raise Damaged(f"{self.where}: no string begins with the byte {first:#04x}", hint="")

    def _bounded(self, count: int, max_bytes: int) -> int:
        if count > max_bytes:
            raise Damaged(f"{self.where}: a string of {count} bytes, {max_bytes} at most are possible", hint="")
        return count
