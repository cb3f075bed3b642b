"""Putting and getting whole named objects, with the check of the SHA-256 that their names promise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mingus_engine import bounds
from mingus_engine.errors import Damaged
from mingus_engine.repository import names
from mingus_engine.store.base import Store

_OBJECT_MAX_BYTES = 2 * bounds.HEADER_MAX_BYTES + bounds.BODY_MAX_BYTES


def get_object(store: Store, name: str, *, max_bytes: int = _OBJECT_MAX_BYTES) -> bytes:
    """The bytes of *name*.

    :raises ObjectMissing: not there. :raises Damaged: they do not have the SHA-256 of the name.
    """
    raw = store.get(name, max_bytes=max_bytes)
    promised = names.stored_sha256(name)
    if promised is not None and hashlib.sha256(raw).hexdigest() != promised:
        raise Damaged(f"{name} in {store.location}: bytes do not have the SHA-256 of its name")
    return raw


def put_object(store: Store, raw: bytes, name: str | Callable[[str], str], *, read_back: bool = False) -> str:
    """Store *raw* under a name made of its SHA-256 (hex), or a fixed one; gives the name.

    :param read_back: get it in full afterwards (manifests, log keys; DESIGN §4 "Stored means").
    :raises Damaged: what came back is not what was put.
    """
    digest = hashlib.sha256(raw)
    full = name if isinstance(name, str) else name(digest.hexdigest())
    store.put(full, raw, size=len(raw), sha256=digest.digest())
    if read_back and store.get(full, max_bytes=len(raw)) != raw:
        raise Damaged(f"{full} in {store.location}: what was read back is not what was put")
    return full
