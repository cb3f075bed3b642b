"""``restore`` for Redis: a snapshot, or a moment, becomes a data directory that is ready to start.

The phases: choose repository, snapshot and form → plan → refuse what must be refused, before anything is written →
files → commands → configuration, where it was asked for → the names that let a server start. What a server needs to
start with everything, and the command line that does it, are part of the report: a server that looks for another file
is empty and says nothing (TRAPS "Redis" 1).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mingus_engine.errors import ComponentMissing, NotRestorable, SettingsError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.materialise import Materialiser
from mingus_engine.jobs.redis import contents
from mingus_engine.jobs.redis.contents import Contents, StoredServer
from mingus_engine.jobs.redis.recovering import recoveries
from mingus_engine.jobs.redis.recovery import RedisRecovery
from mingus_engine.programs import accounts
from mingus_engine.redis import aof, programs, versions
from mingus_engine.redis.rdb_check import RdbFacts
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.targets.redis import layout
from mingus_engine.targets.redis.directory import SECRET_MODE, RedisTarget
from mingus_engine.targets.redis.layout import ServerFiles

FORMS = (layout.RDB, layout.AOF)
_RESTORE_WORKERS = 2
_DEFAULT_DATABASES = "16"


@dataclass(frozen=True, kw_only=True)
class RedisPlan:
    """What a restore will do, found out before anything is written. Sizes in bytes.

    :param servers: per server its shard (``""`` alone), form, paths, RDB version. :param version: of the server that
        was backed up, e.g. ``Redis 7.0.15``. :param command_bytes: of commands after the snapshot.
    :param on_request: files beside the data: configuration, users. :param notes: what the person should know.
    """

    snapshot: str
    kind: str
    directory: str
    version: str
    servers: list[dict[str, Any]]
    files: int
    bytes: int
    command_bytes: int
    on_request: list[str]
    recovery: list[dict[str, Any]]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True)
class RedisRestoreReport(Report):
    """What was restored. Sizes in bytes; ``plan`` alone with a dry run.

    :param start_hints: per server the command that starts it with everything.
    """

    repository: str
    snapshot: str
    directory: str
    files: int = 0
    bytes_written: int = 0
    command_bytes: int = 0
    start_hints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plan: dict[str, Any]
    target: str | None = None


def restore_redis(
    settings: Settings,
    source_id: str,
    *,
    directory: Path,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    to: str | None = None,
    dry_run: bool = False,
    shard: str | None = None,
    configuration: bool = False,
    acl: bool = False,
    form: str | None = None,
) -> RedisRestoreReport:
    """Restore *source_id* into *directory*, which must be empty or not there: a snapshot, or a moment.

    :param repository: from where; default: the first reachable one of the chain. :param snapshot: ULID or its
        beginning; default: the newest, with *to* the newest that leads there.
    :param to: recovery target (``recovery.FORMS``); default: the snapshot itself. :param dry_run: only the plan.
    :param shard: of a cluster, ``shard-<n>`` or its number: only this one, into *directory* itself; default: all, each
        into a directory of its own below.
    :param configuration: also write the configuration that was stored (redis.conf, nodes.conf), secrets included.
    :param acl: also write the users (users.acl). :param form: ``rdb`` or ``aof``; default: as the server was
        configured. A moment, and a snapshot of an append-only file, are ``aof``.
    :raises NotRestorable: the target is outside what can be restored, or the server here is too old for the RDB.
    :raises TargetError: the place is not usable. Nothing was written. :raises NoSuchSnapshot: :raises Damaged:
    """
    clock = Stopwatch()
    source = settings.stored_source(source_id, "redis")
    if form is not None and form not in FORMS:
        raise SettingsError(f"{form!r} is not one of {', '.join(FORMS)}")
    with ExitStack() as stack:
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        found: dict[str, RedisRecovery] = {}
        if to is None:
            manifest = reading.choose(place, source_id, snapshot)
        else:
            found = recoveries(place, source_id, to, context=context, snapshot=snapshot, shard=shard)
            manifest = next(iter(found.values())).snapshot
        stack.enter_context(reading.announced(place, manifest, context))
        job = RedisRestore(
            SnapshotReader(place, manifest, settings.spool_path), directory, context,
            recoveries=found, shard=shard, form=form, configuration=configuration, acl=acl,
        )  # fmt: skip
        notes = job.require_readable(source.bin_directory)
        plan = job.plan(notes)
        if dry_run:
            job.inspect(owner=_owner(directory, source))
        else:
            job.run(owner=_owner(directory, source), durable=True)
        return RedisRestoreReport(
            job="restore",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            directory=str(directory),
            files=job.files,
            bytes_written=job.bytes,
            command_bytes=job.command_bytes,
            start_hints=[] if dry_run else job.start_hints(source),
            notes=plan.notes,
            plan=plan.as_dict(),
            target=next((one.target.text for one in found.values()), None),
        )


class RedisRestore:
    """One snapshot into one directory; used by ``restore`` and by restore tests.

    :param recoveries: shard → how its moment is reached; empty: the snapshot itself. The rest as ``restore_redis``.
    :raises SettingsError: no such shard, or a form that cannot be. :raises Damaged: what is stored is not whole.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        directory: Path,
        context: JobContext,
        *,
        recoveries: Mapping[str, RedisRecovery] | None = None,
        shard: str | None = None,
        form: str | None = None,
        configuration: bool = False,
        acl: bool = False,
    ) -> None:
        self._reader, self._directory, self._context = reader, directory, context
        self.recoveries = recoveries or {}
        self.facts = reader.body.facts
        self.engine, self.version = str(self.facts.get("engine", "redis")), str(self.facts.get("version", ""))
        self.contents = Contents(reader)
        self.stored = _chosen(self.contents.servers, shard)
        # One server goes into the directory itself, several into directories named as the shards.
        alone = len(self.stored) == 1
        self.servers = [self._place(server, b"" if alone else server.prefix, form) for server in self.stored]
        self._beside = self._on_request(configuration=configuration, acl=acl)
        self._paths = {path for server in self.servers for path in server.files}
        self.files = self.bytes = self.command_bytes = 0
        #: What each RDB says of itself, by its path in the directory.
        self.rdbs: dict[bytes, RdbFacts] = {}

    def require_readable(self, bin_directory: str) -> list[str]:
        """Whether a server here can read what will be restored; notes where that is not known.

        :raises NotRestorable: those that are installed are too old; both versions are named.
        """
        newest = max((self.contents.rdb_version(server) for server in self.stored), default=0)
        found = programs.installed(bin_directory)
        what = f"RDB version {newest} ({versions.shown(self.engine, self.version)})"
        if not found:
            return [f"no server is installed here, so nothing was compared: it must read {what}"]
        if any(versions.can_read(p.engine, p.version, newest) for p in found):
            return []
        here = found[0]
        raise NotRestorable(
            f"{what} is too new: {versions.shown(here.engine, here.version)} in {here.directory} reads RDB up to"
            f" version {versions.reads(here.engine, here.version)}",
            hint=f"install {versions.shown(self.engine, self.version)} or newer, or name its directory as"
            " bin_directory; `mingus cat` gives the RDB as it is",
        )

    def plan(self, notes: Sequence[str] = ()) -> RedisPlan:
        """What will be written where."""
        sizes = {path: self.contents.files[path].entry.size for path in self._paths}
        return RedisPlan(
            snapshot=self._reader.manifest.ulid,
            kind=self._reader.manifest.kind,
            directory=str(self._directory),
            version=versions.shown(self.engine, self.version),
            servers=[
                {
                    "shard": stored.shard,
                    "form": placed.form,
                    "files": sorted(path.decode(errors="replace") for path in placed.files.values()),
                    "rdb_version": self.contents.rdb_version(stored),
                }
                for stored, placed in zip(self.stored, self.servers, strict=True)
            ],
            files=len(sizes) + sum(bool(placed.increment) for placed in self.servers),
            bytes=sum(sizes.values()),
            command_bytes=sum(r.end - r.start for r in self.recoveries.values()),
            on_request=sorted(path.decode() for path in self._beside),
            recovery=[recovery.as_dict() for recovery in self.recoveries.values()],
            notes=[*notes, *self._notes()],
        )

    def inspect(self, *, owner: tuple[int, int] | None) -> None:
        """Refuse a place that :meth:`run` would refuse; nothing is written.

        :raises TargetError: see ``DirectoryTarget``.
        """
        plan = self.plan()
        target = RedisTarget(self._directory, self.servers, owner=owner, durable=True)
        target.inspect(plan.bytes + plan.command_bytes, plan.files)

    def run(self, *, owner: tuple[int, int] | None, durable: bool) -> None:
        """Write everything; on failure what was written is removed.

        :raises TargetError: :raises Damaged: :raises Cancelled:
        """
        plan = self.plan()
        target = RedisTarget(self._directory, self.servers, owner=owner, durable=durable)
        try:
            target.prepare(plan.bytes + plan.command_bytes, plan.files)
            try:
                materialiser = Materialiser(self._reader, target, self._context, plan.bytes, wanted=target.wants)
                written = materialiser.run(_RESTORE_WORKERS)
                for stored, placed in zip(self.stored, self.servers, strict=True):
                    self._write_commands(target, stored, placed)
                for path, content in self._beside.items():
                    target.write_own(path, content, SECRET_MODE)
                target.finish()
            except BaseException:
                target.abandon()
                raise
        finally:
            target.close()
        self.files, self.bytes, self.rdbs = written.files, written.bytes, target.rdbs

    def start_hints(self, source: SourceSettings) -> list[str]:
        """The commands that start what was restored, with everything that is in it."""
        try:
            newest = max((self.contents.rdb_version(server) for server in self.stored), default=0)
            found = programs.find(self.engine, self.version, newest, source.bin_directory)
            program = str(found.path(found.server))
        except ComponentMissing:
            program = f"{self.engine}-server"
        return [
            _start_hint(program, self._directory, stored, placed, self._beside)
            for stored, placed in zip(self.stored, self.servers, strict=True)
        ]

    def _write_commands(self, target: RedisTarget, stored: StoredServer, placed: ServerFiles) -> None:
        if not placed.increment:
            return
        recovery = self.recoveries.get(stored.shard)
        self.command_bytes += target.write_commands(placed, self._counted(recovery) if recovery else ())

    def _counted(self, recovery: RedisRecovery) -> Iterator[bytes]:
        done = 0
        for chunk in recovery.commands():
            self._context.checkpoint()
            yield chunk
            done += len(chunk)
            self._context.progress("restore commands", done, recovery.end - recovery.start, recovery.shard)

    def _place(self, stored: StoredServer, below: bytes, form: str | None) -> ServerFiles:
        recovery = self.recoveries.get(stored.shard)
        if (recovery is not None or stored.manifest is not None) and form == layout.RDB:
            raise SettingsError(
                "an append-only file is restored as one: the commands in it are in no RDB",
                hint="start a server on it and let it save an RDB",
            )
        if recovery is not None:
            suffix = "." + recovery.base_name.rpartition(".")[2]
            manifest = aof.restored(stored.names.appendfilename, suffix)
            return layout.of_commands(recovery.base, below, stored.names, manifest)
        if stored.manifest is not None:
            return layout.of_aof(stored.folder, below, stored.names, stored.manifest)
        appends = stored.configuration.get("appendonly") == "yes"
        return layout.of_rdb(stored.prefix, below, stored.names, form or (layout.AOF if appends else layout.RDB))

    def _on_request(self, *, configuration: bool, acl: bool) -> dict[bytes, bytes]:
        """Path → content of what is written only because somebody asked for it: it holds secrets.

        :raises NotRestorable: the snapshot has none of it.
        """
        wanted = [contents.REDIS_CONF, contents.CONFIGURATION, contents.NODES] if configuration else []
        wanted += [contents.USERS] if acl else []
        found: dict[bytes, bytes] = {}
        for stored, placed in zip(self.stored, self.servers, strict=True):
            for path in wanted:
                content = self.contents.read(stored.prefix + path)
                if content is not None:
                    found[placed.below + path.rpartition(b"/")[2]] = content
        for flag, of_it in ((configuration, contents.CONFIGURATION), (acl, contents.USERS)):
            name = of_it.rpartition(b"/")[2]
            if flag and not any(path.endswith(name) for path in found):
                raise NotRestorable(
                    f"snapshot {self._reader.manifest.ulid} has no {name.decode()}: it was not readable",
                    hint="the user of the backup may lack CONFIG GET or ACL LIST: see `mingus check SOURCE`",
                )
        return found

    def _notes(self) -> list[str]:
        forms = {placed.form for placed in self.servers}
        said = []
        if layout.RDB in forms:
            said.append("start with appendonly no: with appendonly yes a server does not look at an RDB and is empty")
        if layout.AOF in forms:
            said.append("start with appendonly yes: the data is in the append-only file")
        return said


