"""The upper rungs of the verification ladder (DESIGN §7): restore, compare every file (L3), start the server and ask
it (L4).

"The server starts" is not a test: a cluster restored without its ``backup_label`` started cleanly and had wrong sums.
So L4 also runs
``pg_verifybackup``, ``pg_amcheck``, the page checksums of the whole cluster, and the financial invariants.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from mingus_engine import lsn as lsns
from mingus_engine.checks import Check
from mingus_engine.errors import VerificationFailed
from mingus_engine.jobs.comparing import compare_files
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.postgres.recovery_target import Recovery
from mingus_engine.jobs.postgres.restore import PostgresRestore
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.jobs.scratch import scratch_directory
from mingus_engine.postgres import programs
from mingus_engine.programs import accounts
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import PostgresConnection, SourceSettings
from mingus_engine.sources.postgres import invariants
from mingus_engine.targets.postgres import checks
from mingus_engine.targets.postgres.server import Started, ThrowAwayServer

# What a restore writes differently on purpose when tablespaces go elsewhere.
_REWRITTEN = frozenset({b"tablespace_map"})


@dataclass
class RestoreTest:
    """One restore test of one snapshot. ``rto_s``: from the first byte fetched to a server that accepts connections.

    :param recovery: replay the log up to this target, from *wal*; default: to the end of the snapshot.
    """

    source: SourceSettings
    reader: SnapshotReader
    scratch_parent: Path
    context: JobContext
    recovery: Recovery | None = None
    wal: StoredWal | None = None
    bytes_read: int = 0
    rto_s: float | None = None
    found: list[Check] = field(default_factory=list)

    def run(self, *, start_server: bool) -> list[Check]:
        """Restore and check; the scratch directory is gone afterwards, whatever happened.

        :raises MingusError: the restore itself failed (Damaged, TargetError, …). Failed checks are returned.
        """
        account = accounts.account(self.source.run_as)
        owner = account.owner if account else None
        with scratch_directory(self.scratch_parent, owner) as scratch:
            clock = Stopwatch()
            job = self._restore(scratch, owner)
            restored_s = clock.seconds
            self.found.append(Check("L3 restore", True, f"{job.files} files, {job.bytes} bytes in {restored_s} s"))
            self.found.append(compare_files(self.reader, _places(scratch / "data"), self.context))
            self.found.append(_label_check(scratch / "data", job.facts))
            if start_server:
                self._ask_server(job, scratch, account, restored_s)
        return self.found

    def _restore(self, scratch: Path, owner: tuple[int, int] | None) -> PostgresRestore:
        facts_map = {
            str(t["oid"]): str(scratch / "tablespaces" / str(t["oid"]))
            for t in self.reader.body.facts["tablespaces"]
            if str(t["location"]).startswith("/")
        }
        if facts_map:
            (scratch / "tablespaces").mkdir(mode=0o711)
        job = PostgresRestore(
            self.reader, scratch / "data", facts_map, self.context, recovery=self.recovery, wal=self.wal
        )
        job.plan()
        job.run(owner=owner, durable=False)
        self.bytes_read = job.bytes
        return job

    def _ask_server(
        self, job: PostgresRestore, scratch: Path, account: accounts.Account | None, restored_s: float
    ) -> None:
        """Level 4: programs, server, invariants."""
        facts, data, checkpoint = job.facts, scratch / "data", self.context.checkpoint
        found = programs.find(int(facts["server_version_number"]) // 10000, self.source.bin_directory)
        self._progress("pg_verifybackup")
        self.found.append(checks.manifest(data, found, account, checkpoint))
        server = ThrowAwayServer(
            data, found, account=account, work_dir=scratch, primary=facts["settings"],
            superuser=str(facts.get("superuser", "postgres")),
            recovery=self.recovery.settings if self.recovery else None,
            start_timeout_s=self.source.verify.start_timeout_s, checkpoint=checkpoint,
        )  # fmt: skip
        with ExitStack() as stack:
            self._progress("start the server")
            try:
                started = server.start()
            except VerificationFailed as error:
                self.found.append(Check("L4 start", False, error.message))
                return
            stack.callback(server.close)
            self.rto_s = round(restored_s + started.accepting_s, 3)
            self.found.append(start_check(started, facts))
            if self.recovery is not None:
                self.found.append(target_check(started, self.recovery))
            self._progress("invariants")
            self.found.extend(self._invariants(job, server))
            if self.source.verify.amcheck:
                self._progress("pg_amcheck")
                self.found.append(checks.amcheck(server, checkpoint=checkpoint))
            clean = server.stop()
            self.found.append(Check("L4 stop", clean, "" if clean else "the server did not shut down cleanly"))
        self._progress("page checksums")
        self.found.append(checks.page_checksums(data, found, account, checkpoint))

    def _invariants(self, job: PostgresRestore, server: ThrowAwayServer) -> Iterator[Check]:
        parameters = server.connection_parameters(self.source.connection.dbname)
        connection = PostgresConnection(
            host=parameters["host"], port=parameters["port"], user=parameters["user"], dbname=parameters["dbname"],
            password_env="", sslmode="disable",
        )  # fmt: skip
        recorded, measurements = job.facts["invariants"], self.source.measurements
        if self.recovery is not None:
            # What was measured at the snapshot need not be so at another moment; what must always hold must hold.
            recorded, measurements = [known for known in recorded if known["kind"] == "predicate"], ()
        try:
            measured = invariants.evaluate(connection, self.source.predicates, measurements, self.context.cancel)
        except psycopg.Error as error:
            yield Check("invariants", False, f"the restored server refused: {type(error).__name__}")
            return
        yield from invariants.compare(recorded, measured, measurements)

    def _progress(self, what: str) -> None:
        self.context.checkpoint()
        self.context.progress("verify L4", 0, 0, what)


def _places(directory: Path) -> Callable[[bytes], Path | None]:
    """Where each file of the snapshot was restored to, as it is."""

    def place(path: bytes) -> Path | None:
        # Configuration from outside lies beside the data directory, and was compared when it was read.
        return None if path in _REWRITTEN or path.startswith(b"mingus-") else directory / os.fsdecode(path)

    return place


def _label_check(directory: Path, facts: Mapping[str, Any]) -> Check:
    """The label must name the start that the manifest does: from another one the server replays to wrong rows."""
    lines = (directory / "backup_label").read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = (f"START WAL LOCATION: {facts['start_lsn']} (", f"START TIMELINE: {facts['timeline']}")
    lacking = [text.rstrip(" (") for text in wanted if not any(line.startswith(text) for line in lines)]
    return Check("L3 backup_label", not lacking, f"lacks {' and '.join(lacking)}" if lacking else wanted[0][:-2])


def start_check(started: Started, facts: Mapping[str, Any]) -> Check:
    """Whether a server began with the record that its backup begins with."""
    data = {
        "accepting_s": started.accepting_s,
        "consistent_s": started.consistent_s,
        "consistent_lsn": started.consistent_lsn,
        "redo_lsn": started.redo_lsn,
        "dropped_libraries": dict(started.dropped_libraries),
    }
    if started.first_lsn and lsns.parse(started.first_lsn) != lsns.parse(str(facts["start_lsn"])):
        return Check(
            "L4 start", False, f"replayed from {started.first_lsn}, the backup starts at {facts['start_lsn']}", data
        )
    dropped = f"; left out: {', '.join(started.dropped_libraries)}" if started.dropped_libraries else ""
    where = started.consistent_lsn or facts["stop_lsn"]
    return Check("L4 start", True, f"consistent at {where}, accepting after {started.accepting_s} s{dropped}", data)


def target_check(started: Started, recovery: Recovery) -> Check:
    """The server must have replayed exactly the records before the target: not one less, and not one more."""
    name = "L4 target"
    text, how = recovery.target.text, f"ended {started.stopping or 'behind'} the record at {started.redo_lsn}"
    data = {"target": text, "last_record": started.redo_lsn, "stopping": started.stopping, "note": recovery.note}
    if not started.redo_lsn:
        return Check(name, False, "the server's log does not say where its recovery ended", data)
    last = lsns.parse(started.redo_lsn)
    if started.stopping != recovery.stopping:
        return Check(name, False, f"{text}: {how}, not {recovery.stopping or 'at the end of the log'}", data)
    if recovery.redo is None:
        # The record that says that the backup has ended, or the one behind it.
        return Check(name, last <= recovery.point.stop and bool(started.consistent_lsn), f"{text}: {how}", data)
    if last == recovery.redo:
        return Check(name, True, f"{text}: {how}, as it must", data)
    missed = "not reached" if last < recovery.redo else "passed"
    return Check(name, False, f"{text} was {missed}: {how}, not {lsns.text(recovery.redo)}", data)
