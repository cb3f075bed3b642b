"""What the wrappers share: everything is passed on to the store inside, unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from mingus_engine.store.base import Body, Features, ObjectInfo, Store


class StoreWrapper:
    """A store that passes every call on; a wrapper overrides what it changes.

    :param inner: the store inside; closed with the wrapper.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def location(self) -> str:
        """The place of the store inside."""
        return self.inner.location

    @property
    def features(self) -> Features:
        return self.inner.features

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        self.inner.put(name, body, size=size, sha256=sha256)

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        return self.inner.get(name, max_bytes=max_bytes)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(name, offset, length)

    def stat(self, name: str) -> ObjectInfo:
        return self.inner.stat(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def now(self) -> datetime:
        return self.inner.now()

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def close(self) -> None:
        self.inner.close()
