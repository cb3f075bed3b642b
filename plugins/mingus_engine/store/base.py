"""What a store is: named immutable objects, put whole, read in ranges, listed completely.

The contract (one suite, ``tests/contracts/test_store.py``, holds every store and wrapper to it):

* ``put`` returns only when the object is *stored* (DESIGN §4 "Commit"): local, size and fsync of the file,
  the folder and new parent folders after temp + rename; S3, a checksum the probe proved is enforced, else a
  full GET. It is idempotent: the same name with the same bytes is a success. A failed or killed ``put``
  leaves no object under the name, or the whole one; never a part.
* What is put must have the promised size, bytes in memory also the promised SHA-256: else ``Damaged``, and nothing
  is stored. So is a put of other bytes under a name that is there; the first stay.
* ``get``/``get_range`` return exactly what was asked for or raise: ``ObjectMissing`` when the name is not
  there, ``Damaged`` when the object is shorter than was asked for (a connection cut short is ``StoreUnreachable``).
* ``list`` yields every object whose name starts with the prefix, in name order, or raises; a failed listing
  is never a short one. Left-overs of interrupted puts are not objects and are never listed.
* ``delete`` of a name that is not there is a success.
* Names are relative, ``/``-separated, of ``[A-Za-z0-9._-]``; a store refuses others, and prefixes that no name can
  have (``ValueError``). No name may be another's folder (``a`` and ``a/b``): a store of files cannot hold both.
* Every error is of the tree in ``mingus_engine.errors`` and says the store's ``location`` and the name;
  none holds a credential.
* A store may be used by several threads at once. ``close`` is the caller's, once, and idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol, runtime_checkable

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,254})*")

#: What can be put: bytes, or a file open for reading whose whole content (from 0 to ``size``) is the object.
Body = bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object. ``size`` in bytes; ``modified`` by the store's clock, UTC."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Features:
    """What differs between stores, as facts a caller may read instead of asking what class it is.

    :param put_proves_content: a successful ``put`` proves that the stored bytes are the ones sent.
    :param durable_local_path: objects are files of this machine (the restore may read them in place).
    """

    put_proves_content: bool
    durable_local_path: bool


@runtime_checkable
class Store(Protocol):
    """See the module's docstring for the contract."""

    @property
    def location(self) -> str:
        """Where it is, for people (``/srv/backups``, ``s3://bucket/prefix``); never a credential."""

    @property
    def features(self) -> Features: ...

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        """Store *body*; ``size`` in bytes and ``sha256`` (32 bytes) are of the whole body."""

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The whole object; ``Damaged`` when it is longer than *max_bytes* (hostile objects)."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly *length* bytes from *offset*; ``Damaged`` when the object ends before."""

    def stat(self, name: str) -> ObjectInfo: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose name starts with *prefix* (any string, not only whole folders)."""

    def delete(self, name: str) -> None: ...

    def now(self) -> datetime:
        """The store's present by its own clock (S3: ``Date`` header; local: mtime of a fresh file), UTC."""

    def free_bytes(self) -> int | None:
        """Free space where the store can tell, else ``None``."""

    def close(self) -> None: ...


def is_name(name: str) -> bool:
    """Whether *name* is a valid object name: no part empty, hidden or over 255 (file systems), at most 900 in all."""
    return len(name) <= 900 and _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """*name*, if it is a valid object name.

    :raises ValueError: it is not: absolute, ``..``, empty part, or another character.
    """
    if not is_name(name):
        raise ValueError(f"not an object name: {name[:120]!r}")
    return name


def checked_prefix(prefix: str) -> str:
    """*prefix*, if an object name can start with it; ``""`` is the prefix of all.

    :raises ValueError: no name can: a slip of the caller, which must not read as "no objects".
    """
    if prefix and not is_name(prefix.removesuffix("/")):
        raise ValueError(f"no object name starts with {prefix[:120]!r}")
    return prefix
