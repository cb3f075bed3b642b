"""``push_wal``: an ``archive_command``: store one file of ``pg_wal``, and say so only when it is durable.

Segments are stored whole; of a ``.partial`` one (the last of a timeline, archived by a promotion) the part before the
switch, for what follows is left over from the file's former use; ``.history`` files as they are. ``.backup`` files only
repeat what ``backup_label`` says and are taken without being stored. The same bytes again are a success, other bytes
are refused (TRAPS "PostgreSQL" 3), and so is a file of another cluster or version than the source's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mingus_engine import lsn as lsns
from mingus_engine.bounds import MIB
from mingus_engine.codec.containers import ContainerKind
from mingus_engine.errors import BackupBroken, Damaged, LogDiverged, SettingsError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres.wal import keep_history, wal_facts
from mingus_engine.postgres import timelines, wal_segment
from mingus_engine.postgres.wal_segment import HEADER_BYTES, SegmentHeader
from mingus_engine.repository import log_index, logs, names, runs, writer
from mingus_engine.repository.log_index import LogIndex
from mingus_engine.repository.logs import LogWriter
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.writer import UNUSABLE, WriteRun
from mingus_engine.settings import Settings
from mingus_engine.sources.base import TimelineHistory

_HISTORY_MAX_BYTES = MIB
_ANOTHER = "is this the archive_command of another server? after pg_upgrade take a full backup first"


@dataclass(frozen=True, kw_only=True)
class PushWalReport(Report):
    """What became of the file: ``stored``, ``there`` (the same bytes already), or ``ignored``. ``wal_bytes`` of log."""

    file: str
    outcome: str
    repository: str
    wal_bytes: int


def push_wal(settings: Settings, source_id: str, path: Path, *, context: JobContext) -> PushWalReport:
    """Store the file at *path* in the first reachable repository of *source_id*.

    :raises LogDiverged: of another cluster, or other bytes are stored. :raises Damaged: not what its name says.
    :raises SettingsError: not a file of ``pg_wal``. :raises StoreError: it is not stored.
    """
    clock = Stopwatch()
    name = path.name
    source = settings.source(source_id, "postgres")
    if wal_segment.BACKUP.fullmatch(name):
        return PushWalReport(
            job="push wal", source=source_id, duration_s=clock.seconds, file=name, outcome="ignored", repository="",
            wal_bytes=0,
        )  # fmt: skip
    with places.first_reachable(settings, source_id, context) as repository:
        run = writer.begin(
            repository, source_id, kind=runs.LOG, spool_path=settings.spool_path, level=source.zstd_level,
            provenance=context.provenance,
        )  # fmt: skip
        with closing(run):
            push = _Push(settings, run, path, source.zstd_level)
            stored = push.history() if wal_segment.HISTORY.fullmatch(name) else push.segment()
            run.refuse_if_fenced()
            run.end([])
        return PushWalReport(
            job="push wal", source=source_id, duration_s=clock.seconds, file=name,
            outcome="stored" if stored else "there", repository=repository.name, wal_bytes=push.wal_bytes,
        )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What the source is known to be; ``version`` 0 = not known."""

    system_id: int
    version: int


