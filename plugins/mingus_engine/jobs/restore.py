"""``restore``: a snapshot becomes a data directory that is ready to start.

The phases: choose repository and snapshot → plan (places, space) → refuse what must be refused, before anything is
written → files → WAL →
``backup_manifest`` and, last of all, ``global/pg_control``. A restore that fails or is killed leaves nothing that
could be started.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.errors import ComponentMissing, SettingsError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.materialise import Materialiser
from mingus_engine.postgres import programs
from mingus_engine.postgres.backup_manifest import WalRange
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.postgres.target import PostgresTarget

_RESTORE_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a restore will do, found out before anything is written. Sizes in bytes.

    :param tablespaces: OID → directory. :param needed: directory → bytes.
    """

    snapshot: str
    directory: str
    tablespaces: dict[str, str]
    files: int
    bytes: int
    wal_bytes: int
    needed: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class RestoreReport(Report):
    """What was restored. Sizes in bytes; ``plan`` alone with a dry run."""

    repository: str
    snapshot: str
    directory: str
    files: int = 0
    bytes_written: int = 0
    wal_bytes: int = 0
    start_hint: str = ""
    plan: dict[str, Any]


def restore(
    settings: Settings,
    source_id: str,
    *,
    directory: Path,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    tablespace_map: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> RestoreReport:
    """Restore a snapshot of *source_id* into *directory*, which must be empty or not there.

    :param repository: from where; default: the first reachable one of the chain. :param snapshot: ULID or its
        beginning; default: newest.
    :param tablespace_map: OID or original directory → new directory. :param dry_run: only the plan.
    :raises TargetError: the place is not usable; nothing was written. :raises NoSuchSnapshot: :raises Damaged:
    """
    clock = Stopwatch()
    source = settings.source(source_id)
    with ExitStack() as stack:
        opened = (
            places.opened(settings, repository, context)
            if repository
            else places.first_reachable(settings, source_id, context)
        )
        place = stack.enter_context(opened)
        manifest = reading.choose(place, source_id, snapshot)
        stack.enter_context(reading.announced(place, manifest, context))
        job = PostgresRestore(SnapshotReader(place, manifest), directory, tablespace_map or {}, context)
        plan = job.plan()
        if not dry_run:
            job.run(owner=_owner(directory, source.verify.run_as), durable=True)
        return RestoreReport(
            job="restore",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            directory=str(directory),
            files=job.files,
            bytes_written=job.bytes,
            wal_bytes=0 if dry_run else plan.wal_bytes,
            start_hint="" if dry_run else _start_hint(directory, job.version, source),
            plan=plan.as_dict(),
        )


class PostgresRestore:
    """One snapshot into one data directory; used by ``restore`` and by restore tests."""

    def __init__(
        self, reader: SnapshotReader, directory: Path, tablespace_map: Mapping[str, str], context: JobContext
    ) -> None:
        self._reader, self._directory, self._context = reader, directory, context
        self._manifest = reader.manifest
        self.facts = reader.body.facts
        self.version = int(self.facts["server_version_number"]) // 10000
        self._tablespaces = _place_tablespaces(self.facts, tablespace_map)
        self._segment_bytes = int(self.facts["wal_segment_bytes"])
        self._plan: Plan | None = None
        self.files = 0
        self.bytes = 0

    def plan(self) -> Plan:
        """What will be written where. Reads the shards once."""
        if self._plan is None:
            needed = dict.fromkeys([self._directory, *self._tablespaces.values()], 0)
            by_prefix = {f"pg_tblspc/{oid}/".encode(): path for oid, path in self._tablespaces.items()}
            files = 0
            for entry, _ in self._reader.files():
                self._context.checkpoint()
                if entry.kind == FileKind.FILE:
                    files += 1
                    prefix = b"/".join(entry.path.split(b"/", 2)[:2]) + b"/"
                    needed[by_prefix.get(prefix, self._directory)] += entry.size
            wal = self._wal_files()
            wal_bytes = len(wal) * self._segment_bytes
            total = sum(needed.values())
            needed[self._directory] += wal_bytes
            self._plan = Plan(
                snapshot=self._manifest.ulid,
                directory=str(self._directory),
                tablespaces={str(oid): str(path) for oid, path in self._tablespaces.items()},
                files=files,
                bytes=total,
                wal_bytes=wal_bytes,
                needed={str(path): size for path, size in needed.items()},
            )
        return self._plan

    def run(self, *, owner: tuple[int, int] | None, durable: bool) -> None:
        """Write everything; on failure what was written is removed.

        :raises TargetError: :raises Damaged: :raises Cancelled:
        """
        plan = self.plan()
        target = PostgresTarget(
            self._directory,
            version=self.version,
            cluster_id=int(self.facts["system_id"]),
            tablespaces=self._tablespaces,
            owner=owner,
            segment_bytes=self._segment_bytes,
            durable=durable,
        )
        try:
            target.prepare({Path(path): size for path, size in plan.needed.items()}, plan.files)
            try:
                materialiser = Materialiser(self._reader, target, self._context, plan.bytes)
                written = materialiser.run(_RESTORE_WORKERS)
                target.write_wal(self._wal_content(), self._context.checkpoint)
                target.finish(self._wal_ranges())
            except BaseException:
                target.abandon()
                raise
        finally:
            target.close()
        self.files, self.bytes = written.files, written.bytes

    def _wal_files(self) -> dict[str, LogRef]:
        """Segment or history name → the container to take it from (the longest that starts the segment)."""
        chosen: dict[str, LogRef] = {}
        for ref in self._manifest.logs:
            _, timeline, part = ref.lineage.split("/")
            if part == "history":
                name = f"{int(timeline):08X}.history"
            else:
                name = lsns.segment_name(int(timeline), ref.start, self._segment_bytes)
                if ref.start % self._segment_bytes:
                    continue
            if name not in chosen or chosen[name].end < ref.end:
                chosen[name] = ref
        return chosen

    def _wal_content(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        for name, ref in sorted(self._wal_files().items()):
            run_key = self._reader.body.run_keys.get(ref.run)
            reader = LogReader(self._reader.repository, self._manifest.name.source, ref, run_key)
            yield name, ref.end - ref.start, reader.chunks()

    def _wal_ranges(self) -> list[WalRange]:
        facts = self.facts
        return [
            WalRange(int(facts["timeline"]), lsns.parse(str(facts["start_lsn"])), lsns.parse(str(facts["stop_lsn"])))
        ]


def _place_tablespaces(facts: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[int, Path]:
    places_of: dict[int, Path] = {}
    used = set()
    for tablespace in facts["tablespaces"]:
        oid, location = int(tablespace["oid"]), str(tablespace["location"])
        if not location.startswith("/"):
            continue  # "in place": a plain directory inside the data directory
        key = str(oid) if str(oid) in wanted else location
        used.add(key)
        places_of[oid] = Path(wanted.get(key, location))
    if unknown := set(wanted) - used:
        known = ", ".join(f"{oid} ({path})" for oid, path in places_of.items()) or "none"
        raise SettingsError(f"no tablespace {min(unknown)} in this snapshot; it has: {known}")
    return places_of


def _owner(directory: Path, run_as: str) -> tuple[int, int] | None:
    """Who owns what is restored: the process, or for root the owner of *directory*, else the account *run_as*."""
    if os.geteuid() == 0 and directory.is_dir() and (status := directory.stat()).st_uid != 0:
        return status.st_uid, status.st_gid
    account = programs.account(run_as)
    return account.owner if account else None


def _start_hint(directory: Path, version: int, source: SourceSettings) -> str:
    """The command that starts what was restored, as far as this machine can."""
    try:
        pg_ctl = str(programs.find(version, source.bin_directory).path("pg_ctl"))
    except ComponentMissing:
        pg_ctl = "pg_ctl"
    command = f"{shlex.quote(pg_ctl)} -D {shlex.quote(str(directory))} start"
    if os.geteuid() == 0:
        with suppress(KeyError):  # an owner without a name
            command = f"runuser -u {pwd.getpwuid(directory.stat().st_uid).pw_name} -- {command}"
    return command
