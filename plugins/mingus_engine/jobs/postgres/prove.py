"""Proving a snapshot of PostgreSQL, or a recovery to a moment; see ``jobs.proving``."""

from __future__ import annotations

from datetime import datetime

from mingus_engine.checks import Check
from mingus_engine.errors import Damaged, LogMissing, ObjectMissing
from mingus_engine.jobs import integrity, reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.postgres import recovery_target
from mingus_engine.jobs.postgres.recovery_target import Recovery, Target
from mingus_engine.jobs.postgres.restore import find_recovery
from mingus_engine.jobs.postgres.restore_test import RestoreTest
from mingus_engine.jobs.postgres.windows import Recoverable
from mingus_engine.jobs.proving import Wanted, WholeProver, random_seed
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings, SourceSettings


class PostgresProver(WholeProver):
    """A :class:`~mingus_engine.jobs.proving.Prover`."""

    def __init__(
        self, settings: Settings, source: SourceSettings, place: Repository, wanted: Wanted, context: JobContext
    ) -> None:
        """:raises NotRestorable: the target is outside what can be restored. :raises NoSuchSnapshot:"""
        self._settings, self._source, self._context = settings, source, context
        self._recovery: tuple[Recoverable, Recovery] | None = None
        self.target: str | None = None
        self.seed: int | None = None
        target = _target(wanted.to)
        if target is None:
            self.manifest = reading.choose(place, source.id, wanted.snapshot)
        else:
            found, recovery = self._recovery = find_recovery(
                place, source.id, target, timeline=wanted.timeline, inclusive=wanted.inclusive,
                snapshot=wanted.snapshot, context=context,
            )  # fmt: skip
            self.manifest = found.manifests[recovery.point.snapshot]
            self.target, self.seed = recovery.target.text, target if isinstance(target, int) else None
        self.bytes_read = 0
        self.rto_s: float | None = None
        self.rpo_s: float | None = None

    def climb(self, reader: SnapshotReader, level: int) -> list[Check]:
        """Reading for a restore decrypts and re-hashes everything, so level 2 is in the levels above it."""
        if level == 2:
            return [integrity.readable(reader, self._context)]
        parent = self._settings.scratch_path(self._source)
        test = RestoreTest(self._source, reader, parent, self._context)
        newest: datetime | None = datetime.fromisoformat(str(reader.body.facts["stopped_at"]))
        if self._recovery is not None:
            found, test.recovery = self._recovery
            test.wal, newest = found.wal, test.recovery.window.end_time
        self.rpo_s = round((utc_now() - newest).total_seconds(), 1) if newest else None
        try:
            test.run(start_server=level >= 4)
        except (Damaged, LogMissing, ObjectMissing) as error:
            test.found.append(Check("L3 restore", False, error.message))
        self.bytes_read, self.rto_s = test.bytes_read, test.rto_s
        return test.found


def _target(to: str | None) -> Target | int | None:
    """A target, or the seed of a random one."""
    seed = random_seed(to)
    if seed is not None:
        return seed
    return recovery_target.parse(to) if to is not None else None
