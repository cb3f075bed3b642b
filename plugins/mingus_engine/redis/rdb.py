"""A walk over an RDB: its keys with their values as they are stored, in one pass and bounded memory.

A value is not understood, only measured: its bytes are what ``RESTORE`` takes (:func:`dump_payload`). What the walk
does not know, what cannot be (a length beyond the last byte, a count without elements, a compressed string that would
be larger than LZF can make it) and a wrong checksum end it with ``Damaged``, which names the place. The checksum is
known at the end alone: who must not act on damaged bytes walks twice, or has them from where they are authenticated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mingus_engine.errors import Damaged
from mingus_engine.redis import rdb_values
from mingus_engine.redis.rdb_check import RdbCheck, RdbFacts
from mingus_engine.redis.rdb_format import (
    CRC_BYTES,
    HEADER_BYTES,
    OP_AUX,
    OP_EOF,
    OP_EXPIRE,
    OP_EXPIRE_MS,
    OP_FREQ,
    OP_FUNCTION2,
    OP_IDLE,
    OP_MODULE_AUX,
    OP_RESIZE,
    OP_SELECT,
    OP_SLOT_IMPORT,
    OP_SLOT_INFO,
    TYPE_NAMES,
    VALKEY_VERSIONS,
    crc64,
    version_of,
)  # fmt: skip
from mingus_engine.redis.rdb_input import RdbInput

# What may stand between two keys and says something of the next.
_OF_A_KEY = frozenset({OP_EXPIRE_MS, OP_EXPIRE, OP_IDLE, OP_FREQ})


class Key(NamedTuple):
    """A key.

    :param expire_ms: when it expires, ms since 1970; -1 = never. :param type: number of type and encoding.
    :param value: its bytes without the type; ``None`` = not asked for, or more than may be held: *size* bytes.
    :param idle_s: seconds since it was used, *frequency*: how often (Redis' logarithm); -1 = not stored.
    :param module: the name of the module whose value it is.
    """

    database: int
    name: bytes
    expire_ms: int
    type: int
    value: bytes | None
    size: int
    idle_s: int = -1
    frequency: int = -1
    module: str = ""

    @property
    def type_name(self) -> str:
        """As ``TYPE`` names it."""
        return TYPE_NAMES[self.type]


class Resize(NamedTuple):
    """Before the keys of a database: how many there are, and how many of them expire. A hint, not a promise."""

    database: int
    keys: int
    expires: int


class Aux(NamedTuple):
    """A field."""

    name: bytes
    value: bytes


class Function(NamedTuple):
    """A library of functions, as ``FUNCTION LOAD`` takes it."""

    code: bytes


class ModuleAux(NamedTuple):
    """What a module keeps beside the keys; it cannot be restored into a running server."""

    module: str


Item = Key | Resize | Aux | Function | ModuleAux


class RdbWalk:
    """Iterate over it, once, to the end.

    :param chunks: the bytes of the RDB in order. :param what: names it in errors.
    :param value_max_bytes: larger values are measured and not given; 0 = none is given.
    :ivar version: known from the first item on. :ivar facts: known at the end. :ivar walked_bytes: how far it is.
    """

    def __init__(self, chunks: Iterable[bytes | memoryview], what: str = "RDB", *, value_max_bytes: int = 0) -> None:
        self._check = RdbCheck(what)
        self._what = what
        self._values = value_max_bytes > 0
        self._in = RdbInput(self._checked(chunks), what, value_max_bytes)
        self._database = 0
        self.version = 0
        self.facts: RdbFacts | None = None

    @property
    def walked_bytes(self) -> int:
        """How many bytes were walked."""
        return self._in.offset

    def __iter__(self) -> Iterator[Item]:
        """:raises Damaged: see the module."""
        self.version = version_of(self._in.take(HEADER_BYTES), self._what)
        self._skips, self._ends = rdb_values.skips(self.version), rdb_values.ends(self.version)
        while True:
            yield from self._quick()
            operation = self._in.byte()
            if operation == OP_EOF:
                break
            item = self._one(operation)
            if item is not None:
                yield item
        self._end()

    def _checked(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            self._check.feed(chunk)
            yield chunk

    def _quick(self) -> Iterator[Key]:
        """Keys that lie whole in what is at hand and whose values take no closer look; ends before what is neither."""
        source, database, ends = self._in, self._database, self._ends
        data, at, values = source.data, source.at, self._values
        size = len(data)
        make, key = tuple.__new__, Key
        while True:
            source.at = at
            try:
                operation = data[at]
                at += 1
                expire = idle = frequency = -1
                while operation in _OF_A_KEY:
                    if operation == OP_EXPIRE_MS:
                        expire = int.from_bytes(data[at : at + 8], "little", signed=True)
                        at += 8
                    elif operation == OP_FREQ:
                        frequency = data[at]
                        at += 1
                    elif operation == OP_IDLE and data[at] < 0x40:
                        idle = data[at]
                        at += 1
                    else:
                        return
                    operation = data[at]
                    at += 1
                first = data[at]
                if first >= 0x40:
                    return
                at += 1 + first
                name = data[at - first : at]
                end = ends[operation](data, at)
            except (IndexError, KeyError):
                return
            if end > size:
                return
            value = data[at:end] if values else None
            yield make(key, (database, name, expire, operation, value, end - at, idle, frequency, ""))
            at = end

    def _one(self, operation: int) -> Item | None:
        """Whatever begins with *operation*, however it is written and wherever it is cut."""
        source = self._in
        if operation in _OF_A_KEY or operation in self._skips:
            return self._key(operation)
        if operation == OP_SELECT:
            self._database = source.length()
        elif operation == OP_RESIZE:
            return Resize(self._database, source.length(), source.length())
        elif operation == OP_AUX:
            return Aux(source.string(), source.string())
        elif operation == OP_FUNCTION2:
            return Function(source.string())
        elif operation == OP_MODULE_AUX:
            name = rdb_values.module_name(source.length())
            source.length()
            source.length()
            rdb_values.module_parts(source)
            return ModuleAux(name)
        elif operation == OP_SLOT_INFO:
            for _ in range(3):
                source.length()
        elif operation == OP_SLOT_IMPORT and self.version in VALKEY_VERSIONS:
            source.skip_string()
            for _ in range(2 * source.length()):
                source.length()
        else:
            self._unknown(operation)
        return None

    def _key(self, operation: int) -> Key:
        source, expire, idle, frequency = self._in, -1, -1, -1
        while operation in _OF_A_KEY:
            if operation == OP_EXPIRE_MS:
                expire = int.from_bytes(source.take(8), "little", signed=True)
            elif operation == OP_EXPIRE:
                expire = 1000 * int.from_bytes(source.take(4), "little", signed=True)
            elif operation == OP_IDLE:
                idle = source.length()
            else:
                frequency = source.byte()
            operation = source.byte()
        if operation not in self._skips:
            self._unknown(operation)
        name = source.string()
        if self._values:
            source.hold()
        begin = source.offset
        module = rdb_values.module_name(source.length()) if operation == rdb_values.TYPE_MODULE else ""
        self._skips[operation](source)
        return Key(
            self._database, name, expire, operation, source.held() if self._values else None, source.offset - begin,
            idle, frequency, module,
        )  # fmt: skip

    def _unknown(self, operation: int) -> None:
        raise Damaged(
            f"{self._what} at byte {self._in.offset - 1}: type or opcode {operation} is not known in RDB version"
            f" {self.version}",
            hint="",
        )

    def _end(self) -> None:
        """Behind the opcode EOF: the checksum, a newline maybe, and nothing.

        :raises Damaged: something else.
        """
        source = self._in
        source.take(CRC_BYTES)
        end = source.offset
        while (behind := len(source.data) - source.at) <= 1 and source.more():
            pass
        if behind > 1:
            raise Damaged(f"{self._what}: something follows its end at byte {end}", hint="")
        self.facts = self._check.finish()


def dump_payload(kind: int, value: bytes, version: int) -> bytes:
    """What ``RESTORE`` takes for the value of a key of an RDB of *version*: as ``DUMP`` gives it.

    :param kind: number of its type and encoding.
    """
    body = b"%c%b%c%c" % (kind, value, version & 0xFF, version >> 8)
    return body + crc64(body).to_bytes(CRC_BYTES, "little")


def dump_frame(kind: int, value: bytes, version: int) -> tuple[bytes, bytes]:
    """What stands before and behind *value* in :func:`dump_payload`: for values too large to be copied."""
    before, after = bytes([kind]), version.to_bytes(2, "little")
    return before, after + crc64(after, crc64(value, crc64(before))).to_bytes(CRC_BYTES, "little")
