"""``find``: which snapshots have files of a name, and as what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pathspec

from mingus_engine.codec.entries import Entry
from mingus_engine.errors import SettingsError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.file_listing import FileInfo, file_info
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a snapshot. ``change``: against the snapshot before, of several: ``new``, ``changed``, ``same``."""

    snapshot: str
    written_at: datetime
    file: FileInfo
    change: str


@dataclass(frozen=True)
class Search:
    """What was looked through: snapshots, oldest first, and how many files were found in them."""

    source: str
    repository: str
    snapshots: tuple[str, ...]
    count: int


def find_files(
    settings: Settings,
    source: str,
    patterns: Sequence[str],
    *,
    into: Callable[[FoundFile], None],
    snapshot: str | None = None,
    every: bool = False,
    changed: bool = False,
    repository: str | None = None,
    context: JobContext,
) -> Search:
    """Give *into* every file whose path matches one of *patterns* (as in ``.gitignore``), by snapshot, oldest first.

    :param snapshot: ULID or its beginning; default: the newest. :param every: in all snapshots of *source*.
    :param changed: of all snapshots only what is not as it was in the one before.
    :raises SettingsError: a pattern cannot be understood. :raises NoSuchSnapshot: :raises Damaged:
    """
    settings.stored_source(source)
    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise SettingsError(f"a pattern cannot be understood: {error}") from None
    if snapshot and every:
        raise SettingsError("one snapshot or all of them: say one")
    with places.chosen(settings, source, repository, context) as place:
        manifests = _manifests(place, source, snapshot, every=every)
        count = 0
        before: dict[bytes, tuple[object, ...]] | None = None
        for manifest in manifests:
            now: dict[bytes, tuple[object, ...]] = {}
            with reading.announced(place, manifest, context):
                for entry in _matching(SnapshotReader(place, manifest), spec, context):
                    if not every:
                        change = ""
                    else:
                        now[entry.path] = seen = _seen(entry)
                        known = None if before is None else before.get(entry.path)
                        change = "new" if known is None else "same" if known == seen else "changed"
                    if not (changed and every and change == "same"):
                        count += 1
                        into(FoundFile(manifest.ulid, manifest.written_at, file_info(entry), change))
            before = now
        return Search(source, place.name, tuple(m.ulid for m in manifests), count)


def _manifests(place: Repository, source: str, snapshot: str | None, *, every: bool) -> Sequence[Manifest]:
    if not every:
        return (reading.choose(place, source, snapshot),)
    seen = state.look(place, source)
    seen.newest()  # says so where there is none, or one that cannot be read
    return seen.manifests


def _matching(reader: SnapshotReader, spec: pathspec.GitIgnoreSpec, context: JobContext) -> Iterator[Entry]:
    for table in reader.tables():
        context.checkpoint()
        for number, path in enumerate(table.paths):
            folder = table.records[number][0] == FileKind.DIRECTORY
            if spec.match_file(os.fsdecode(path) + ("/" if folder else "")):
                yield table.entry(number)


def _seen(entry: Entry) -> tuple[object, ...]:
    """What tells one state of a file from another; of contents a short hash of the hashes is enough."""
    return (
        entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.target,
        hash(entry.hashes), hash(entry.maps),
    )  # fmt: skip
