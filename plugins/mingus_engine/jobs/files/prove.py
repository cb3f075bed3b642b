"""Proving a snapshot of files: restored into a scratch directory, every byte and attribute compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.codec import attributes, plainjson
from mingus_engine.codec.entries import Entry
from mingus_engine.errors import Damaged, ObjectMissing, SettingsError
from mingus_engine.jobs import comparing, integrity, reading
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.files import sampling
from mingus_engine.jobs.files.documents import Documents
from mingus_engine.jobs.files.restore import FilesRestore
from mingus_engine.jobs.files.sampling import Sample
from mingus_engine.jobs.proving import Wanted
from mingus_engine.jobs.scratch import scratch_directory
from mingus_engine.repository import names, records
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown
from mingus_engine.sources.files.reading import KINDS, xattrs_of

# Among so many of the newest proofs the one before is looked for.
_PROOFS_LOOKED_AT = 400
# How many entries that differ a report names; the rest are counted.
_NAMED = 20


class FilesProver:
    """A :class:`~mingus_engine.jobs.proving.Prover`. There is no server to start: level 4 is level 3."""

    def __init__(
        self, settings: Settings, source: SourceSettings, place: Repository, wanted: Wanted, context: JobContext
    ) -> None:
        """:raises NoSuchSnapshot: :raises SettingsError: a moment was asked for."""
        self._settings, self._source, self._context = settings, source, context
        if wanted.to is not None or wanted.timeline is not None or not wanted.inclusive:
            raise SettingsError("files have snapshots, and no log between them: no --to, no --timeline")
        self.manifest = reading.choose(place, source.id, wanted.snapshot)
        self.target: str | None = None
        self.seed: int | None = None
        self.bytes_read = 0
        self.rto_s: float | None = None
        self.rpo_s: float | None = None
        self._place_of, self._whole = place, wanted.whole
        self._sample: Sample | None = None
        self._documents: Documents | None = None

    @property
    def sample(self) -> Mapping[str, int] | None:
        """Which share of the set was restored; ``None``: all."""
        return self._sample.as_dict() if self._sample else None

    @property
    def evidence(self) -> Mapping[str, Any]:
        """Which documents opened."""
        return {"documents": self._documents.evidence()} if self._documents else {}

    def climb(self, reader: SnapshotReader, level: int) -> list[Check]:
        """Reading for a restore decrypts and re-hashes everything, so level 2 is in the levels above it."""
        if level == 2:
            return [integrity.readable(reader, self._context)]
        stopped = reader.body.facts.get("stopped_at")
        if stopped:
            self.rpo_s = round((utc_now() - datetime.fromisoformat(str(stopped))).total_seconds(), 1)
        found: list[Check] = []
        reader = self._sampled(reader)
        with scratch_directory(self._settings.scratch_path(self._source), None) as scratch:
            clock = Stopwatch()
            job = FilesRestore(reader, scratch / "tree", self._context)
            try:
                job.run(owners="ids" if os.geteuid() == 0 else "mine", durable=False)
                self.rto_s = clock.seconds
                self.bytes_read = job.bytes
                found.append(Check("L3 restore", True, f"{job.files} files, {job.bytes} bytes in {self.rto_s} s"))
                root = os.fsencode(scratch / "tree")
                found.append(comparing.compare_files(reader, lambda path: _place(root, path), self._context))
                equal = found[-1].ok
                found.append(_compare_attributes(reader, root, self._context, lost=set(job.lost)))
                if equal and self._source.verify.open_documents:
                    found.append(self._opened(reader, root))
            except (Damaged, ObjectMissing) as error:
                found.append(Check("L3 restore", False, error.message))
        if job.lost:
            found.append(_lost(job))
        return found

    def _sampled(self, reader: SnapshotReader) -> SnapshotReader:
        """*reader*, or one that sees this test's share only."""
        total = int(reader.body.facts.get("files", {}).get("bytes", 0))
        of = 1 if self._whole else sampling.shares(self._source.verify, total)
        if of == 1:
            return reader
        facts = next((record.facts for record in self._proofs()), None)
        self._sample = sampling.following(facts, of, utc_now().date())
        return sampling.SampledReader(self._place_of, self.manifest, self._settings.spool_path, self._sample)

    def _opened(self, reader: SnapshotReader, root: bytes) -> Check:
        """Whether documents open."""
        before: Mapping[str, Any] = {}
        wanted = (self._sample.part, self._sample.of) if self._sample else None
        for record in self._proofs():
            then = record.facts.get("sample")
            if ((then["part"], then["of"]) if then else None) == wanted:
                body = plainjson.decode(self._place_of.open(record.source_envelope), str(record.name))
                before = body.get("documents", {})
                break
        self._documents = Documents(reader.body.hash_key, before, self._context)
        entries = (file.entry for file in reader.files())
        return self._documents.check(entries, lambda path: root + b"/" + path)

    def _proofs(self) -> Iterator[records.Record]:
        """Proofs of snapshots of the source by a restore in this repository, newest first."""
        place, source = self._place_of, self._source.id
        names_of = (names.record(info.name) for info in place.store.list(f"records/{source}/"))
        found = sorted((n for n in names_of if n and n.kind == records.PROOF), key=lambda n: n.ulid, reverse=True)
        for name in found[:_PROOFS_LOOKED_AT]:
            record = place.get_record(name)
            if record.facts.get("sample") or record.facts.get("level") in {"L3", "L4"}:
                yield record


