"""Whether a stream of bytes is a whole RDB: cheap enough to look at every byte on its way into a repository.

Checked are the beginning, the end and the CRC-64 over all between: a truncated transfer, a flipped bit, and the stale
tail that a shorter RDB leaves in a longer file are each found. Two things are left to the walk (:mod:`.rdb`): what a
server wrote without a checksum (``rdbchecksum no``), which the facts say; and a second whole RDB behind the first: its
checksum is right for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mingus_engine.errors import Damaged
from mingus_engine.redis.rdb_format import CRC_BYTES, HEADER_BYTES, OP_AUX, OP_EOF, crc64, version_of
from mingus_engine.redis.rdb_strings import NotWhole, string

# The checksum, and the newline that may follow it (redis #11261).
_TAIL_BYTES = CRC_BYTES + 1
# The fields at the beginning are some 20 of some 60 bytes.
_AUX_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class RdbFacts:
    """What an RDB says of itself.

    :param bytes: its length; without a newline behind it. :param checksum: whether it had one, which was then right.
    :param aux: the fields at its beginning, as text: ``redis-ver`` or ``valkey-ver``, ``ctime`` (s), ``used-mem``
        (bytes), in a transfer to a replica ``repl-id`` and ``repl-offset``.
    """

    version: int
    bytes: int
    checksum: bool
    aux: dict[str, str] = field(default_factory=dict)

    @property
    def server_version(self) -> str:
        """Version of the server that wrote it; empty = it does not say."""
        return self.aux.get("redis-ver") or self.aux.get("valkey-ver", "")

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"version": self.version, "bytes": self.bytes, "checksum": self.checksum, "aux": dict(self.aux)}


class RdbCheck:
    """Fed with an RDB from its first byte to its last; holds 64 KiB of it at most.

    :param what: names the RDB in errors.
    """

    def __init__(self, what: str = "RDB") -> None:
        self._what = what
        self._begin = bytearray()
        self._tail = b""
        self._crc = 0
        self._last = 0
        self._bytes = 0
        self._version = 0

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes.

        :raises Damaged: the stream does not begin as an RDB of a known version.
        """
        self._bytes += len(data)
        if len(self._begin) < _AUX_MAX_BYTES:
            self._begin += data[: _AUX_MAX_BYTES - len(self._begin)]
            if not self._version and len(self._begin) >= HEADER_BYTES:
                self._version = version_of(bytes(self._begin[:HEADER_BYTES]), self._what)
        if len(data) < _TAIL_BYTES:
            data = self._tail + bytes(data)
            self._tail = b""
        body, tail = data[:-_TAIL_BYTES], bytes(data[-_TAIL_BYTES:])
        for part in (self._tail, body):
            if part:
                self._crc, self._last = crc64(part, self._crc), part[-1]
        self._tail = tail

    def finish(self) -> RdbFacts:
        """After the last byte.

        :raises Damaged: it is not a whole RDB; the message says what is wrong with its end.
        """
        if not self._version:
            version_of(bytes(self._begin), self._what)
        if self._bytes < HEADER_BYTES + 1 + CRC_BYTES:
            raise Damaged(f"{self._what}: ends after {self._bytes} bytes", hint="")
        if (checksum := self._ends(newline=False)) is not None:
            length = self._bytes
        elif (checksum := self._ends(newline=True)) is not None:
            length = self._bytes - 1
        else:
            raise Damaged(
                f"{self._what}: is not whole: its {self._bytes} bytes do not end with the CRC-64 of what is before",
                hint="it was cut off, changed, or written over a longer file",
            )
        return RdbFacts(self._version, length, checksum, _aux(bytes(self._begin), self._what))

    def _ends(self, *, newline: bool) -> bool | None:
        """Whether the RDB has a checksum, if it ends here (before a *newline*); ``None`` = it does not end here."""
        tail = self._tail
        if newline:
            crc, last, tail, end = self._crc, self._last, tail[:-1], tail[-1:]
        else:
            crc, last, tail, end = crc64(tail[:1], self._crc), tail[0], tail[1:], b"\n"
        if last != OP_EOF or end != b"\n":
            return None
        stored = int.from_bytes(tail, "little")
        return None if stored not in {0, crc} else stored != 0


def _aux(begin: bytes, what: str) -> dict[str, str]:
    """The fields that *begin*, the beginning of an RDB, tells."""
    found, at = {}, HEADER_BYTES
    try:
        while begin[at] == OP_AUX:
            key, at = string(begin, at + 1, what)
            value, at = string(begin, at, what)
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    except (NotWhole, IndexError):
        pass  # they go on beyond what is held
    return found
