"""From a stream of WAL to log containers: cut at segment ends, sealed in memory, stored, and read back before anybody
trusts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mingus_engine.codec.containers import ContainerKind
from mingus_engine.errors import BackupBroken, LogDiverged
from mingus_engine.repository import logs, names
from mingus_engine.repository.log_index import StoredLog
from mingus_engine.repository.logs import LogReader, LogWriter
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.writer import WriteRun
from mingus_engine.sources.base import TimelineHistory, WalPiece


def archive(
    run: WriteRun,
    stream: Iterable[WalPiece | TimelineHistory],
    *,
    system_id: int,
    segment_bytes: int,
    spool_path: Path,
    level: int,
    on_stored: Callable[[int], None] = lambda _: None,
) -> list[LogRef]:
    """Store everything of *stream*: a container per WAL segment, a shorter one (a slice) for an unfinished last
    segment.

    :param on_stored: told of the LSN up to which everything is durable, after each put.
    :raises BackupBroken: the stream has a gap. :raises StoreError: a container could not be stored.
    :raises CommitRefused: a cleaner fenced the run: nothing more is confirmed to the server.
    """
    refs: list[LogRef] = []
    writer: LogWriter | None = None
    last: WalPiece | None = None
    expected: int | None = None
    facts = wal_facts(system_id, segment_bytes)

    def put(piece: WalPiece) -> None:
        nonlocal writer
        if writer is not None:
            end = writer.start + writer.length
            # A sample says that everything before it is stored: one beyond this container's end would promise too much.
            clock, flush = (piece.server_clock_us, piece.flush) if piece.flush <= end else (0, 0)
            refs.append(writer.put(server_clock_us=clock, flush=flush, facts=facts))
            writer = None
            run.refuse_if_fenced()  # DESIGN §4: before each confirmation
            on_stored(end)

    try:
        for piece in stream:
            if isinstance(piece, TimelineHistory):
                refs.append(store_history(run, piece, system_id, spool_path, level))
                continue
            if last is not None and piece.timeline != last.timeline:
                put(last)  # the rest of the old timeline is kept under its own lineage
                expected = None
            at, data = piece.start, piece.data
            if data and expected not in (None, at):
                raise BackupBroken(f"WAL stream jumped from {expected:X} to {at:X}")
            while data:
                if writer is None:
                    lineage = names.wal_lineage(system_id, piece.timeline, at)
                    writer = LogWriter(run, ContainerKind.WAL, lineage, at, spool_path=spool_path, level=level)
                take = min(len(data), segment_bytes - at % segment_bytes)
                writer.append(data[:take])
                expected = at = at + take
                data = data[take:]
                if at % segment_bytes == 0:
                    put(piece)
            last = piece
        if last is not None:
            put(last)
    finally:
        if writer is not None:
            writer.close()
    return refs


def read_back(run: WriteRun, refs: Sequence[LogRef], start: int, stop: int) -> int:
    """Open every container again and prove that *start* to *stop* is covered without a gap; the plain bytes read.

    :raises Damaged: what is stored is not what was sent. :raises BackupBroken: WAL of the range is missing.
    """
    total = 0
    covered = start
    for ref in sorted((r for r in refs if not r.lineage.endswith("/history")), key=lambda r: (r.start, r.end)):
        reader = LogReader(run.repository, run.source, ref)
        total += sum(len(chunk) for chunk in reader.chunks())
        if ref.start <= covered < ref.end:
            covered = ref.end
    if covered < stop:
        raise BackupBroken(f"stored WAL ends at {covered:X}, the backup needs it up to {stop:X}")
    return total


def wal_facts(system_id: int, segment_bytes: int, server_version: int = 0) -> dict[str, Any]:
    """What a container says of its origin. *server_version*: as ``server_version_num``, 0 = not said."""
    facts: dict[str, Any] = {"system_id": str(system_id), "wal_segment_bytes": segment_bytes}
    return {**facts, "server_version_number": server_version} if server_version else facts


def keep_history(
    run: WriteRun, stored: StoredLog | None, history: TimelineHistory, system_id: int, *, spool_path: Path, level: int
) -> bool:
    """Store a ``.history`` file unless it is there (*stored*); whether it was not.

    :raises LogDiverged: another one is there: two servers were promoted to this timeline.
    """
    if stored is None:
        store_history(run, history, system_id, spool_path, level)
        return True
    reader = LogReader(run.repository, run.source, logs.reference(run.repository, *stored))
    if b"".join(reader.chunks()) != history.content:
        raise LogDiverged(f"{stored.name}: the server's {history.filename} is another one")
    return False


def store_history(run: WriteRun, history: TimelineHistory, system_id: int, spool_path: Path, level: int) -> LogRef:
    """Store a ``.history`` file. :raises StoreError: it could not be. :raises LogDiverged: another one is there."""
    lineage = names.history_lineage(system_id, history.timeline)
    writer = LogWriter(run, ContainerKind.HISTORY, lineage, 0, spool_path=spool_path, level=level)
    try:
        writer.append(history.content)
        return writer.put(server_clock_us=0, flush=0, facts={"filename": history.filename})
    finally:
        writer.close()