class _Push:
    def __init__(self, settings: Settings, run: WriteRun, path: Path, level: int) -> None:
        self._run, self._path, self._level = run, path, level
        self._spool = settings.spool_path
        self._index = log_index.list_logs(run.repository, run.source, run.state.planned)
        self.wal_bytes = 0

    def history(self) -> bool:
        """Store a history file; whether it was not there. Its cluster is the one of the segments beside it."""
        with self._path.open("rb") as file:
            content = file.read(_HISTORY_MAX_BYTES + 1)
        timeline = int(self._path.stem, 16)
        if len(content) > _HISTORY_MAX_BYTES:
            raise Damaged(f"{self._path.name}: longer than any history", hint="")
        timelines.path(timeline, content, self._path.name)
        system_id = self._system_id_beside()
        history = TimelineHistory(timeline, self._path.name, content)
        stored = self._index.histories.get((system_id, timeline))
        return keep_history(self._run, stored, history, system_id, spool_path=self._spool, level=self._level)

    def segment(self) -> bool:
        """Store a segment, or the valid part of a partial one; whether it was not there."""
        name = self._path.name
        partial = wal_segment.PARTIAL.fullmatch(name)
        base = partial[1] if partial else name
        if wal_segment.SEGMENT.fullmatch(base) is None:
            raise SettingsError(f"{name} is not a file of pg_wal", hint="archive_command = 'mingus wal push %p'")
        with self._path.open("rb") as file:
            header = wal_segment.read_header(file.read(HEADER_BYTES), name)
            size = self._path.stat().st_size
            timeline, start = wal_segment.segment_position(base, header.segment_bytes)
            if (start, size) != (header.start, header.segment_bytes) or header.timeline > timeline:
                raise Damaged(
                    f"{name}: {size} bytes that say they are {header.segment_bytes} from {lsns.text(header.start)} on"
                    f" of timeline {header.timeline}",
                    hint="",
                )
            self._refuse_another(header.system_id, header.version)
            length = self._switch(timeline, start, size) - start if partial else size
            if not length:
                return False
            file.seek(0)
            return self._store(header, timeline, start, iter(lambda: file.read(MIB), b""), length)

    def _store(self, header: SegmentHeader, timeline: int, start: int, pieces: Iterator[bytes], length: int) -> bool:
        lineage = names.wal_lineage(header.system_id, timeline, start)
        writer = LogWriter(self._run, ContainerKind.WAL, lineage, start, spool_path=self._spool, level=self._level)
        with closing(writer):
            for piece in pieces:
                writer.append(piece[: length - writer.length])
                if writer.length == length:
                    break
            if writer.length != length:
                raise BackupBroken(f"{self._path.name} became shorter while it was read")
            facts = wal_facts(header.system_id, header.segment_bytes, header.version * 10000)
            ref = writer.put(server_clock_us=0, flush=0, facts=facts)
        self.wal_bytes = length
        return ref.run == self._run.run

    def _switch(self, timeline: int, start: int, size: int) -> int:
        """Where *timeline* was left, within the segment at *start*: from the histories beside it."""
        for other in sorted(self._path.parent.glob("*.history")):
            if wal_segment.HISTORY.fullmatch(other.name):
                for step in timelines.path(int(other.stem, 16), other.read_bytes(), other.name):
                    if step.timeline == timeline and step.end is not None and start <= step.end <= start + size:
                        return step.end
        raise BackupBroken(
            f"{self._path.name}: no history beside it says where timeline {timeline} was left",
            hint="the .history file of the new timeline belongs into the same directory",
        )

    def _system_id_beside(self) -> int:
        for other in sorted(self._path.parent.iterdir(), reverse=True):
            if wal_segment.SEGMENT.fullmatch(other.name):
                try:
                    with other.open("rb") as file:
                        header = wal_segment.read_header(file.read(HEADER_BYTES), other.name)
                except (Damaged, FileNotFoundError):
                    continue  # made in advance and not written yet, or removed meanwhile
                self._refuse_another(header.system_id, header.version)
                return header.system_id
        raise BackupBroken(f"{self._path.name}: no segment beside it tells its cluster")

    def _refuse_another(self, system_id: int, version: int) -> None:
        known = _known(self._run.repository, self._run.source, self._index)
        if known is None:
            return
        if known.system_id != system_id or (known.version and known.version != version):
            raise LogDiverged(
                f"{self._path.name} is of cluster {system_id}, PostgreSQL {version}; source {self._run.source} is"
                f" cluster {known.system_id}, PostgreSQL {known.version or 'of unknown version'}",
                hint=_ANOTHER,
            )


def _known(repository: Repository, source: str, index: LogIndex) -> _Known | None:
    """What the newest snapshot says of its cluster, else the newest log; ``None`` = there is neither."""
    for name in sorted(repository.list_snapshots(source), key=lambda n: n.ulid, reverse=True):
        try:
            facts = repository.manifest_body(repository.get_manifest(name)).facts
            return _Known(int(facts["system_id"]), int(facts["server_version_number"]) // 10000)
        except (*UNUSABLE, KeyError, TypeError, ValueError):
            continue
    for timeline in index.timelines.values():
        for log in reversed(timeline.logs):
            try:
                found = logs.LogReader(repository, source, logs.reference(repository, *log)).directory().facts
            except UNUSABLE:
                continue
            return _Known(timeline.system_id, int(found.get("server_version_number") or 0) // 10000)
    return None
