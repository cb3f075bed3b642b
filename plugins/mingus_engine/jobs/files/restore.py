"""``restore`` for files: a snapshot becomes a tree, with all that its files had."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mingus_engine import bounds
from mingus_engine.codec.entries import EXTENT
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import SettingsError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.files.materialise import TreeMaterialiser, link_of
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.base import FileEntry
from mingus_engine.targets.files.tree import OwnerOf, TreeTarget

_RESTORE_WORKERS = 2
OWNERS = ("ids", "names", "mine")


@dataclass(frozen=True, kw_only=True)
class FilesPlan:
    """What a restore will do. ``bytes``: of contents, other names of a file not counted again; ``needed``: without
    holes.
    """

    snapshot: str
    directory: str
    roots: list[dict[str, str]]
    files: int
    entries: int
    bytes: int
    needed: int

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class FilesRestoreReport(Report):
    """What was restored; ``plan`` alone with a dry run.

    :param lost: what could not be restored for want of rights or of support by the file system (``owner``, ``xattr``,
        ``device``): count and names of each.
    """

    repository: str
    snapshot: str
    directory: str
    files: int = 0
    bytes_written: int = 0
    owners: str = ""
    lost: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any]


def restore_files(
    settings: Settings,
    source_id: str,
    *,
    directory: Path,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    owners: str | None = None,
    dry_run: bool = False,
) -> FilesRestoreReport:
    """Restore *source_id* into *directory*, which must be empty or not there; each root below its label.

    :param repository: from where; default: the first reachable one of the chain. :param snapshot: ULID or its
        beginning; default: the newest.
    :param owners: by ``ids``, by ``names`` (ids where a name is unknown here), or all ``mine``; default: ids if the
        process is root, else mine. :param dry_run: only the plan.
    :raises TargetError: the place is not usable; nothing was written. :raises NoSuchSnapshot: :raises Damaged:
    """
    clock = Stopwatch()
    settings.stored_source(source_id, "files")
    owners = owners or ("ids" if os.geteuid() == 0 else "mine")
    if owners not in OWNERS:
        raise SettingsError(f"{owners!r} is not one of {', '.join(OWNERS)}")
    with ExitStack() as stack:
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        manifest = reading.choose(place, source_id, snapshot)
        stack.enter_context(reading.announced(place, manifest, context))
        job = FilesRestore(SnapshotReader(place, manifest, settings.spool_path), directory, context)
        plan = job.plan()
        if not dry_run:
            job.run(owners=owners, durable=True)
        return FilesRestoreReport(
            job="restore",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            directory=str(directory),
            files=job.files,
            bytes_written=job.bytes,
            owners=owners,
            lost=job.lost,
            plan=plan.as_dict(),
        )


class FilesRestore:
    """One snapshot into one directory; used by ``restore`` and by restore tests."""

    def __init__(self, reader: SnapshotReader, directory: Path, context: JobContext) -> None:
        self._reader, self._directory, self._context = reader, directory, context
        self._plan: FilesPlan | None = None
        self._large: list[TabledEntry] = []
        self.files = self.bytes = 0
        self.lost: dict[str, Any] = {}

    def plan(self) -> FilesPlan:
        """What will be written. Reads the shards, and the maps of large files."""
        if self._plan is None:
            files = entries = size = needed = 0
            for table in self._reader.tables():
                self._context.checkpoint()
                entries += len(table)
                for number, record in enumerate(table.records):
                    if record[0] != FileKind.FILE:
                        continue
                    files += 1
                    if table.has_more(number) and link_of(table.entry(number)):
                        continue
                    size += record[8]
                    if record[8] < bounds.BLOCK_BYTES:
                        needed += record[8]  # too small to have a hole
                    elif record[12]:
                        self._large.append(TabledEntry(table.entry(number), table.runs))
                        needed += self._reader.stored_bytes(self._large[-1])
                    else:
                        needed += stored_bytes(table.extents(number))
            facts = self._reader.body.facts
            self._plan = FilesPlan(
                snapshot=self._reader.manifest.ulid,
                directory=str(self._directory),
                roots=[{"label": str(r["label"]), "path": str(r["path"])} for r in facts.get("roots", ())],
                files=files,
                entries=entries,
                bytes=size,
                needed=needed,
            )
        return self._plan

    def run(self, *, owners: str, durable: bool) -> None:
        """Write everything; on failure what was written is removed.

        :raises TargetError: :raises Damaged: :raises Cancelled:
        """
        plan = self.plan()
        owner_of = _owner_of(owners, self._reader.body.facts.get("owners", {}))
        target = TreeTarget(self._directory, owner_of=owner_of, durable=durable)
        try:
            target.prepare(plan.needed, plan.entries)
            try:
                materialiser = TreeMaterialiser(self._reader, target, self._context, plan.bytes)
                written = materialiser.run(self._large, _RESTORE_WORKERS)
                target.finish()
            except BaseException:
                target.abandon()
                raise
        finally:
            target.close()
        self.files, self.bytes = written.files, written.bytes
        self.lost = {sort: {"count": count, "paths": target.named[sort]} for sort, count in target.lost.items()}


def stored_bytes(extents: bytes) -> int:
    """How much of encoded *extents* is no hole."""
    return sum(length for _, length, _, hole, _, _, _, _ in EXTENT.iter_unpack(extents) if not hole)


def _owner_of(owners: str, names: Mapping[str, Mapping[str, str]]) -> OwnerOf:
    if owners == "mine":
        return lambda _: None
    if owners == "ids":
        return lambda entry: (entry.uid, entry.gid)
    users: dict[int, int] = {}
    groups: dict[int, int] = {}

    def by_name(entry: FileEntry) -> tuple[int, int]:
        if entry.uid not in users:
            users[entry.uid] = _here(entry.uid, names.get("users", {}), lambda name: pwd.getpwnam(name).pw_uid)
        if entry.gid not in groups:
            groups[entry.gid] = _here(entry.gid, names.get("groups", {}), lambda name: grp.getgrnam(name).gr_gid)
        return users[entry.uid], groups[entry.gid]

    return by_name


def _here(number: int, names: Mapping[str, str], find: Any) -> int:
    """The id that the name of *number* has on this machine; *number* where the name is not known."""
    try:
        return int(find(names[str(number)]))
    except KeyError:
        return number
