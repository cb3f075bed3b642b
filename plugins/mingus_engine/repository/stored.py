"""What is stored already, as those who look for it see it: blocks of files, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mingus_engine import bounds
from mingus_engine.codec.entries import BlobRef
from mingus_engine.repository.packs import PackRef

#: The hash of a block that nobody has hashed (DESIGN §4).
UNKNOWN_HASH = bytes(bounds.BLOCK_HASH_BYTES)


class Place(NamedTuple):
    """Bytes ``offset`` to ``offset + length`` of a file lie at ``blob_offset`` of ``blob``; ``None`` = a hole."""

    offset: int
    length: int
    blob: BlobRef | None
    blob_offset: int = 0


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block that is stored already: its keyed hash and where its bytes lie, ascending and gapless. ``length`` in
    bytes, 64 KiB but for a file's end.
    """

    hash: bytes
    length: int
    places: tuple[Place, ...]


class KnownRuns(Protocol):
    """What knows the keys of runs."""

    @property
    def run_keys(self) -> Mapping[str, bytes]:
        """The keys of the runs whose packs hold what is known, by ULID."""


class Stored(KnownRuns, Protocol):
    """A collection of stored blocks. ``get`` and ``pack`` may be called by any thread."""

    def get(self, path: bytes, offset: int, length: int) -> dict[int, StoredBlock]:
        """The stored blocks of *path* that begin in the range, by file offset; only those that may be used."""

    def pack(self, run: str, number: int) -> PackRef:
        """The pack that a place lies in."""
