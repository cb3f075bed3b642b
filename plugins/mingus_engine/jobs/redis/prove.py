"""Proving a snapshot of Redis; see ``jobs.proving``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from mingus_engine.checks import Check
from mingus_engine.errors import Damaged, LogMissing, ObjectMissing, SettingsError
from mingus_engine.jobs import integrity, reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.proving import Wanted, WholeProver, random_seed
from mingus_engine.jobs.redis.contents import Contents, StoredServer
from mingus_engine.jobs.redis.recovering import random_time, recoveries
from mingus_engine.jobs.redis.recovery import RedisRecovery
from mingus_engine.jobs.redis.restore_test import RestoreTest
from mingus_engine.redis.aof_commands import Scanner
from mingus_engine.redis.rdb_statistics import statistics
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings, SourceSettings


class RedisProver(WholeProver):
    """A :class:`~mingus_engine.jobs.proving.Prover`."""

    def __init__(
        self, settings: Settings, source: SourceSettings, place: Repository, wanted: Wanted, context: JobContext
    ) -> None:
        """:raises NotRestorable: the target is outside what can be restored. :raises NoSuchSnapshot:"""
        self._settings, self._source, self._context = settings, source, context
        if wanted.timeline is not None or not wanted.inclusive:
            raise SettingsError("a timeline, or an exclusive target, is of PostgreSQL; Redis has none")
        self.target: str | None = None
        self.seed: int | None = None
        self._recoveries: dict[str, RedisRecovery] = {}
        if wanted.to is None:
            self.manifest = reading.choose(place, source.id, wanted.snapshot)
        else:
            self.seed = random_seed(wanted.to)
            to = wanted.to if self.seed is None else random_time(place, source.id, self.seed)
            self._recoveries = recoveries(place, source.id, to, context=context, snapshot=wanted.snapshot)
            one = next(iter(self._recoveries.values()))
            self.manifest, self.target = one.snapshot, one.target.text
        self.bytes_read = 0
        self.rto_s: float | None = None
        self.rpo_s: float | None = None

    def climb(self, reader: SnapshotReader, level: int) -> list[Check]:
        """Reading for a restore decrypts and re-hashes everything, so level 2 is in the levels above it."""
        if level == 2:
            return list(self._read(reader))
        parent = self._settings.scratch_path(self._source)
        test = RestoreTest(self._source, reader, parent, self._context, self._recoveries)
        moments = [one.moment for one in self._recoveries.values() if one.moment is not None]
        if not self._recoveries and (stopped := reader.body.facts.get("stopped_at")):
            moments = [datetime.fromisoformat(str(stopped))]
        if moments:
            self.rpo_s = round((utc_now() - min(moments)).total_seconds(), 1)
        try:
            test.run(start_server=level >= 4)
        except (Damaged, LogMissing, ObjectMissing) as error:
            test.found.append(Check("L3 restore", False, error.message))
        self.bytes_read, self.rto_s = test.bytes_read, test.rto_s
        return test.found

    def _read(self, reader: SnapshotReader) -> Iterator[Check]:
        """Every blob, and what it is part of: an RDB to its last byte, an append-only file command by command."""
        try:
            contents = Contents(reader)
        except (Damaged, ObjectMissing) as error:
            yield Check("L2 contents", False, error.message)
            return
        # What is walked is read by that, once.
        walked = {path for server in contents.servers for path in (server.base, *server.commands) if path}
        yield integrity.readable(reader, self._context, besides=walked)
        for server in contents.servers:
            try:
                yield from self._walk(contents, server)
            except (Damaged, ObjectMissing) as error:
                yield Check(f"L2 content {server.shard}".rstrip(), False, error.message)

    def _walk(self, contents: Contents, server: StoredServer) -> Iterator[Check]:
        if server.base:
            name = server.base.decode(errors="replace")
            found = statistics(contents.content(server.base), name, checkpoint=self._context.checkpoint)
            checksum = "" if found.facts.checksum else "; it has no checksum (rdbchecksum no)"
            detail = f"{name}: {found.keys} keys in {len(found.databases)} databases{checksum}"
            yield Check("L2 RDB", True, detail)
        for path in server.commands:
            name = path.decode(errors="replace")
            scanner = Scanner(name)
            for chunk in contents.content(path):
                self._context.checkpoint()
                scanner.feed(chunk)
            if scanner.boundary != scanner.position:
                raise Damaged(
                    f"{name}: ends within a command or transaction that begins behind byte {scanner.boundary}"
                )
            yield Check("L2 append-only file", True, f"{name}: {scanner.commands} commands")
