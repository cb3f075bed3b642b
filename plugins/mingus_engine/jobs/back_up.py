"""``back_up``: read a source once, seal it, store it, commit it.

The phases, in this order: open the repository → begin the run → take in what dead runs left → open the source, which
asks for the parent of an incremental → read and store (WAL beside it) → let the source finish → prove the WAL → cut and
store shards → flush packs → manifest → end of the run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.codec import shards
from mingus_engine.codec.entries import RunTable
from mingus_engine.errors import BackupBroken, ParentDamaged
from mingus_engine.jobs import places, wal
from mingus_engine.jobs.choosing import ParentChooser
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.made_items import made_items
from mingus_engine.jobs.pipeline import Pipeline
from mingus_engine.repository import resume, runs, writer
from mingus_engine.repository.manifests import Body, LogRef, Manifest, ShardRef
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.repository import utc_now
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources import postgres
from mingus_engine.sources.base import Finished, Item, no_parent
from mingus_engine.sources.postgres.backup import PostgresBackup

# 2^8 entries of some 250 bytes and their maps: shards of a database near the target of 128 KiB (DESIGN §4).
_POSTGRES_CUT_BITS = 8


@dataclass(frozen=True, kw_only=True)
class BackUpReport(Report):
    """What was backed up. Sizes in bytes; ``ratio`` = read / stored.

    :param parent: ULID of the snapshot that an incremental was built on; ``depth``: how many were since the full.
    :param method: how an incremental found out what changed. :param reasons: why not the newest snapshot was built on,
        why by another method than the best, or why a full was taken although an incremental was asked for.
    :param bytes_read: what the files hold; ``bytes_given``: what of it came from the source; ``bytes_received``: all
        that came over connections for it, where the transport counts that (``sql``).
    """

    repository: str
    snapshot: str
    kind: str
    parent: str | None
    method: str | None
    reasons: list[str]
    depth: int
    flagged: bool
    checks: list[dict[str, Any]]
    files: int
    bytes_read: int
    bytes_given: int
    bytes_received: int | None
    bytes_stored: int
    bytes_reused: int
    ratio: float
    wal_bytes: int
    start_lsn: str
    stop_lsn: str
    timeline: int
    run: str


def back_up(settings: Settings, source_id: str, *, context: JobContext, incremental: bool = False) -> BackUpReport:
    """Back up *source_id* into the first reachable repository of its chain.

    :param incremental: build on the newest snapshot that may be built on; when there is none, a full backup is taken
        and the report says why. Either restores by itself, in one pass.
    :raises MingusError: nothing was committed; what was stored is used by the next try.
    """
    clock = Stopwatch()
    avoid: list[str] = []
    while True:
        try:
            return _attempt(settings, source_id, context, clock, incremental=incremental, avoid=avoid)
        except ParentDamaged as error:
            # The next run takes in what this one stored, so nothing is stored twice.
            context.log(f"{error.message}; begins again without it")
            if not error.snapshot or error.snapshot in avoid:
                raise
            avoid.append(error.snapshot)


def _attempt(
    settings: Settings,
    source_id: str,
    context: JobContext,
    clock: Stopwatch,
    *,
    incremental: bool,
    avoid: list[str],
) -> BackUpReport:
    source = settings.source(source_id)
    with ExitStack() as stack:
        repository = stack.enter_context(places.first_reachable(settings, source_id, context))
        run = writer.begin(
            repository, source_id, kind=runs.WRITE, spool_path=settings.spool_path, level=source.compression_level,
            provenance=context.provenance, workers=source.workers,
        )  # fmt: skip
        stack.callback(run.close)
        for damaged in run.state.damaged.values():
            context.log(f"not built upon: {damaged}")
        generation = timedelta(days=source.full_every_days)
        chooser = ParentChooser(run, context, generation=generation, avoid=avoid) if incremental else None
        job = _BackUp(settings, source, run, context, chooser)
        manifest, finished = job.run(stack)
    return job.report(manifest, finished, clock.seconds)


class _BackUp:
    def __init__(
        self,
        settings: Settings,
        source: SourceSettings,
        run: WriteRun,
        context: JobContext,
        chooser: ParentChooser | None,
    ) -> None:
        self._settings, self._source, self._repository = settings, source, run.repository
        self._run, self._context, self._chooser = run, context, chooser
        self._table = RunTable([run.run])
        self._shards: list[ShardRef] = []
        self._descended: dict[str, Any] = {}
        self._wal_bytes = 0

    def run(self, stack: ExitStack) -> tuple[Manifest, Finished]:
        """The phases; see the module."""
        context, run = self._context, self._run
        blocks = resume.stored_blocks(run, since=utc_now() - timedelta(days=self._source.full_every_days))
        stack.callback(blocks.close)
        entries = EntrySorter(self._table, self._settings.spool_path)
        stack.callback(entries.close)

        backup = postgres.open_backup(
            self._source, label=f"mingus {run.run}", cancel=context.cancel, choose_parent=self._chooser or no_parent
        )
        stack.callback(backup.close)
        pipeline = self._pipeline = Pipeline(run, entries, self._table, blocks, context, parent=self._parent)
        archiver = _Archiver(self, backup)
        pipeline.total_bytes = backup.expected_bytes()
        try:
            pipeline.process(archiver.guarded(backup.items()), self._source.workers)
            finished = backup.finish()
        except BaseException:
            backup.close()  # ends the stream of WAL, for which the archiver waits
            archiver.join()
            raise
        archiver.join()
        archiver.refuse_failure()
        context.checkpoint()
        context.progress("prove WAL", 0, 0)
        self._wal_bytes = wal.read_back(
            run, archiver.refs, lsns.segment_start(backup.start_lsn, backup.wal_segment_bytes), backup.stop_lsn
        )
        pipeline.process(made_items(finished.files), 1)
        self._store_shards(entries)
        context.checkpoint()
        return self._commit(backup, finished, archiver.refs), finished

    def archive(self, backup: PostgresBackup) -> list[LogRef]:
        """Store the WAL of the backup while it runs; returns when the source says that all was sent."""
        return wal.archive(
            self._run, backup.wal(), system_id=backup.system_id, segment_bytes=backup.wal_segment_bytes,
            spool_path=self._settings.spool_path, level=self._source.compression_level,
            on_stored=backup.receiver.confirm,
        )  # fmt: skip

    def _store_shards(self, entries: EntrySorter) -> None:
        for first, raw in shards.cut(entries.drain(), self._run.keys.hash_key, _POSTGRES_CUT_BITS):
            self._shards.append(self._pipeline.storing.put_shard(first, raw))
        self._run.packs.flush()

    def _commit(self, backup: PostgresBackup, finished: Finished, logs: list[LogRef]) -> Manifest:
        run, pipeline = self._run, self._pipeline
        packs = [*run.packs.refs, *pipeline.storing.adopted]
        self._adopt()
        run_keys = {run.run: run.keys.run_key}
        run_keys.update({p.run: key for p, key in pipeline.storing.adopted.items()})
        for log in logs:
            if log.run not in run_keys:
                run_keys[log.run] = self._repository.log_key(run.source, log.run)
        self._descended = self._descent(backup, finished)
        body = Body(
            facts={**finished.facts, "backup": self._descended},
            checks=[check.as_dict() for check in finished.checks],
            statistics={**self._statistics(), "pack_live": self._live(packs)},
            provenance=run.provenance,
            run_keys=run_keys,
            hash_key=run.keys.hash_key,
            cut_bits=_POSTGRES_CUT_BITS,
            shards=self._shards,
        )
        manifest = run.commit(
            kind=self.kind, position=backup.stop_lsn, flagged=not all(c.ok for c in finished.checks),
            packs=packs, logs=logs, body=body,
        )  # fmt: skip
        run.end([str(manifest.name)])
        return manifest

    @property
    def kind(self) -> str:
        """As in the manifest."""
        return "postgres incremental" if self._parent is not None else "postgres full"

    def _adopt(self) -> None:
        """Remember whose objects are counted on, for the fences that are listed after the manifest was put.

        A fence that the look showed is no reason to refuse: a settled parent refers to what that run put, so no cleaner
        deletes it. A new one is.
        """
        run, parent = self._run, self._parent
        for pack in self._pipeline.storing.adopted:
            put_by = pack.putting_run or pack.run
            if parent is None or not parent.holds(pack) or put_by not in run.state.fences:
                run.adopted.add(put_by)

    def _live(self, packs: list[PackRef]) -> list[list[int]]:
        """Per pack in the manifest's order: bytes of files that this snapshot needs of it, and that it held once."""
        live = self._pipeline.storing.live
        held = self._chooser.held if self._chooser else {}
        return [[n := live[p.run, p.number], max(n, held.get((p.run, p.number), 0))] for p in sorted(packs)]

    def _descent(self, backup: PostgresBackup, finished: Finished) -> dict[str, Any]:
        """Facts about what the snapshot was built on."""
        generation = {"run": self._run.run, "started_at": finished.facts["started_at"]}
        if self._parent is None:
            return {"kind": "full", "depth": 0, "generation": generation, "reasons": self._reasons(backup)}
        facts = self._parent.facts
        then = facts.get("backup", {})
        return {
            "kind": "incremental",
            "parent": self._parent.snapshot,
            "parent_digest": self._parent.digest,
            "depth": int(then.get("depth", 0)) + 1,
            "generation": then.get("generation") or {"run": self._parent.run, "started_at": facts["started_at"]},
            "method": backup.method,
            "reasons": self._reasons(backup),
        }

    def _reasons(self, backup: PostgresBackup) -> list[str]:
        return [*(self._chooser.reasons if self._chooser else ()), *backup.notes]

    @property
    def _parent(self) -> ParentSnapshot | None:
        return self._chooser.parent if self._chooser else None

    def _statistics(self) -> dict[str, int]:
        counters, stored = self._pipeline.counters, self._run.packs.statistics
        return {
            "files": counters.files,
            "vanished": counters.vanished,
            "read_bytes": counters.read_bytes,
            "given_bytes": counters.given_bytes,
            "reused_bytes": self._pipeline.storing.reused_bytes,
            "stored_bytes": stored.sealed_bytes,
            "blobs": stored.blobs,
            "wal_bytes": self._wal_bytes,
        }

    def report(self, manifest: Manifest, finished: Finished, seconds: float) -> BackUpReport:
        """The job's report."""
        s, descent = self._statistics(), self._descended
        return BackUpReport(
            job="back up",
            source=self._run.source,
            duration_s=seconds,
            repository=self._repository.name,
            snapshot=manifest.ulid,
            kind=manifest.kind,
            parent=descent.get("parent"),
            method=descent.get("method"),
            reasons=descent["reasons"],
            depth=descent["depth"],
            flagged=manifest.flagged,
            checks=[check.as_dict() for check in finished.checks],
            files=s["files"],
            bytes_read=s["read_bytes"],
            bytes_given=s["given_bytes"],
            bytes_received=finished.facts.get("sql", {}).get("received_bytes"),
            bytes_stored=s["stored_bytes"],
            bytes_reused=s["reused_bytes"],
            ratio=round(s["read_bytes"] / s["stored_bytes"], 3) if s["stored_bytes"] else 0.0,
            wal_bytes=s["wal_bytes"],
            start_lsn=str(finished.facts["start_lsn"]),
            stop_lsn=str(finished.facts["stop_lsn"]),
            timeline=int(finished.facts["timeline"]),
            run=self._run.run,
        )


class _Archiver:
    """The thread that stores WAL while the files are read; its failure ends the reading."""

    def __init__(self, job: _BackUp, backup: PostgresBackup) -> None:
        self.refs: list[LogRef] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._archive, args=(job, backup), name="mingus-wal")
        self._thread.start()

    def guarded(self, items: Iterator[Item]) -> Iterator[Item]:
        """*items*, ended by the archiver's failure if there is one."""
        for item in items:
            self.refuse_failure()
            yield item

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()

    def refuse_failure(self) -> None:
        """:raises MingusError: what went wrong while WAL was stored."""
        if self._failure is not None:
            raise self._failure

    def _archive(self, job: _BackUp, backup: PostgresBackup) -> None:
        try:
            self.refs = job.archive(backup)
            if not self.refs:
                raise BackupBroken("the source sent no WAL")
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
            self._failure = error
