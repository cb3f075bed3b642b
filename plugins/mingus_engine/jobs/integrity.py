"""The lower rungs of the verification ladder (DESIGN §7): what can be said of a snapshot without restoring it.

L0: every object is there and has its size. L1: every object has the SHA-256 of its name (no key needed). L2:
everything decrypts, decompresses, and hashes to what was recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from mingus_engine import bounds
from mingus_engine.checks import Check
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged, ObjectMissing
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import names
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.small_files import contents, together
from mingus_engine.sources.base import FileKind

_READ_BYTES = 4 * bounds.MIB
_WORKERS = 2
# How many damaged objects a report names; the rest are counted.
_NAMED = 20


def present(repository: Repository, manifest: Manifest, context: JobContext) -> Check:
    """L0: presence and size of every object, by listing."""
    wanted = manifest.stored_names()
    found: dict[str, int] = {}
    for prefix in sorted({name.rpartition("/")[0] + "/" for name, _ in wanted}):
        context.checkpoint()
        found.update((info.name, info.size) for info in repository.store.list(prefix))
    missing = [name for name, _ in wanted if name not in found]
    short = [name for name, size in wanted if name in found and found[name] != size]
    return _check("L0 present", missing + short, f"{len(wanted)} objects are there with their sizes")


def whole(repository: Repository, manifest: Manifest, context: JobContext) -> Check:
    """L1: the SHA-256 of every stored object, against its name."""
    wanted = manifest.stored_names()
    total = sum(size for _, size in wanted)
    done = 0
    bad = []
    for name, size in wanted:
        digest = hashlib.sha256()
        try:
            for at in range(0, size, _READ_BYTES):
                context.checkpoint()
                data = repository.store.get_range(name, at, min(_READ_BYTES, size - at))
                digest.update(data)
                context.progress("verify L1", done + at + len(data), total, name)
        except (ObjectMissing, Damaged):
            bad.append(name)
        else:
            if digest.hexdigest() != names.stored_sha256(name):
                bad.append(name)
        done += size
    return _check("L1 stored SHA-256", bad, f"{len(wanted)} objects, {total} bytes")


def readable(reader: SnapshotReader, context: JobContext, *, besides: Collection[bytes] = ()) -> Check:
    """L2: every blob and every log decrypts, decompresses and hashes to what was recorded.

    :param besides: paths of files that the caller reads itself.
    """
    total = int(reader.body.statistics.get("read_bytes", 0))
    done = files = 0
    bad: list[str] = []

    def read(file: TabledEntry) -> tuple[int, list[str]]:
        length = 0
        try:
            for _, _, n in reader.data(file):
                context.checkpoint()
                length += n
        except (ObjectMissing, Damaged) as error:
            return length, [error.message]
        return length, []

    def read_group(group: list[TabledEntry]) -> tuple[int, list[str], int]:
        if len(group) > 1:
            context.checkpoint()
            with suppress(ObjectMissing, Damaged):
                return sum(piece.length for _, pieces in contents(reader, group) for piece in pieces), [], len(group)
        found = [read(file) for file in group]  # one by one: each is to be named
        return sum(length for length, _ in found), [error for _, errors in found for error in errors], len(group)

    def take(future: Future[tuple[int, list[str], int]]) -> None:
        nonlocal done, files
        length, errors, count = future.result()
        done, files = done + length, files + count
        bad.extend(errors)
        context.progress("verify L2", done, total)

    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting: list[Future[tuple[int, list[str], int]]] = []
        files_of = (f for f in reader.files() if f.entry.kind == FileKind.FILE and f.entry.path not in besides)
        for group in together(reader.expected(files_of)):
            waiting.append(pool.submit(read_group, group))
            while len(waiting) > 4 * _WORKERS:
                take(waiting.pop(0))
        for future in waiting:
            take(future)
    for ref in reader.manifest.logs:
        try:
            log = LogReader(reader.repository, reader.manifest.name.source, ref, reader.body.run_keys.get(ref.run))
            done += sum(map(len, log.chunks()))
        except (ObjectMissing, Damaged) as error:
            bad.append(error.message)
    return _check("L2 decrypt and re-hash", bad, f"{files} files, {len(reader.manifest.logs)} logs, {done} bytes")


def _check(name: str, bad: list[str], good: str) -> Check:
    if not bad:
        return Check(name, True, good)
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return Check(name, False, f"{len(bad)} bad: {', '.join(bad[:_NAMED])}{more}")
