"""Bodies of objects on their way into a store: checked, hashed in bounded pieces, read by position.

A body is bytes or an open file (:data:`mingus_engine.store.base.Body`). Files are read with ``pread`` where they have a
descriptor, so that neither memory nor the caller's file position is touched.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mingus_engine import bounds
from mingus_engine.errors import Damaged
from mingus_engine.store.base import Body

# Large enough that Python's cost per piece vanishes beside hashing (0.6 ms per MiB), small enough for any memory.
PIECE_BYTES = bounds.MIB


@runtime_checkable
class Paced(Protocol):
    """A body whose reading is slowed down when it counts as sending (a bandwidth limit), and only then."""

    def peek_at(self, offset: int, length: int) -> bytes:
        """At most *length* bytes from *offset* at once; no bytes at the end."""

    def take_at(self, offset: int, length: int) -> bytes:
        """The same, not before the limit allows so many bytes to be sent."""


def file_descriptor(body: Body) -> int | None:
    """The descriptor of a body that is a real file, flushed; ``None`` for bytes and for files in memory."""
    if isinstance(body, bytes | bytearray | memoryview):
        return None
    try:
        descriptor = body.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
    body.flush()
    return descriptor


def peek_at(body: Body, offset: int, length: int) -> bytes | memoryview:
    """At most *length* bytes of *body* from *offset*, to hash them."""
    if isinstance(body, bytes | bytearray | memoryview):
        return memoryview(body).cast("B")[offset : offset + length]
    if isinstance(body, Paced):
        return body.peek_at(offset, length)
    descriptor = file_descriptor(body)
    if descriptor is not None:
        return os.pread(descriptor, length, offset)
    body.seek(offset)
    return body.read(length)


def take_at(body: Body, offset: int, length: int) -> bytes | memoryview:
    """At most *length* bytes of *body* from *offset*, to send or store them."""
    return body.take_at(offset, length) if isinstance(body, Paced) else peek_at(body, offset, length)


def pieces(
    body: Body,
    offset: int,
    length: int,
    *,
    at: Callable[[Body, int, int], bytes | memoryview] = peek_at,
) -> Iterator[bytes | memoryview]:
    """*length* bytes of *body* from *offset* in pieces of at most :data:`PIECE_BYTES`; fewer when the body ends.

    :param at: :func:`peek_at` or :func:`take_at`.
    """
    end = offset + length
    while offset < end:
        piece = at(body, offset, min(PIECE_BYTES, end - offset))
        if not piece:
            return
        yield piece
        offset += len(piece)


def sha256_of(body: Body, size: int) -> bytes:
    """The SHA-256 of the first *size* bytes of *body*."""
    digest = hashlib.sha256()
    for piece in pieces(body, 0, size):
        digest.update(piece)
    return digest.digest()


@dataclass(frozen=True)
class Incoming:
    """What a ``put`` was given: the body and what the caller promised about it.

    :param location: the store it goes to, for messages.
    """

    location: str
    name: str
    body: Body
    size: int
    sha256: bytes

    def check(self) -> None:
        """Refuse what can be told to be wrong without reading a file.

        :raises Damaged: the body has not ``size`` bytes, or lies in memory and has not the SHA-256.
        """
        actual = self._actual_size()
        if actual != self.size:
            raise Damaged(
                f"the bytes to put as {self.name} in {self.location} are {actual}, promised were {self.size}; "
                "nothing was stored"
            )
        if isinstance(self.body, bytes | bytearray | memoryview):
            self.check_digest(hashlib.sha256(self.body).digest())

    def check_digest(self, digest: bytes) -> None:
        """Refuse bytes that turned out to have another SHA-256.

        :raises Damaged: they have.
        """
        if digest != self.sha256:
            raise Damaged(
                f"the bytes to put as {self.name} in {self.location} have SHA-256 {digest.hex()}, "
                f"promised was {self.sha256.hex()}; nothing was stored"
            )

    def _actual_size(self) -> int:
        if isinstance(self.body, bytes | bytearray | memoryview):
            return memoryview(self.body).nbytes
        descriptor = file_descriptor(self.body)
        return os.fstat(descriptor).st_size if descriptor is not None else self.body.seek(0, io.SEEK_END)


class Window(io.RawIOBase):
    """Bytes ``[offset, offset + length)`` of a body as a file of their own, for a client that reads and rewinds it.

    Reads by position where the body can, so that parts of one file never disturb each other.
    """

    def __init__(self, body: Body, offset: int, length: int) -> None:
        super().__init__()
        self._body = body
        self._offset = offset
        self._length = length
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True  # an empty file is a file: clients test for "no body" by truth

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._length - self._position)
        wanted = rest if size < 0 else min(size, rest)
        data = bytes(take_at(self._body, self._offset + self._position, wanted)) if wanted else b""
        self._position += len(data)
        return data