def _lost(job: FilesRestore) -> Check:
    """What this machine could not give back says nothing of the snapshot."""
    said = ", ".join(f"{found['count']} x {sort}" for sort, found in sorted(job.lost.items()))
    return Check("L3 attributes lost", False, f"not possible here: {said}", {"available": False, **job.lost})


def _place(root: bytes, path: bytes) -> Path:
    return Path(os.fsdecode(root + b"/" + path))


def _compare_attributes(reader: SnapshotReader, root: bytes, context: JobContext, *, lost: set[str]) -> Check:
    bad: list[str] = []
    count = 0
    inodes: dict[bytes, int] = {}
    owners = os.geteuid() == 0
    for file in reader.files():
        context.checkpoint()
        count += 1
        entry = file.entry
        differing = list(_differing(entry, root, inodes, owners=owners, lost=lost))
        if differing:
            bad.append(f"{shown(entry.path)}: {', '.join(differing)}")
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        return Check("L3 attributes", False, f"{len(bad)} of {count} differ: {'; '.join(bad[:_NAMED])}{more}")
    return Check("L3 attributes", True, f"{count} entries have the attributes that were backed up")


def _differing(entry: Entry, root: bytes, inodes: dict[bytes, int], *, owners: bool, lost: set[str]) -> Iterator[str]:
    """Names of the attributes that differ."""
    where = root + b"/" + entry.path
    known = attributes.decode(entry.extra, shown(entry.path))
    try:
        status = os.lstat(where)
        xattrs = xattrs_of(where)
        target = os.fsencode(Path(os.fsdecode(where)).readlink()) if entry.kind == FileKind.SYMLINK else b""
    except OSError as error:
        if "device" not in lost or entry.kind not in (FileKind.CHARACTER_DEVICE, FileKind.BLOCK_DEVICE):
            yield error.strerror or "missing"
        return
    kind = KINDS.get(status.st_mode & 0o170000)
    if kind != entry.kind:
        yield "kind"
    if kind != FileKind.SYMLINK and status.st_mode & 0o7777 != entry.mode:
        yield "mode"
    if status.st_mtime_ns != entry.mtime_ns:
        yield "modification time"
    if owners and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        yield "owner"
    if target != entry.target:
        yield "target"
    if "xattr" not in lost and xattrs != known.xattrs:
        yield "extended attributes"
    if known.device and (os.major(status.st_rdev), os.minor(status.st_rdev)) != known.device:
        yield "device"
    if known.link:
        inodes.setdefault(known.link, os.lstat(root + b"/" + known.link).st_ino)
        if inodes[known.link] != status.st_ino:
            yield "link"
