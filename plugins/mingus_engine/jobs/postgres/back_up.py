"""The backup of a PostgreSQL source: files, the WAL beside them, and the proof that the WAL is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken
from mingus_engine.jobs.backing_up import BackUpReport, BackUpRun
from mingus_engine.jobs.context import Stopwatch
from mingus_engine.jobs.postgres import wal
from mingus_engine.repository.manifests import LogRef
from mingus_engine.sources import postgres
from mingus_engine.sources.base import Item
from mingus_engine.sources.postgres.backup import PostgresBackup


@dataclass(frozen=True, kw_only=True)
class PostgresBackUpReport(BackUpReport):
    """Adds what only PostgreSQL has.

    :param bytes_received: all that came over connections, where the transport counts that (``sql``).
    """

    bytes_received: int | None
    wal_bytes: int
    start_lsn: str
    stop_lsn: str
    timeline: int


def back_up_postgres(job: BackUpRun, clock: Stopwatch) -> PostgresBackUpReport:
    """Read and store (WAL beside it) → let the source finish → prove the WAL → commit.

    :raises MingusError: nothing was committed.
    """
    context, run = job.context, job.run
    backup = postgres.open_backup(
        job.source, label=f"mingus {run.run}", cancel=context.cancel, choose_parent=job.choose_parent
    )
    try:
        archiver = _Archiver(job, backup)
        try:
            job.store(archiver.guarded(backup.items()), backup.expected_bytes())
            finished = backup.finish()
        except BaseException:
            backup.close()  # ends the stream of WAL, for which the archiver waits
            archiver.join()
            raise
        archiver.join()
        archiver.refuse_failure()
        context.checkpoint()
        context.progress("prove WAL", 0, 0)
        wal_bytes = wal.read_back(
            run, archiver.refs, lsns.segment_start(backup.start_lsn, backup.wal_segment_bytes), backup.stop_lsn
        )
        job.store_made(finished.files)
        manifest = job.commit(
            finished, position=backup.stop_lsn, logs=archiver.refs, method=backup.method, notes=backup.notes,
            figures={"wal_bytes": wal_bytes},
        )  # fmt: skip
    finally:
        backup.close()
    return PostgresBackUpReport(
        **job.figures(manifest, finished, clock.seconds),
        bytes_received=finished.facts.get("sql", {}).get("received_bytes"),
        wal_bytes=wal_bytes,
        start_lsn=str(finished.facts["start_lsn"]),
        stop_lsn=str(finished.facts["stop_lsn"]),
        timeline=int(finished.facts["timeline"]),
    )


def archive(job: BackUpRun, backup: PostgresBackup) -> list[LogRef]:
    """Store the WAL of the backup while it runs; returns when the source says that all was sent."""
    return wal.archive(
        job.run, backup.wal(), system_id=backup.system_id, segment_bytes=backup.wal_segment_bytes,
        spool_path=job.settings.spool_path, level=job.source.zstd_level,
        on_stored=backup.receiver.confirm,
    )  # fmt: skip


class _Archiver:
    """The thread that stores WAL while the files are read; its failure ends the reading."""

    def __init__(self, job: BackUpRun, backup: PostgresBackup) -> None:
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

    def _archive(self, job: BackUpRun, backup: PostgresBackup) -> None:
        try:
            self.refs = archive(job, backup)
            if not self.refs:
                raise BackupBroken("the source sent no WAL")
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
            self._failure = error
