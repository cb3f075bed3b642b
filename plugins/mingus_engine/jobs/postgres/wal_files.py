"""The files of ``pg_wal`` that a restore writes: those of the snapshot itself, and those on the way to a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mingus_engine import lsn as lsns
from mingus_engine.jobs.postgres.recovery_target import Recovery
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.reader import SnapshotReader


@dataclass(frozen=True)
class WalFile:
    """A segment, the beginning of one, or a history: ``length`` bytes, which ``chunks`` gives in order."""

    name: str
    length: int
    chunks: Callable[[], Iterator[bytes]]


def of_snapshot(reader: SnapshotReader, segment_bytes: int) -> dict[str, WalFile]:
    """What the manifest references, by name: of several that begin a segment the longest."""
    chosen: dict[str, LogRef] = {}
    for ref in reader.manifest.logs:
        _, timeline, part = ref.lineage.split("/")
        if part == "history":
            name = history_name(int(timeline))
        elif ref.start % segment_bytes:
            continue
        else:
            name = lsns.segment_name(int(timeline), ref.start, segment_bytes)
        if name not in chosen or chosen[name].end < ref.end:
            chosen[name] = ref
    return {name: WalFile(name, ref.end - ref.start, partial(_chunks, reader, ref)) for name, ref in chosen.items()}


def of_recovery(wal: StoredWal, recovery: Recovery) -> dict[str, WalFile]:
    """Everything from the snapshot's first segment to the target, and every history of the cluster, by name.

    All histories: a promoted server takes the first number without one for its new timeline, which must not be a
    number that the archive knows.

    :raises LogMissing: there is a gap.
    """
    found = {
        file.name: WalFile(file.name, file.length, partial(wal.chunks, file.pieces))
        for file in recovery.path.files(recovery.start, recovery.end)
    }
    for (system_id, timeline), log in wal.index.histories.items():
        if system_id == recovery.path.system_id:
            name = history_name(timeline)
            found[name] = WalFile(name, log.name.end - log.name.start, partial(wal.whole, log))
    return found


def history_name(timeline: int) -> str:
    """``00000002.history``."""
    return f"{timeline:08X}.history"


def _chunks(reader: SnapshotReader, ref: LogRef) -> Iterator[bytes]:
    source = reader.manifest.name.source
    return LogReader(reader.repository, source, ref, reader.body.run_keys.get(ref.run)).chunks()
