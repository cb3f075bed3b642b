"""Small repositories in a directory, made through the engine's own writer from content that is made up.

``make_repository`` makes and opens one; ``backed_up`` commits a snapshot of a :class:`MadeSource`; ``archived`` stores
made-up WAL beside it. Nothing here sleeps or needs a server.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from mingus_engine import bounds
from mingus_engine.codec import shards
from mingus_engine.codec.entries import RunTable
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.pipeline import Pipeline
from mingus_engine.jobs.postgres import wal
from mingus_engine.repository import envelope, manifests, resume, runs, writer
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.envelope import Signer
from mingus_engine.repository.manifests import Body, LogRef, Manifest
from mingus_engine.repository.objects import put_object
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Secret
from mingus_engine.sources.base import FileKind, Item, SourceFile, WalPiece
from mingus_engine.store.base import Store
from mingus_engine.store.local import LocalStore
from mingus_engine.store.wrapping import StoreWrapper

#: Not a secret: it opens repositories that tests make, and nothing else.
TEST_KEY = "00112233445566778899aabbccddeeff" * 2
OTHER_KEY = "ff" * 32
SOURCE = "ledger"
SYSTEM_ID = 7_000_000_000_000_000_001
WAL_SEGMENT_BYTES = bounds.MIB


def credentials(key: str = TEST_KEY) -> Credentials:
    """The environment key *key* and nothing else."""
    return Credentials(environment=Secret(key))


@dataclass
class MadeRepository:
    """A repository below ``root``; ``escrow`` is its escrow key as text."""

    root: Path
    spool: Path
    repository: Repository
    escrow: str

    @property
    def store(self) -> Store:
        """Its store, without wrappers."""
        return self.repository.store

    def path(self, name: str) -> Path:
        """The file of the object *name*."""
        return self.root / name

    def names(self, prefix: str = "") -> list[str]:
        """The names of its objects."""
        return [info.name for info in self.store.list(prefix)]

    def reopened(
        self, *, store: Store | None = None, keys: Credentials | None = None, pinned: str = "", with_key: bool = True
    ) -> Repository:
        """Opened anew, nothing cached."""
        store = store or LocalStore(self.root, create=False)
        return repositories.open_repository(
            "again", store, (keys or credentials()) if with_key else None, pinned=pinned
        )


def make_repository(root: Path, *, signer: Signer | None = None, keys: Credentials | None = None) -> MadeRepository:
    """A new empty repository in ``root/repository`` with a spool beside it."""
    place = root / "repository"
    repository, escrow = repositories.init("made", LocalStore(place), keys or credentials(), signer=signer)
    return MadeRepository(place, root / "spool", repository, escrow.reveal())


def copied(made: MadeRepository, root: Path) -> MadeRepository:
    """A copy of *made* to be damaged, opened anew."""
    shutil.copytree(made.root, root / "repository")
    place = root / "repository"
    repository = repositories.open_repository("copied", LocalStore(place), credentials())
    return MadeRepository(place, root / "spool", repository, made.escrow)


class SkewedStore(StoreWrapper):
    """A store whose clock is off by *skew*."""

    def __init__(self, inner: Store, skew: timedelta) -> None:
        super().__init__(inner)
        self._skew = skew

    def now(self) -> datetime:
        """The wrong time."""
        return super().now() + self._skew


def noise(size: int, seed: object) -> bytes:
    """*size* bytes that do not compress, the same for the same *seed*."""
    return random.Random(repr(seed)).randbytes(size)


@dataclass
class MadeItem:
    """A work item whose content is made; ``reading`` replaces the reading, to fail or to shrink."""

    file: SourceFile
    offset: int
    length: int
    last: bool
    content: Callable[[int, int], bytes]
    reading: Callable[[], bytes | None] | None = None
    released: int = 0

    def read(self, scratch: memoryview) -> memoryview | None:
        """The made content."""
        if self.reading is not None:
            data = self.reading()
            return None if data is None else memoryview(data)
        data = self.content(self.offset, self.length)
        scratch[: len(data)] = data
        return scratch[: len(data)]

    def release(self) -> None:
        """Counted."""
        self.released += 1


@dataclass
class MadeSource:
    """A tree that exists only as content: path → bytes, or a function of ``(offset, length)`` with a size.

    :param item_bytes: how much a work item covers; a multiple of 64 KiB.
    """

    files: Mapping[bytes, bytes] = field(default_factory=dict)
    large: Mapping[bytes, tuple[int, Callable[[int, int], bytes]]] = field(default_factory=dict)
    directories: Sequence[bytes] = ()
    links: Mapping[bytes, bytes] = field(default_factory=dict)
    item_bytes: int = bounds.SLAB_BYTES
    mtime_ns: int = 1_700_000_000_123_456_789

    def content(self, path: bytes) -> tuple[int, Callable[[int, int], bytes]]:
        """Size of the file *path* and what reads a range of it."""
        if path in self.large:
            return self.large[path]
        whole = self.files[path]
        return len(whole), lambda offset, length: whole[offset : offset + length]

    def paths(self) -> list[bytes]:
        """The files, in path order."""
        return sorted([*self.files, *self.large])

    def items(self) -> Iterator[Item]:
        """Work items of everything; files in no particular order."""
        for path in [*self.directories, *self.links]:
            link = path in self.links
            kind = FileKind.SYMLINK if link else FileKind.DIRECTORY
            made = SourceFile(path, kind, 0o777 if link else 0o750, target=self.links.get(path, b""))
            yield MadeItem(made, 0, 0, True, lambda offset, length: b"")
        for path in reversed(self.paths()):
            yield from self.file_items(path)

    def file_items(self, path: bytes) -> Iterator[MadeItem]:
        """The work items of one file."""
        size, content = self.content(path)
        file = SourceFile(path, FileKind.FILE, 0o640, uid=26, gid=27, mtime_ns=self.mtime_ns, size=size)
        for at in range(0, size or 1, self.item_bytes):
            length = min(self.item_bytes, size - at)
            yield MadeItem(file, at, length, at + self.item_bytes >= size, content)

    def digests(self) -> dict[bytes, str]:
        """SHA-256 (hex) of every file."""
        found = {}
        for path in self.paths():
            size, content = self.content(path)
            digest = hashlib.sha256()
            for at in range(0, size, bounds.SLAB_BYTES):
                digest.update(content(at, min(bounds.SLAB_BYTES, size - at)))
            found[path] = digest.hexdigest()
        return found


def small_source(seed: int = 0) -> MadeSource:
    """Some files of every kind: empty, small, several blocks, a directory, a link."""
    return MadeSource(
        files={
            b"base/1/empty": b"",
            b"base/1/small": b"hello " * 10 + bytes([seed]),
            b"base/1/blocks": noise(150 * bounds.KIB + 17, ("blocks", seed)),
            b"base/1/pages": noise(8192, seed) * 40,
            b"odd/\xff\xfe name\n'\"": b"not UTF-8",
        },
        directories=[b"base", b"base/1", b"odd"],
        links={b"pg_tblspc/1": b"/somewhere/else"},
    )


def begin(
    made: MadeRepository, *, source: str = SOURCE, kind: str = runs.WRITE, store: Store | None = None
) -> WriteRun:
    """An open run, through *store* when it is given (a faulty one around the repository's)."""
    repository = made.repository
    if store is not None:
        repository = Repository(repository.name, store, repository.config, repository.keys)
    return writer.begin(
        repository, source, kind=kind, spool_path=made.spool, level=1, provenance={"host": "test", "user": "test"}
    )


def backed_up(
    made: MadeRepository,
    tree: MadeSource,
    *,
    source: str = SOURCE,
    position: int = 0,
    workers: int = 2,
    wal_pieces: Iterable[WalPiece] = (),
    store: Store | None = None,
    cut_bits: int = 2,
    parent: ParentSnapshot | None = None,
) -> Manifest:
    """A committed snapshot of *tree*, built on *parent*."""
    run = begin(made, source=source, store=store)
    with closing(run):
        logs = archive(made, run, wal_pieces)
        return commit(made, run, tree, position=position, logs=logs, workers=workers, cut_bits=cut_bits, parent=parent)


def store_tree(
    made: MadeRepository,
    run: WriteRun,
    tree: MadeSource,
    *,
    workers: int = 2,
    cut_bits: int = 2,
    parent: ParentSnapshot | None = None,
) -> tuple[Body, set[PackRef]]:
    """Everything of a snapshot but its manifest: the body, and the packs of dead runs that it uses."""
    table = RunTable([run.run])
    entries = EntrySorter(table, made.spool)
    blocks = resume.stored_blocks(run)
    with closing(blocks), closing(entries):
        pipeline = Pipeline(run, entries, table, blocks, JobContext(cancel=threading.Event()), parent=parent)
        pipeline.process(tree.items(), workers)
        found = []
        for first, raw in shards.cut(entries.drain(), run.keys.hash_key, cut_bits):
            found.append(pipeline.storing.put_shard(first, raw))
        run.packs.flush()
        adopted = pipeline.storing.adopted
        keys = {p.run: key for p, key in adopted.items()}
    run.adopted.update(p.run for p in adopted)
    statistics = {
        "read_bytes": pipeline.counters.read_bytes,
        "given_bytes": pipeline.counters.given_bytes,
        "reused_bytes": pipeline.storing.reused_bytes,
    }
    body = Body(
        facts={"made": True, "seed": tree.mtime_ns}, checks=[], statistics=statistics, provenance=run.provenance,
        run_keys={run.run: run.keys.run_key, **keys}, hash_key=run.keys.hash_key, cut_bits=cut_bits, shards=found,
    )  # fmt: skip
    return body, set(adopted)


def commit(
    made: MadeRepository,
    run: WriteRun,
    tree: MadeSource,
    *,
    position: int = 0,
    logs: Sequence[LogRef] = (),
    workers: int = 2,
    cut_bits: int = 2,
    parent: ParentSnapshot | None = None,
) -> Manifest:
    """Store *tree* and commit it with the open *run*; ends the run."""
    body, adopted = store_tree(made, run, tree, workers=workers, cut_bits=cut_bits, parent=parent)
    others = {g.run for g in logs} - set(body.run_keys)
    keys = {**body.run_keys, **{other: run.repository.log_key(run.source, other) for other in others}}
    body = dataclasses.replace(body, run_keys=keys)
    manifest = run.commit(
        kind="made full", position=position, flagged=False, packs=[*run.packs.refs, *adopted], logs=logs, body=body
    )
    run.end([str(manifest.name)])
    return manifest


def archive(made: MadeRepository, run: WriteRun, pieces: Iterable[WalPiece]) -> list[LogRef]:
    """Store *pieces* as log containers."""
    return wal.archive(
        run, pieces, system_id=SYSTEM_ID, segment_bytes=WAL_SEGMENT_BYTES, spool_path=made.spool, level=1
    )


def wal_pieces(
    start: int, length: int, *, timeline: int = 1, seed: object = "wal", piece_bytes: int = 200_000
) -> Iterator[WalPiece]:
    """Made-up WAL from *start*; the byte at an LSN depends on the LSN and *seed* only."""
    at = start
    while at < start + length:
        page = at // piece_bytes
        inside = at - page * piece_bytes
        data = noise(1000, (seed, timeline, page)) * (piece_bytes // 1000)
        take = data[inside : inside + start + length - at]
        yield WalPiece(timeline, at, memoryview(take), 700_000_000_000_000 + at, at + len(take))
        at += len(take)


def contents(repository: Repository, manifest: Manifest) -> dict[bytes, str]:
    """SHA-256 (hex) of every file of a snapshot, read through the engine's reader."""
    reader = SnapshotReader(repository, manifest)
    found = {}
    for file in reader.files():
        if file.entry.kind != FileKind.FILE:
            continue
        digest = hashlib.sha256()
        for _, data, length in reader.data(file):
            digest.update(bytes(length) if data is None else data)
        found[file.entry.path] = digest.hexdigest()
    return found


def shipped(origin: MadeRepository, destination: MadeRepository, manifest: Manifest) -> Manifest:
    """*manifest* and all it needs, in *destination*, by a run there (what the job ``ship`` does, without its reuse)."""
    source = manifest.name.source
    run = begin(destination, source=source)
    with closing(run):
        packs = [p._replace(putting_run=run.run) for p in manifest.packs]
        logs = [g._replace(putting_run=run.run) for g in manifest.logs]
        copies: dict[str, tuple[object, int]] = {}
        copies |= {str(p.name(source)): (p._replace(putting_run=run.run).name(source), p.size) for p in manifest.packs}
        copies |= {str(g.name(source)): (g._replace(putting_run=run.run).name(source), g.size) for g in manifest.logs}
        for old, (new, size) in copies.items():
            raw = origin.store.get(old)
            destination.store.put(str(new), raw, size=size, sha256=hashlib.sha256(raw).digest())
        for name in {n for g in logs for n in origin.names(f"logs/{source}/keys/{g.run}.")}:
            e = envelope.parse(origin.store.get(name), envelope.LOG_KEY, name)
            raw = destination.repository.reseal(e, origin.repository.open(e), {"put_by": run.run})
            put_object(destination.store, raw, functools.partial("logs/{}/keys/{}.{}".format, source, e.text("ulid")))
        body = origin.repository.open(manifest.envelope)
        raw = destination.repository.reseal(manifest.envelope, body, manifests.placement(run.run, packs, logs))
        found = run.put_manifest(raw, manifest.ulid)
        run.end([str(found.name)])
        return found
