"""Which entries of a snapshot are meant: all, those at or below exact paths, those that match patterns.

Paths are as ``ls`` shows them: a root's label first. Patterns are those of ``.gitignore``, seen from above the roots.
Entries come in path order, so memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pathspec

from mingus_engine.codec.shard_table import ShardTable
from mingus_engine.errors import NoSuchSnapshot, SettingsError
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown


class Chosen(NamedTuple):
    """An entry of ``table``. ``parent``: not meant itself, but a directory that something meant lies in."""

    table: ShardTable
    number: int
    parent: bool = False

    @property
    def path(self) -> bytes:
        """Its path."""
        return self.table.paths[self.number]


class Selection:
    """See the module; what is below one of *paths* or matches *patterns* is meant, everything where neither is given.

    :raises SettingsError: a path or pattern that cannot be.
    """

    def __init__(self, paths: Sequence[str] = (), patterns: Sequence[str] = ()) -> None:
        self._paths = tuple(sorted(raw_path(path) for path in paths))
        if b"" in self._paths:
            raise SettingsError("an empty path", hint="leave it out: everything is restored then")
        self._missing = set(self._paths)
        self._spec: pathspec.GitIgnoreSpec | None = None
        if patterns:
            try:
                self._spec = pathspec.GitIgnoreSpec.from_lines(patterns)
            except ValueError as error:
                raise SettingsError(f"a pattern cannot be understood: {error}") from None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not self._paths and self._spec is None

    def wants(self, path: bytes, *, folder: bool) -> bool:
        """Whether an entry is meant."""
        if self.everything:
            return True
        for chosen in self._paths:
            if path == chosen or path.startswith(chosen + b"/"):
                self._missing.discard(chosen)
                return True
        return self._spec is not None and self._spec.match_file(os.fsdecode(path) + ("/" if folder else ""))

    def of(self, reader: SnapshotReader) -> Iterator[Chosen]:
        """The entries of a snapshot that are meant, in path order, each after the directories that it lies in.

        :raises NoSuchSnapshot: (at the end) one of the paths is not in it, or nothing matched.
        """
        self._missing = set(self._paths)
        waiting: list[Chosen] = []
        found = False
        for table in reader.tables(self.shards(reader)):
            for number, path in enumerate(table.paths):
                folder = table.records[number][0] == FileKind.DIRECTORY
                if self.everything:
                    yield Chosen(table, number)
                    continue
                # Of the directories before only those matter in which more may come: "a" is, until "a0".
                waiting = [one for one in waiting if path < one.path + b"0"]
                if self.wants(path, folder=folder):
                    found = True
                    inside = [one for one in waiting if path.startswith(one.path + b"/")]
                    yield from inside
                    waiting = [one for one in waiting if one not in inside]
                    yield Chosen(table, number)
                elif folder:
                    waiting.append(Chosen(table, number, parent=True))
        if self._missing:
            raise no_path(min(self._missing), reader)
        if not found and not self.everything:
            raise NoSuchSnapshot(f"nothing in snapshot {reader.manifest.ulid} matches the patterns")

    def shards(self, reader: SnapshotReader) -> list[int]:
        """Numbers of the shards that may hold something that is meant. Patterns may match anywhere."""
        if self.everything or self._spec is not None:
            return list(range(len(reader.body.shards)))
        ranges = [(path, path + b"0") for path in self._paths]
        above = {path[:at] for path in self._paths for at in range(len(path)) if path[at : at + 1] == b"/"}
        return reader.shards_within([*ranges, *((path, path + b"\0") for path in above)])


def raw_path(path: str) -> bytes:
    """The bytes of a path as a person writes it: ``\\xNN`` for what is not UTF-8 is understood, as it is shown.

    :raises SettingsError: it cannot be the path of an entry.
    """
    raw = os.fsencode(path.strip("/"))
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in raw.split(b"/") if raw):
        raise SettingsError(f"{shown(raw)!r} is not the path of a file in a snapshot")
    return raw


def no_path(path: bytes, reader: SnapshotReader, why: str = "") -> NoSuchSnapshot:
    """The error that says that *path* is not there."""
    ulid = reader.manifest.ulid
    return NoSuchSnapshot(
        f"{why or f'no file {shown(path)}'} in snapshot {ulid}",
        hint=f"`mingus ls {ulid} --recursive` shows what there is",
    )


def entries_at(reader: SnapshotReader, paths: Iterable[bytes]) -> Iterator[Chosen]:
    """The entries that have exactly one of *paths*; only the shards that may hold them are read."""
    wanted = set(paths)
    for table in reader.tables(reader.shards_within([(path, path + b"\0") for path in wanted])):
        for number, path in enumerate(table.paths):
            if path in wanted:
                yield Chosen(table, number)
