"""Items of small files that were made and not read: ``backup_label``, configuration from outside the data directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingus_engine import bounds
from mingus_engine.sources.base import SourceFile


@dataclass(frozen=True)
class MadeItem:
    """A range of a content that is in memory already."""

    file: SourceFile
    offset: int
    content: bytes
    last: bool

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.content)

    def read(self, scratch: memoryview) -> memoryview:  # noqa: ARG002 - the contract of items
        """The content itself."""
        return memoryview(self.content)

    def release(self) -> None:
        """Nothing is held."""


def made_items(files: Sequence[tuple[SourceFile, bytes]]) -> Iterator[MadeItem]:
    """The items of *files*."""
    for file, content in files:
        for at in range(0, len(content) or 1, bounds.SLAB_BYTES):
            piece = content[at : at + bounds.SLAB_BYTES]
            yield MadeItem(file, at, piece, at + bounds.SLAB_BYTES >= len(content))
