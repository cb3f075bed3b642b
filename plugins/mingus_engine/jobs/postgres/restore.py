"""``restore``: a snapshot, or a moment in a recovery window, becomes a data directory that is ready to start.

The phases: choose repository, snapshot and log → plan (places, space) → refuse what must be refused, before anything
is written → files → WAL → recovery settings → ``backup_manifest`` and, last of all, ``global/pg_control``. A restore
that fails or is killed leaves nothing that could be started.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.codec import plainjson
from mingus_engine.errors import ComponentMissing, SettingsError, TargetError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.materialise import Materialiser
from mingus_engine.jobs.postgres import fetch_wal, recovery_target, wal_files
from mingus_engine.jobs.postgres.recovery_target import Recovery, Target
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.jobs.postgres.wal_files import WalFile
from mingus_engine.jobs.postgres.windows import Recoverable
from mingus_engine.postgres import programs
from mingus_engine.postgres.backup_manifest import WalRange
from mingus_engine.programs import accounts
from mingus_engine.repository import names, records, state
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.postgres.target import PostgresTarget

_RESTORE_WORKERS = 2
# Fetching waits for the store, not for the processor.
_WAL_WORKERS = 4
ACTIONS = ("promote", "pause", "shutdown")
WAL_MODES = ("copy", "fetch")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a restore will do, found out before anything is written. Sizes in bytes.

    :param tablespaces: OID → directory. :param needed: directory → bytes.
    :param recovery: of a target: snapshot's reason, window, timelines, log, settings (``Recovery.as_dict``).
    :param estimated_s: seconds until the server accepts connections, by the newest proof; ``None``: nothing is proven.
    """

    snapshot: str
    directory: str
    tablespaces: dict[str, str]
    files: int
    bytes: int
    wal_bytes: int
    needed: dict[str, int]
    recovery: dict[str, Any] | None = None
    estimated_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class RestoreReport(Report):
    """What was restored. Sizes in bytes; ``plan`` alone with a dry run.

    :param bytes_equal, removed: with ``delta``: what was there already, and how many files were not of the snapshot.
    """

    repository: str
    snapshot: str
    directory: str
    files: int = 0
    bytes_written: int = 0
    wal_bytes: int = 0
    start_hint: str = ""
    plan: dict[str, Any]
    target: str | None = None
    bytes_equal: int | None = None
    removed: int | None = None


@dataclass(frozen=True)
class Ending:
    """What the server does at the target.

    :param action: ``promote``, ``pause`` or ``shutdown``. :param standby: it stays a standby and follows its primary.
    :param restore_command: how it gets log; empty: all that it needs was copied into ``pg_wal``.
    """

    action: str = "promote"
    standby: bool = False
    restore_command: str = ""

    def settings(self, recovery: Recovery) -> dict[str, str]:
        """What goes into ``postgresql.auto.conf``."""
        values = {"restore_command": self.restore_command or "false", **recovery.settings}
        if self.restore_command:
            values["recovery_end_command"] = f"rm -rf pg_wal/{fetch_wal.PREFETCH}"
        if recovery.target.kind != "latest":
            values["recovery_target_action"] = self.action
        elif self.standby:
            values["recovery_target_timeline"] = "latest"
        return values


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
    to: str | None = None,
    timeline: int | None = None,
    inclusive: bool = True,
    action: str = "promote",
    standby: bool = False,
    wal: str = "copy",
    settings_file: Path | None = None,
    delta: bool = False,
) -> RestoreReport:
    """Restore *source_id* into *directory*, which must be empty or not there: a snapshot, or a moment.

    :param repository: from where; default: the first reachable one of the chain. :param snapshot: ULID or its
        beginning; default: the newest, with *to* the newest that leads there.
    :param tablespace_map: OID or original directory → new directory. :param dry_run: only the plan.
    :param to: recovery target (``recovery_target.FORMS``); default: the end of the snapshot itself.
    :param timeline: to follow to the target; default: the newest. :param inclusive: of an LSN, time or transaction.
    :param action: of the server at the target: ``promote``, ``pause`` or ``shutdown``. :param standby: it becomes a
        standby.
    :param wal: ``copy`` the log that the target needs into ``pg_wal``, or let the server ``fetch`` it while it recovers
        (by ``mingus wal fetch`` with *settings_file*).
    :param delta: *directory* may hold this cluster, or a restore that was interrupted: blocks that are equal stay, what
        is not of the snapshot is removed, and a failure removes nothing, so that the next one goes on.
    :raises NotRestorable: the target is outside what can be restored. :raises TargetError: the place is not usable.
        Nothing was written. :raises NoSuchSnapshot: :raises Damaged:
    """
    clock = Stopwatch()
    source = settings.stored_source(source_id, "postgres")
    target = recovery_target.parse(to) if to is not None else None
    if action not in ACTIONS:
        raise SettingsError(f"{action!r} is not one of {', '.join(ACTIONS)}")
    if wal not in WAL_MODES or (wal == "fetch" and settings_file is None):
        raise SettingsError(f"{wal!r} is not one of {', '.join(WAL_MODES)}, or the settings file is not named")
    command = fetch_wal.restore_command(settings_file, source_id) if wal == "fetch" and settings_file else ""
    if target is None and (wal == "fetch" or timeline is not None or standby or action != "promote" or not inclusive):
        raise SettingsError("a timeline, an action, a standby or --wal fetch needs a target", hint="say --to")
    with ExitStack() as stack:
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        found: Recoverable | None = None
        recovery: Recovery | None = None
        if target is None:
            manifest = reading.choose(place, source_id, snapshot)
        else:
            found, recovery = find_recovery(
                place, source_id, target, timeline=timeline, inclusive=inclusive, snapshot=snapshot, context=context
            )
            manifest = found.manifests[recovery.point.snapshot]
        stack.enter_context(reading.announced(place, manifest, context))
        job = PostgresRestore(
            SnapshotReader(place, manifest, settings.spool_path), directory, tablespace_map or {}, context,
            recovery=recovery, wal=found.wal if found else None, ending=Ending(action, standby, command),
        )  # fmt: skip
        plan = replace(job.plan(), estimated_s=_estimate(place, source_id, job.plan()))
        if not dry_run:
            job.run(owner=accounts.owner_in(directory, source.run_as), durable=True, delta=delta)
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
            bytes_equal=job.same_bytes if delta else None,
            removed=job.removed if delta else None,
            start_hint="" if dry_run else _start_hint(directory, job.version, source),
            plan=plan.as_dict(),
            target=target.text if target else None,
        )


