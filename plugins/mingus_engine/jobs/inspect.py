"""``list``, ``show``, ``ls``, ``cat``, ``runs``: looking at what repositories hold, as plain values.

Listing snapshots and runs needs no key: names, sizes, flags and proofs are in the plain, signed parts. What is inside
a snapshot needs one. A repository that cannot be reached is named and the others are still read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from mingus_engine import bounds, ulids
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import NoSuchSnapshot
from mingus_engine.jobs import reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.file_listing import FileInfo, children, file_info
from mingus_engine.jobs.finding import each, holding, sources_in
from mingus_engine.jobs.inspected import (
    Copy,
    FileListing,
    Proof,
    RunInfo,
    RunListing,
    SnapshotDetails,
    SnapshotInfo,
    SnapshotListing,
)
from mingus_engine.repository import names, records, runs, state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind

_ZEROS = memoryview(bytes(bounds.MIB))


def list_snapshots(
    settings: Settings, source: str | None = None, *, repository: str | None = None, context: JobContext
) -> SnapshotListing:
    """Every snapshot of *source* (default: of all) in *repository* (default: in all that may hold it).

    :raises MingusError: no repository could be read; the error of the first.
    """
    found: dict[tuple[str, str], SnapshotInfo] = {}
    order: list[tuple[str, str]] = []
    unreachable: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for place in each(settings, source, repository, context, unreachable):
        for one in sources_in(place, source):
            context.checkpoint()
            seen = state.look(place, one)
            damaged.update({f"{place.name}: {name}": what for name, what in seen.damaged.items()})
            for info in _snapshots(place, one, seen):
                key = (info.source, info.snapshot)
                if key in found:
                    found[key] = replace(found[key], copies=(*found[key].copies, *info.copies))
                else:
                    found[key] = info
                    order.append(key)
    listed = [found[key] for key in order]
    if len({info.source for info in listed}) > 1 or len({c.repository for info in listed for c in info.copies}) > 1:
        listed.sort(key=lambda info: (info.source, info.written_at))
    return SnapshotListing(tuple(listed), unreachable, damaged)


def show_snapshot(
    settings: Settings,
    snapshot: str,
    *,
    source: str | None = None,
    repository: str | None = None,
    context: JobContext,
) -> SnapshotDetails:
    """Everything of one snapshot.

    :param snapshot: the beginning of its ULID, or ``latest``.
    :raises NoSuchSnapshot: none, or several. :raises KeyUnavailable: its facts cannot be opened.
    """
    with holding(settings, snapshot, source, repository, context) as (place, manifest):
        body = place.manifest_body(manifest)
        listing = list_snapshots(settings, manifest.name.source, repository=repository, context=context)
        info = next(i for i in listing.snapshots if i.snapshot == manifest.ulid)
        return SnapshotDetails(
            info=info,
            repository=place.name,
            location=place.store.location,
            run=manifest.run,
            put_by=manifest.put_by,
            position=manifest.position,
            heads=manifest.heads,
            digest=manifest.digest,
            packs=len(manifest.packs),
            pack_bytes=sum(p.size for p in manifest.packs),
            logs=len(manifest.logs),
            log_bytes=sum(g.size for g in manifest.logs),
            facts=dict(body.facts),
            checks=[dict(c) for c in body.checks],
            statistics=dict(body.statistics),
            provenance=dict(body.provenance),
        )


def list_files(
    settings: Settings,
    snapshot: str,
    path: str = "",
    *,
    into: Callable[[FileInfo], None],
    recursive: bool = False,
    source: str | None = None,
    repository: str | None = None,
    context: JobContext,
) -> FileListing:
    """Give *into* the file *path*, or what is in the directory *path* (with *recursive*: at any depth), in path order.

    :raises NoSuchSnapshot: no such snapshot, or nothing of that path in it.
    """
    with holding(settings, snapshot, source, repository, context) as (place, manifest):
        wanted, count = _raw(path), 0
        there = not wanted

        def entries() -> Iterator[Entry]:
            nonlocal there
            for entry in _entries(SnapshotReader(place, manifest), wanted):
                context.checkpoint()
                there = there or entry.path == wanted
                yield entry

        with reading.announced(place, manifest, context):
            for file in children(entries(), wanted, recursive=recursive):
                count += 1
                into(file)
        if not count and not there:
            raise _no_file(path, manifest)
        return FileListing(manifest.name.source, manifest.ulid, place.name, count)


def read_file(
    settings: Settings,
    snapshot: str,
    path: str,
    *,
    into: Callable[[memoryview], None],
    source: str | None = None,
    repository: str | None = None,
    context: JobContext,
) -> FileInfo:
    """Give the content of one file to *into*, piece by piece in order; every piece was checked before.

    :raises NoSuchSnapshot: no such snapshot, or no such file in it. :raises Damaged: what was given is not all of it.
    """
    with (
        holding(settings, snapshot, source, repository, context) as (place, manifest),
        reading.announced(place, manifest, context),
    ):
        reader, wanted = SnapshotReader(place, manifest), _raw(path)
        for number in reader.shards_within([(wanted, wanted + b"\0")]):
            context.checkpoint()
            table, entries = reader.shard(number)
            found = next((entry for entry in entries if entry.path == wanted), None)
            if found is None:
                continue
            tabled = TabledEntry(found, table)
            if tabled.entry.kind != FileKind.FILE:
                raise _no_file(path, manifest, f"{path} is a {FileKind(tabled.entry.kind).name.lower()}")
            for _, data, length in reader.data(tabled):
                context.checkpoint()
                for piece in _zeros(length) if data is None else (data,):
                    into(piece)
            return file_info(tabled.entry)
        raise _no_file(path, manifest)


def list_runs(
    settings: Settings,
    source: str | None = None,
    *,
    repository: str | None = None,
    newest: int | None = None,
    context: JobContext,
) -> RunListing:
    """Runs of *source* (default: of all). :param newest: at most so many of each source and repository."""
    unreachable: dict[str, str] = {}
    listed: list[RunInfo] = []
    for place in each(settings, source, repository, context, unreachable):
        for one in sources_in(place, source):
            listed.extend(_runs(place, one, newest, context))
    return RunListing(tuple(listed), unreachable)


def _runs(place: Repository, source: str, newest: int | None, context: JobContext) -> Iterator[RunInfo]:
    parts: dict[str, dict[str, datetime]] = {}
    for info in place.store.list(f"runs/{source}/"):
        if (name := names.run(info.name)) is not None:
            parts.setdefault(name.run, {})[name.part] = info.modified
    # By the ULIDs of the makers: good enough to show, nothing is decided by it.
    for run in sorted((r for r in parts if "start" in parts[r]), reverse=True)[:newest]:
        context.checkpoint()
        start = place.get_run(names.RunName(source, run, "start"))
        ended = parts[run].get("end")
        committed: Sequence[Any] = ()
        if ended is not None:
            committed = place.get_run(names.RunName(source, run, "end")).header.get("committed", ())
        kind = start.text("kind")
        yield RunInfo(
            source=source,
            repository=place.name,
            run=run,
            kind=kind,
            started_at=parts[run]["start"],
            ended_at=ended,
            reads=_ulid_of(str(start.header.get("manifest", ""))) if kind == runs.READ else "",
            committed=tuple(_ulid_of(str(name)) for name in committed),
            provenance=dict(start.header.get("provenance", {})),
        )


def _snapshots(place: Repository, source: str, seen: state.SourceState) -> Iterator[SnapshotInfo]:
    proofs = _proofs(place, source)
    for m in seen.manifests:
        yield SnapshotInfo(
            source=source,
            snapshot=m.ulid,
            kind=m.kind,
            written_at=m.written_at,
            stored_bytes=sum(size for _, size in m.stored_names()),
            flagged=m.flagged,
            copies=(Copy(place.name, seen.settled(m), proofs.get((m.ulid, m.digest))),),
        )


def _proofs(place: Repository, source: str) -> dict[tuple[str, str], Proof]:
    """The newest proof of each snapshot, by its ULID and content digest."""
    found: dict[tuple[str, str], Proof] = {}
    listed = [name for info in place.store.list(f"records/{source}/") if (name := names.record(info.name))]
    for name in sorted(listed, key=lambda n: n.ulid):
        if name.kind == records.PROOF:
            record = place.get_record(name)
            proof = Proof(record.text("level"), record.facts.get("ok") is True, ulids.made_at(name.ulid))
            found[record.text("snapshot"), record.text("digest_of")] = proof
    return found


def _entries(reader: SnapshotReader, path: bytes) -> Iterator[Entry]:
    """Entries in path order, of the shards that may hold *path* or what is below it."""
    numbers = reader.shards_within([(path, path + b"\0"), (path + b"/", path + b"0")]) if path else None
    for table in reader.tables(numbers):
        for number in range(len(table)):
            yield table.entry(number)


def _zeros(length: int) -> Iterator[memoryview]:
    for at in range(0, length, len(_ZEROS)):
        yield _ZEROS[: length - at]


def _raw(path: str) -> bytes:
    return path.strip("/").encode("utf-8", "surrogateescape")


def _ulid_of(stored: str) -> str:
    """The ULID of a manifest's stored name, or the name itself."""
    name = names.snapshot(stored)
    return name.ulid if name else stored


def _no_file(path: str, manifest: Manifest, why: str = "") -> NoSuchSnapshot:
    return NoSuchSnapshot(
        f"{why or f'no file {path}'} in snapshot {manifest.ulid}",
        hint=f"`mingus ls {manifest.ulid} --recursive` shows what there is",
    )
