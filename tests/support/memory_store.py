"""A store in memory: the contract of ``mingus_engine.store.base`` without a disk, for tests that damage objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from mingus_engine.errors import Damaged, ObjectMissing
from mingus_engine.store import bodies
from mingus_engine.store.base import Body, Features, ObjectInfo, Store, checked_name, checked_prefix


class MemoryStore:
    """Names and bytes in ``objects``, free to be changed by a test."""

    location = "memory"
    features = Features(put_proves_content=True, durable_local_path=False)

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})

    @classmethod
    def copy_of(cls, store: Store) -> MemoryStore:
        """Everything that *store* lists."""
        return cls({info.name: store.get(info.name) for info in store.list("")})

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        """As the contract says; other bytes under a name that is taken are refused."""
        raw = b"".join(bodies.pieces(body, 0, size))
        if len(raw) != size or hashlib.sha256(raw).digest() != sha256:
            raise Damaged(f"{name}: not the promised bytes")
        if self.objects.setdefault(checked_name(name), raw) != raw:
            raise Damaged(f"{name}: other bytes are there")

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """The whole object."""
        raw = self._there(name)
        if max_bytes is not None and len(raw) > max_bytes:
            raise Damaged(f"{name} has {len(raw)} bytes, at most {max_bytes} are expected")
        return raw

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly *length* bytes."""
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: {length} bytes from {offset}")
        raw = self._there(name)[offset : offset + length]
        if len(raw) != length:
            raise Damaged(f"{name} ends before {length} bytes from {offset}")
        return raw

    def stat(self, name: str) -> ObjectInfo:
        """Name and size."""
        return ObjectInfo(name, len(self._there(name)), self.now())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """In name order."""
        checked_prefix(prefix)
        found = sorted(n for n in self.objects if n.startswith(prefix))
        return iter([ObjectInfo(name, len(self.objects[name]), self.now()) for name in found])

    def delete(self, name: str) -> None:
        """Gone, also when it was not there."""
        self.objects.pop(name, None)

    def now(self) -> datetime:
        """This machine's clock."""
        return datetime.now(UTC)

    def free_bytes(self) -> int | None:
        """Nobody knows."""
        return None

    def close(self) -> None:
        """Nothing to close."""

    def _there(self, name: str) -> bytes:
        if name not in self.objects:
            raise ObjectMissing(f"{name} is not in {self.location}")
        return self.objects[name]