def find_recovery(
    place: Repository,
    source_id: str,
    target: Target | int,
    *,
    context: JobContext,
    timeline: int | None = None,
    inclusive: bool = True,
    snapshot: str | None = None,
) -> tuple[Recoverable, Recovery]:
    """How *target* is reached from one repository; see :func:`recovery_target.resolve`.

    :param target: or a seed, for a random second of the newest window. :param snapshot: ULID or its beginning.
    :raises NotRestorable: :raises NoSuchSnapshot:
    """
    seen = state.look(place, source_id)
    chosen = seen.find(snapshot).ulid if snapshot else None
    found = Recoverable(place, source_id, seen, trusted=chosen or "")
    if not isinstance(target, Target):
        target = recovery_target.random_moment(found, target, timeline)
    return found, recovery_target.resolve(
        found, target, context=context, timeline=timeline, inclusive=inclusive, snapshot=chosen
    )


class PostgresRestore:
    """One snapshot into one data directory; used by ``restore`` and by restore tests.

    :param recovery: where the server shall recover to, with *wal* to take the log from; default: the snapshot's end.
    :param ending: what it does there; ``None``: only the log is written, and whoever starts the server tells it.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        directory: Path,
        tablespace_map: Mapping[str, str],
        context: JobContext,
        *,
        recovery: Recovery | None = None,
        wal: StoredWal | None = None,
        ending: Ending | None = None,
    ) -> None:
        self._recovery, self._wal, self._ending = recovery, wal, ending
        self._reader, self._directory, self._context = reader, directory, context
        self._manifest = reader.manifest
        self.facts = reader.body.facts
        self.version = int(self.facts["server_version_number"]) // 10000
        self._tablespaces = _place_tablespaces(self.facts, tablespace_map)
        self._segment_bytes = int(self.facts["wal_segment_bytes"])
        self._plan: Plan | None = None
        self.files = self.removed = 0
        self.bytes = self.same_bytes = 0

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
            wal_bytes = sum(
                file.length if file.name.endswith(".history") else self._segment_bytes
                for file in self._wal_files().values()
            )
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
                recovery=self._recovery.as_dict() if self._recovery else None,
            )
        return self._plan

    def run(self, *, owner: tuple[int, int] | None, durable: bool, delta: bool = False) -> None:
        """Write everything; on failure what was written is removed, but with *delta*.

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
            delta=delta,
        )
        try:
            target.prepare({Path(path): size for path, size in plan.needed.items()}, plan.files)
            try:
                materialiser = Materialiser(self._reader, target, self._context, plan.bytes)
                written = materialiser.run(_RESTORE_WORKERS)
                self._write_wal(target, plan.wal_bytes)
                self._refuse_foreign_tablespaces(target)
                if self._recovery is not None and self._ending is not None:
                    signal = "standby" if self._ending.standby else "recovery"
                    target.configure(self._ending.settings(self._recovery), signal=signal)
                    if self._ending.restore_command:
                        known = fetch_wal.known_to(self._recovery, self._reader.repository.name)
                        target.write_own(fetch_wal.NOTE.encode(), known.encode())
                target.finish(self._wal_ranges())
            except BaseException:
                target.abandon()
                raise
        finally:
            target.close()
        self.files, self.bytes = written.files, written.bytes - written.same_bytes
        self.same_bytes, self.removed = written.same_bytes, target.removed

    def _wal_files(self) -> dict[str, WalFile]:
        """By name. The snapshot's own log is there in any case, under the names of its own timeline."""
        files = wal_files.of_snapshot(self._reader, self._segment_bytes)
        if self._recovery is not None and self._wal is not None and self._copies:
            wanted = wal_files.of_recovery(self._wal, self._recovery)
            files.update({n: f for n, f in wanted.items() if n not in files or files[n].length < f.length})
        return files

    def _write_wal(self, target: PostgresTarget, total: int) -> None:
        """Several files at once: each is one or more containers, which a distant store gives one after the other."""
        done = 0
        lock = threading.Lock()

        def counted(file: WalFile) -> Iterator[bytes]:
            nonlocal done
            for chunk in file.chunks():
                self._context.checkpoint()
                yield chunk
                with lock:
                    done += len(chunk)
                self._context.progress("restore WAL", done, total, file.name)

        def write(file: WalFile) -> None:
            target.write_wal([(file.name, file.length, counted(file))], self._context.checkpoint)

        crew = Crew[WalFile]("wal", lambda: write, cancel=self._context.cancel, queue_items=_WAL_WORKERS)
        crew.run((file for _, file in sorted(self._wal_files().items())), _WAL_WORKERS)

    def _refuse_foreign_tablespaces(self, target: PostgresTarget) -> None:
        """Replaying CREATE TABLESPACE leads to the original directory: it must not be a living cluster's.

        :raises TargetError: the log creates a tablespace where something is.
        """
        if self._recovery is None or not self._copies:
            return
        start, end = self._recovery.start, self._recovery.end
        names = [file.name for file in self._recovery.path.files(start, end)]
        length = (self._recovery.redo or self._recovery.point.stop) - start
        for oid, place in sorted(target.created_tablespaces(names, length).items()):
            if os.path.lexists(place):
                raise TargetError(
                    f"on the way to {self._recovery.target.text} the log creates tablespace {oid} in {place}, which is"
                    " there: the restored server would write into it",
                    hint="use a snapshot that was made after the tablespace and --tablespace, or another machine",
                )
            self._context.log(f"the log creates tablespace {oid}: make the empty directory {place} before the start")

    @property
    def _copies(self) -> bool:
        """Whether all that the target needs is written into ``pg_wal``."""
        return self._wal is not None and not (self._ending is not None and self._ending.restore_command)

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


def _estimate(place: Repository, source_id: str, plan: Plan) -> float | None:
    """Seconds until connections, from the newest restore test that passed here: its rate over this plan's bytes."""
    listed = [name for info in place.store.list(f"records/{source_id}/") if (name := names.record(info.name))]
    for name in sorted((n for n in listed if n.kind == records.PROOF), key=lambda n: n.ulid, reverse=True):
        record = place.get_record(name)
        if record.facts.get("ok") is not True or record.text("level") != "L4":
            continue
        report = plainjson.decode(place.open(record.source_envelope), str(name)).get("report", {})
        rto_s, read = report.get("rto_s"), report.get("bytes_read")
        if isinstance(rto_s, int | float) and isinstance(read, int) and read > 0:
            return round(float(rto_s) * (plan.bytes + plan.wal_bytes) / read, 1)
    return None


def _start_hint(directory: Path, version: int, source: SourceSettings) -> str:
    """The command that starts what was restored, as far as this machine can."""
    try:
        pg_ctl = str(programs.find(version, source.bin_directory).path("pg_ctl"))
    except ComponentMissing:
        pg_ctl = "pg_ctl"
    return accounts.command_of_owner(shlex.join((pg_ctl, "-D", str(directory), "start")), directory)
