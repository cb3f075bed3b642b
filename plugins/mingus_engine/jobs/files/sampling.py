"""Restore tests that take turns: each restores a share of a set, and so many of them everything.

A file's share follows from its path alone, so files that stay are in one share, whatever else changes. Which share is
next follows from the last proof in the same repository: after one that failed, the same again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from blake3 import blake3

from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import VerifySettings
from mingus_engine.sources.base import FileKind


@dataclass(frozen=True)
class Sample:
    """Share *part* (from 0) of *of*. ``number``: how many good ones went before with the same *of*."""

    part: int
    of: int
    number: int = 0

    def has(self, path: bytes) -> bool:
        """Whether a file of this path belongs to it."""
        return int.from_bytes(blake3(path).digest(length=8), "little") % self.of == self.part

    def as_dict(self) -> dict[str, int]:
        """For the proof: also which round through the whole set it is, from 1."""
        return {**asdict(self), "cycle": self.number // self.of + 1}


def shares(settings: VerifySettings, total_bytes: int) -> int:
    """How many shares a set of *total_bytes* is tested in."""
    by_share = math.ceil(1 / settings.sample_share - 1e-9)
    by_bytes = math.ceil(total_bytes / settings.sample_max_bytes) if settings.sample_max_bytes else 1
    return max(1, by_share, by_bytes)


def following(facts: Mapping[str, Any] | None, of: int, today: date) -> Sample:
    """The sample after the one that a proof's *facts* tell of; without any, one by the date."""
    last = (facts or {}).get("sample")
    if facts is None or not isinstance(last, Mapping) or last.get("of") != of:
        return Sample(today.toordinal() % of, of)
    part, number = int(last.get("part", 0)), int(last.get("number", 0))
    return Sample((part + 1) % of, of, number + 1) if facts.get("ok") is True else Sample(part, of, number)


class SampledReader(SnapshotReader):
    """A snapshot of which only the directories and the files of *sample* are seen; names of one file stay together."""

    def __init__(self, repository: Repository, manifest: Manifest, spool_path: Path | None, sample: Sample) -> None:
        super().__init__(repository, manifest, spool_path)
        self._sample = sample

    def files(self) -> Iterator[TabledEntry]:
        """As :meth:`SnapshotReader.files`, of the sample."""
        return (file for file in super().files() if self._has(file.entry))

    def tables(self, *numbers: Any) -> Iterator[ShardTable]:
        """As :meth:`SnapshotReader.tables`, of the sample."""
        for table in super().tables(*numbers):
            yield table.only([number for number in range(len(table)) if self._has_number(table, number)])

    def _has_number(self, table: ShardTable, number: int) -> bool:
        if table.records[number][0] == FileKind.DIRECTORY:
            return True
        return self._has(table.entry(number)) if table.has_more(number) else self._sample.has(table.paths[number])

    def _has(self, entry: Entry) -> bool:
        if entry.kind == FileKind.DIRECTORY:
            return True
        first = b""
        if attributes.has_more(entry.extra):
            first = attributes.decode(entry.extra, entry.path.decode("utf-8", "replace")).link
        return self._sample.has(first or entry.path)
