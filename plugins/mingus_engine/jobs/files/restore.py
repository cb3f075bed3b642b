"""``restore`` for files: a snapshot, or a part of one, becomes a tree, with all that its files had."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mingus_engine import bounds
from mingus_engine.codec.entries import EXTENT
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import MingusError, SettingsError, TargetNotEmpty
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.files import moments
from mingus_engine.jobs.files.deciding import Action, Change, Policy, Tally
from mingus_engine.jobs.files.materialise import TreeMaterialiser, link_of
from mingus_engine.jobs.files.merging import Merging
from mingus_engine.jobs.files.originals import originals_of
from mingus_engine.jobs.files.owning import OWNERS, owner_of
from mingus_engine.jobs.files.removing import Removing, no_witness
from mingus_engine.jobs.files.selecting import Selection
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.files.live import LiveTarget
from mingus_engine.targets.files.tree import TreeTarget

_RESTORE_WORKERS = 2
#: Told each line of a restore's list.
Tell = Callable[[Change], None]


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
    """What was restored; with a dry run, what would be.

    :param directory: where to; empty = to the original places. :param ended: when the snapshot was complete.
    :param actions: ``created``, ``overwritten``, ``skipped``, ``unchanged``, ``removed``: ``count`` of entries (of
        directories only those made, changed or removed) and ``bytes`` of contents.
    :param changes: the first of the list: ``+`` new, ``~`` differs (or was kept), ``-`` not in the snapshot.
    :param kept: why nothing was removed by a delta restore that otherwise would have.
    :param lost: what could not be restored for want of rights or of support by the file system (``owner``, ``xattr``,
        ``device``): count and names of each.
    """

    repository: str
    snapshot: str
    directory: str
    ended: str
    files: int = 0
    bytes_written: int = 0
    owners: str = ""
    actions: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    kept: str = ""
    lost: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any]


def restore_files(
    settings: Settings,
    source_id: str,
    *,
    directory: Path | None = None,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    at: datetime | str | None = None,
    original: bool = False,
    paths: tuple[str, ...] = (),
    patterns: tuple[str, ...] = (),
    conflict: str = "fail",
    delta: bool = False,
    owners: str | None = None,
    dry_run: bool = False,
    tell: Tell = lambda _: None,
) -> FilesRestoreReport:
    """Restore *source_id*, or a part of it, into *directory* (each root below its label), or to the *original* places.

    A failed restore into a directory that was empty leaves nothing; into others, what was done stays, and is said.

    :param repository: from where; default: the first reachable one of the chain.
    :param snapshot: ULID or its beginning; default: the newest.
    :param at: the newest that had ended by then (``time:…``; without an offset UTC).
    :param original: where the roots were; the settings must still name them so.
    :param paths: only these, as ``ls`` shows them, directories with all below.
    :param patterns: and what matches one of these (as in ``.gitignore``). Directories that what was chosen lies in are
        made with their recorded attributes.
    :param conflict: of what is there already: ``fail`` (before anything is written; *directory* must be empty),
        ``skip`` it, overwrite it where the snapshot's is ``newer``, or always ``overwrite``.
    :param delta: make the place equal to the snapshot, writing only what differs in size, time or attributes and then
        in content (with ``overwrite``: in content, whatever size and time say). Of a whole snapshot also what is not in
        it is removed below its roots (see ``jobs.files.removing``).
    :param owners: by ``ids``, by ``names`` (ids where a name is unknown here), or all ``mine``; default: ids if the
        process is root, else mine.
    :param dry_run: only look. :param tell: is told every change; by any thread.
    :raises TargetNotEmpty: something is there. :raises TargetError: the place is not usable.
    :raises NotRestorable: *at* lies before the oldest snapshot. :raises NoSuchSnapshot: :raises Damaged:
    :raises SettingsError:
    """
    clock = Stopwatch()
    settings.stored_source(source_id, "files")
    policy = Policy.of(conflict, delta=delta)
    moment = _moment(at, snapshot)
    if original == (directory is not None):
        raise SettingsError("say where to: a directory, or the original places")
    owners = owners or ("ids" if os.geteuid() == 0 else "mine")
    if owners not in OWNERS:
        raise SettingsError(f"{owners!r} is not one of {', '.join(OWNERS)}")
    with ExitStack() as stack:
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        manifest = _manifest(place, source_id, snapshot, moment)
        stack.enter_context(reading.announced(place, manifest, context))
        job = FilesRestore(
            SnapshotReader(place, manifest, settings.spool_path), directory, context,
            selection=Selection(paths, patterns), tell=tell,
        )  # fmt: skip
        if original:
            job.originals = originals_of(settings, source_id, job.reader)
        plan = job.plan()
        if not job.is_fresh(policy):
            job.merge(policy, owners=owners, dry_run=dry_run)
        elif dry_run:
            job.list_new()
        else:
            job.run(owners=owners, durable=True)
        return FilesRestoreReport(
            job="restore",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            ended=moments.ended(place, manifest).isoformat(),
            directory=str(directory or ""),
            files=job.files,
            bytes_written=job.bytes,
            owners=owners,
            actions=job.tally.counts,
            changes=job.tally.first,
            kept=job.kept,
            lost=job.lost,
            plan=plan.as_dict(),
        )


class FilesRestore:
    """One snapshot into one directory; used by ``restore`` and by restore tests.

    :param directory: ``None`` with ``originals``. :ivar originals: label → where it was.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        directory: Path | None,
        context: JobContext,
        *,
        selection: Selection | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        self.reader, self._directory, self._context = reader, directory, context
        self._selection, self._tell = selection or Selection(), tell
        self._plan: FilesPlan | None = None
        self._large: list[TabledEntry] = []
        self.originals: dict[bytes, bytes] = {}
        self.files = self.bytes = 0
        self.tally = Tally()
        self.kept = ""
        self.lost: dict[str, Any] = {}

    def plan(self) -> FilesPlan:
        """What is meant. Reads the shards that hold it, and the maps of large files."""
        if self._plan is None:
            files = entries = size = needed = 0
            for table, number, _ in self._selection.of(self.reader):
                self._context.checkpoint()
                entries += 1
                record = table.records[number]
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
                    needed += self.reader.stored_bytes(self._large[-1])
                else:
                    needed += stored_bytes(table.extents(number))
            facts = self.reader.body.facts
            self._plan = FilesPlan(
                snapshot=self.reader.manifest.ulid,
                directory=str(self._directory or ""),
                roots=[{"label": str(r["label"]), "path": str(r["path"])} for r in facts.get("roots", ())],
                files=files,
                entries=entries,
                bytes=size,
                needed=needed,
            )
        return self._plan

    def is_fresh(self, policy: Policy) -> bool:
        """Whether it goes into a directory that holds nothing, or must not."""
        if self._directory is None or policy.delta:
            return False
        return policy.conflict == "fail" or not _holds_something(self._directory)

    def run(self, *, owners: str, durable: bool) -> None:
        """Write everything into an empty directory; on failure what was written is removed.

        :raises TargetError: :raises Damaged: :raises Cancelled:
        """
        plan = self.plan()
        if self._directory is None:
            raise SettingsError("a new tree needs a directory")
        owner = owner_of(owners, self.reader.body.facts.get("owners", {}))
        target = TreeTarget(self._directory, owner_of=owner, durable=durable)
        try:
            target.prepare(plan.needed, plan.entries)
            try:
                entries = None if self._selection.everything else self._entries
                materialiser = TreeMaterialiser(self.reader, target, self._context, plan.bytes, entries)
                written = materialiser.run(self._large, _RESTORE_WORKERS)
                target.finish()
            except BaseException:
                target.abandon()
                raise
        finally:
            target.close()
        self.files, self.bytes = written.files, written.bytes
        self.lost = {sort: {"count": count, "paths": target.named[sort]} for sort, count in target.lost.items()}
        self.tally.counts[Action.CREATE.value] = {"count": plan.entries, "bytes": plan.bytes}

    def merge(self, policy: Policy, *, owners: str, dry_run: bool) -> None:
        """Write what *policy* wants into a place that may hold something.

        :raises TargetError: its message says what was done before. :raises Damaged: :raises Cancelled:
        """
        owner = owner_of(owners, self.reader.body.facts.get("owners", {}))
        whole = policy.delta and self._selection.everything
        root = self._directory or Path("/")
        target = LiveTarget(root, owner_of=owner, originals=self.originals or None, mark=whole)
        merging: Merging | None = None
        try:
            target.stand(create=False)
            if target.was_marked and not policy.delta:
                raise TargetNotEmpty(
                    f"target {root} holds a restore that was interrupted", hint="--delta goes on with it"
                )
            if target.was_marked:  # by a machine that lost power, maybe: times say nothing of contents then
                policy = Policy(conflict=policy.conflict, delta=True, contents=True)
            merging = Merging(
                self.reader, target, self._context, policy=policy, selection=self._selection, owner_of=owner,
                removing=self._removing(target) if whole else None, tell=self._tell if dry_run else lambda _: None,
            )  # fmt: skip
            merging.survey(compare=dry_run)
            if not dry_run:
                target.stand(create=True)
                target.mark()
                merging.run(self._tell)
                target.finish()
        except MingusError as error:
            if merging is not None and merging.writing:
                error.message = f"{error.message} (before that: {merging.tally})"
                error.args = (error.message,)
            raise
        finally:
            target.close()
        self.tally = merging.tally
        counts = self.tally.counts
        self.files = 0 if dry_run else sum(counts[a.value]["count"] for a in (Action.CREATE, Action.OVERWRITE))
        self.bytes = merging.read_bytes
        self.lost = {sort: {"count": count, "paths": target.named[sort]} for sort, count in target.lost.items()}

    def list_new(self) -> None:
        """Tell what a restore into an empty directory makes.

        :raises TargetNotEmpty: it is not.
        """
        if self._directory is not None and _holds_something(self._directory):
            raise TargetNotEmpty(f"target {self._directory} is not empty")
        for table, number, _ in self._selection.of(self.reader):
            self._context.checkpoint()
            change = Change(table.paths[number], Action.CREATE, bytes=table.records[number][8])
            self.tally.add(change)
            self._tell(change)

    def _removing(self, target: LiveTarget) -> Removing | None:
        self.kept = no_witness(self.reader)
        if self.kept:
            self._context.log(f"nothing is removed: {self.kept}")
            return None
        roots = {label.decode(errors="surrogateescape"): Path(os.fsdecode(at)) for label, at in self.originals.items()}
        if self._directory is not None:
            known = self.reader.body.facts.get("roots", ())
            roots = {str(r["label"]): self._directory / str(r["label"]) for r in known}
        return Removing(self.reader, target, roots, linked=self._directory is None)

    def _entries(self) -> Iterator[TabledEntry]:
        for chosen in self._selection.of(self.reader):
            yield TabledEntry(chosen.table.entry(chosen.number), chosen.table.runs)


def stored_bytes(extents: bytes) -> int:
    """How much of encoded *extents* is no hole."""
    return sum(length for _, length, _, hole, _, _, _, _ in EXTENT.iter_unpack(extents) if not hole)


def _moment(at: datetime | str | None, snapshot: str | None) -> datetime | None:
    moment = None if at is None else moments.parse(at)
    if moment is not None and snapshot:
        raise SettingsError("a snapshot and a time: say one of them")
    return moment


def _manifest(place: Repository, source: str, snapshot: str | None, moment: datetime | None) -> Manifest:
    return reading.choose(place, source, snapshot) if moment is None else moments.choose(place, source, moment)


def _holds_something(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())