def _chosen(servers: Sequence[StoredServer], shard: str | None) -> list[StoredServer]:
    if shard is None:
        return list(servers)
    name = contents.shard_named([server.shard for server in servers], shard)
    return [server for server in servers if server.shard == name]


def _owner(directory: Path, source: SourceSettings) -> tuple[int, int] | None:
    """The account of servers of this kind; where there is none, and none was named, the owner of the nearest parent."""
    try:
        return accounts.owner_in(directory, source.run_as)
    except ComponentMissing:
        if source.verify.run_as:
            raise
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists()).stat()
    return there.st_uid, there.st_gid


def _start_hint(
    program: str, directory: Path, stored: StoredServer, placed: ServerFiles, beside: Mapping[bytes, bytes]
) -> str:
    """Everything that decides what is loaded is on the command line, whatever a configuration file says."""
    place = directory / os.fsdecode(placed.below)
    names = placed.names
    words = [program]
    if placed.below + b"redis.conf" in beside:
        words.append(str(place / "redis.conf"))
    words += ["--dir", str(place), "--dbfilename", names.dbfilename]
    if placed.form == layout.AOF:
        words += ["--appendonly", "yes", "--appenddirname", names.appenddirname]
        words += ["--appendfilename", names.appendfilename]
    else:
        words += ["--appendonly", "no"]
    databases = str(stored.configuration.get("databases") or _DEFAULT_DATABASES)
    if databases != _DEFAULT_DATABASES:
        words += ["--databases", databases]
    if placed.below + b"users.acl" in beside:
        words += ["--aclfile", str(place / "users.acl")]
    return accounts.command_of_owner(shlex.join(words), place)
