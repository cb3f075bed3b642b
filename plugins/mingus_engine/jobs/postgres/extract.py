"""``extract``: one database, or some of its tables, out of a snapshot or a moment, into a running server.

The phases: what is asked for → the destination (what is there already is refused now) → choose snapshot and log →
restore to a scratch directory → a throw-away server on it, recovered to the target → what the destination lacks →
``pg_dump`` straight into ``pg_restore``, in one transaction → counts and invariants compared. The scratch directory is
wiped in every outcome, and what fails leaves the destination as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mingus_engine import checks
from mingus_engine.errors import MingusError, SettingsError, TargetError, TargetNotEmpty, VerificationFailed
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres import extract_request, extracted, recovery_target, restore_test
from mingus_engine.jobs.postgres.destination import Destination
from mingus_engine.jobs.postgres.extract_request import Wanted
from mingus_engine.jobs.postgres.extracted import Scratch
from mingus_engine.jobs.postgres.recovery_target import Recovery
from mingus_engine.jobs.postgres.restore import PostgresRestore, find_recovery
from mingus_engine.jobs.scratch import scratch_directory
from mingus_engine.postgres import programs
from mingus_engine.postgres.transfer import Side, transfer
from mingus_engine.programs import accounts
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.postgres import connection as connections
from mingus_engine.targets.postgres.server import Started, ThrowAwayServer

# Of a report, which Airflow keeps as the task's return value: the largest tables by name, all of them in the sum.
_TABLES_TOLD = 50


@dataclass(frozen=True, kw_only=True)
class ExtractReport(Report):
    """What was extracted; with a dry run only what would be.

    :param destination: where to, as people read it. :param database: the original's name; ``into_database``: the one
        it went into, ``created`` when it was made. :param rows: in how many tables how many rows were compared.
    :param counted: rows of the largest tables. :param left_out: what of the tables was not taken, and why.
    :param bytes_read: restored to the scratch directory; ``bytes_sent`` through ``pg_dump``.
    """

    repository: str
    snapshot: str
    target: str | None = None
    destination: str
    database: str
    into_database: str
    created: bool
    tables: list[str] = field(default_factory=list)
    tables_counted: int = 0
    rows: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    bytes_read: int = 0
    bytes_sent: int = 0
    plan: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What a caller may choose besides source, what and where to; see :func:`extract`."""

    new_name: str = ""
    overwrite: bool = False
    no_owner: bool = False


def extract(
    settings: Settings,
    source_id: str,
    *,
    what: str,
    into: str,
    context: JobContext,
    new_name: str = "",
    overwrite: bool = False,
    no_owner: bool = False,
    repository: str | None = None,
    snapshot: str | None = None,
    to: str | None = None,
    timeline: int | None = None,
    inclusive: bool = True,
    dry_run: bool = False,
) -> ExtractReport:
    """Extract a database or tables of *source_id* into the server *into*.

    A whole database goes into a new one of its own name or *new_name*; tables go into the database that the connection
    of *into* names, or into a new one called *new_name*.

    :param what: see ``parse_what``. :param into: a destination or source of the settings, or a libpq URI.
    :param overwrite: objects of that name at the destination are dropped and made anew, in the same transaction.
    :param no_owner: everything belongs to the connection's role, and no rights are granted.
    :param repository, snapshot, to, timeline, inclusive: as of ``restore``. :param dry_run: only the plan.
    :raises SettingsError: :raises TargetError: the destination is not usable, or refused; it is as it was.
    :raises VerificationFailed: what arrived is not what was sent; the message says where it lies.
    :raises NotRestorable: :raises NoSuchSnapshot: :raises Damaged:
    """
    clock = Stopwatch()
    source = settings.stored_source(source_id, "postgres")
    wanted = extract_request.parse_what(what)
    if new_name:
        extract_request.require_database_name(new_name)
    target = recovery_target.parse(to) if to is not None else None
    if target is None and (timeline is not None or not inclusive):
        raise SettingsError("a timeline needs a recovery target", hint="say --to")
    choice = Choice(new_name, overwrite, no_owner)
    with ExitStack() as stack:
        destination = stack.enter_context(closing(Destination(extract_request.destination(settings, into))))
        job = _Extraction(settings, source, context, wanted=wanted, destination=destination, choice=choice)
        job.require_free()
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        recovery: Recovery | None = None
        found = None
        if target is None:
            manifest = reading.choose(place, source_id, snapshot)
        else:
            found, recovery = find_recovery(
                place, source_id, target, timeline=timeline, inclusive=inclusive, snapshot=snapshot, context=context
            )
            manifest = found.manifests[recovery.point.snapshot]
        stack.enter_context(reading.announced(place, manifest, context))
        job.read_from(SnapshotReader(place, manifest, settings.spool_path), recovery, found.wal if found else None)
        if not dry_run:
            job.run()
        return ExtractReport(
            job="extract",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            target=target.text if target else None,
            destination=str(destination),
            database=wanted.database,
            into_database=job.database,
            created=job.creates,
            tables=[str(table) for table in wanted.tables],
            plan=job.plan,
            **job.outcome,
        )


class _Extraction:
    """One extraction; the methods are its phases, in order.

    :ivar database: name at the destination. :ivar creates: whether it is made. :ivar outcome: fields of the report.
    """

    def __init__(
        self,
        settings: Settings,
        source: SourceSettings,
        context: JobContext,
        *,
        wanted: Wanted,
        destination: Destination,
        choice: Choice,
    ) -> None:
        self._settings, self._source, self._wanted = settings, source, wanted
        self._destination, self._choice, self._context = destination, choice, context
        own = destination.settings.connection.dbname if wanted.tables else wanted.database
        self.database = choice.new_name or own
        self.creates = True
        self.plan: dict[str, Any] = {}
        self.outcome: dict[str, Any] = {}

    def require_free(self) -> None:
        """Refuse what is there already, before anything is read.

        :raises TargetNotEmpty: naming it.
        """
        destination, name = self._destination, self.database
        self.creates = not destination.has_database(name)
        if self.creates:
            if self._wanted.tables and not self._choice.new_name:
                raise TargetError(f"there is no database {name!r} at {destination}")
            return
        where = f"database {name!r} of {destination}"
        if self._choice.new_name:
            raise TargetNotEmpty(f"{where} exists", hint="choose another name for --as")
        if self._choice.overwrite:
            return
        if not self._wanted.tables:
            raise TargetNotEmpty(f"{where} exists", hint="give it a new name by --as, or say --overwrite")
        with destination.database(name) as session:
            there = destination.tables_there(session, self._wanted.tables)
        if there:
            raise TargetNotEmpty(
                f"{where} has {', '.join(map(str, there))}", hint="put it into a new database by --as, or --overwrite"
            )

    def read_from(self, reader: SnapshotReader, recovery: Recovery | None, wal: Any) -> None:
        """What will be restored, and whether the programs for it are there.

        :raises TargetError: the destination is older. :raises ComponentMissing:
        """
        self._reader, self._recovery, self._wal = reader, recovery, wal
        facts = reader.body.facts
        version = int(facts["server_version_number"]) // 10000
        if self._destination.version < version:
            raise TargetError(
                f"the snapshot is of PostgreSQL {version}, {self._destination} is {self._destination.version}:"
                " an older server does not understand a newer one's dump"
            )
        self._server_programs = programs.find(version, self._source.bin_directory)
        # The newer of the two speaks to both.
        self._programs = self._server_programs
        if self._destination.version > version:
            self._programs = programs.find(self._destination.version, self._destination.settings.bin_directory)
        for name in ("pg_dump", "pg_restore"):
            self._programs.path(name)
        self._scratch_parent = self._settings.scratch_path(self._source)
        restored = self._restore(self._scratch_parent).plan()
        self.plan = {
            **restored.as_dict(),
            "directory": f"{self._scratch_parent} (wiped afterwards)",
            "destination": str(self._destination),
            "database": self._wanted.database,
            "tables": [str(table) for table in self._wanted.tables],
            "into_database": self.database,
            "creates_database": self.creates,
            "overwrites": self._choice.overwrite and not self.creates,
        }
        del self.plan["tablespaces"], self.plan["needed"]

    def run(self) -> None:
        """Restore, start, transfer, compare.

        :raises MingusError: see :func:`extract`.
        """
        account = accounts.account(self._source.run_as)
        with scratch_directory(self._scratch_parent, account.owner if account else None) as directory:
            job = self._restore(directory)
            job.run(owner=account.owner if account else None, durable=False)
            self.outcome["bytes_read"] = job.bytes
            facts = job.facts
            self._say("start the server")
            server = ThrowAwayServer(
                directory / "data", self._server_programs, account=account, work_dir=directory,
                primary=facts["settings"], superuser=str(facts.get("superuser", "postgres")),
                recovery=self._recovery.settings if self._recovery else None,
                start_timeout_s=self._source.verify.start_timeout_s, checkpoint=self._context.checkpoint,
            )  # fmt: skip
            with closing(server):
                self._require_there(server.start(), facts)
                scratch = Scratch(server, self._wanted)
                scratch.prepare()
                self._require_what_it_needs(scratch)
                self._fill(scratch, account)

    def _require_there(self, started: Started, facts: Mapping[str, Any]) -> None:
        """The server must have begun with the backup's first record and ended at the target, neither before nor behind.

        :raises VerificationFailed: it did not.
        """
        found = [restore_test.start_check(started, facts)]
        if self._recovery is not None:
            found.append(restore_test.target_check(started, self._recovery))
        for check in found:
            if not check.ok:
                raise VerificationFailed(f"{check.name}: {check.detail}", hint="nothing was sent to the destination")
            self._context.log(f"{check.name}: {check.detail}")

    def _restore(self, directory: Path) -> PostgresRestore:
        mapped = {
            str(t["oid"]): str(directory / f"tablespace-{t['oid']}")
            for t in self._reader.body.facts["tablespaces"]
            if str(t["location"]).startswith("/")
        }
        return PostgresRestore(
            self._reader, directory / "data", mapped, self._context, recovery=self._recovery, wal=self._wal
        )

    def _require_what_it_needs(self, scratch: Scratch) -> None:
        """Roles and extensions that the dump will name."""
        # Restoring may have taken hours, and idle sessions are cut.
        self._destination.renew()
        lacking = []
        if not self._choice.no_owner and (roles := self._destination.missing_roles(scratch.roles())):
            lacking.append(f"roles {', '.join(roles)}")
        if extensions := self._destination.missing_extensions(scratch.extensions()):
            lacking.append(f"extensions {', '.join(extensions)}")
        if lacking:
            raise TargetError(
                f"{self._destination} lacks {' and '.join(lacking)}",
                hint="create the roles or say --no-owner; install the extensions' packages",
            )

    def _fill(self, scratch: Scratch, account: accounts.Account | None) -> None:
        destination = self._destination
        if self.creates:
            destination.create(self.database, scratch.database_row())
        try:
            with destination.database(self.database) as session:
                there = set(destination.tables_there(session, scratch.referenced()))
                self.outcome["left_out"] = [*scratch.leave_out(there), *scratch.without_rows()]
                if self.creates:
                    scratch.make_schemas(session)
            self._say("pg_dump into pg_restore")
            self.outcome["bytes_sent"] = transfer(
                Side(self._programs, scratch.dump_arguments(), account, scratch.environment()),
                self._restoring(),
                checkpoint=self._context.checkpoint,
                progress=lambda sent: self._context.progress("extract", sent, 0, self.database),
            )
            self._compare(scratch)
            if self.creates:
                if not self._choice.no_owner and not self._wanted.tables:
                    destination.give(self.database, scratch.owner())
                moment = self._recovery.target.text if self._recovery else "its end"
                destination.comment(
                    self.database,
                    f"extracted by MINGUS from {self._source.id}, snapshot {self._reader.manifest.ulid}, {moment}",
                )
        except BaseException:
            if self.creates:
                self._drop()
            raise

    def _drop(self) -> None:
        """Drop the database that was made; where the server has gone it is left, marked, for the next extraction."""
        try:
            self._destination.renew()
            self._destination.drop(self.database)
        except TargetError as error:
            self._context.log(f"database {self.database!r} could not be dropped, it is not complete: {error.message}")

    def _restoring(self) -> Side:
        text, environment = connections.for_programs(self._destination.settings.connection, self.database)
        arguments = ["--single-transaction", "--exit-on-error", "--no-password", "--no-tablespaces", "--dbname", text]
        if self._choice.no_owner:
            arguments += ["--no-owner", "--no-acl"]
        if self._choice.overwrite and not self.creates:
            arguments += ["--clean", "--if-exists"]
        return Side(self._programs, arguments, None, environment)

    def _compare(self, scratch: Scratch) -> None:
        """Rows of every table, and the invariants of a whole database.

        :raises VerificationFailed: something differs.
        """
        self._say("compare")
        with self._destination.database(self.database) as session, self._destination.translated("counting rows"):
            counted, found = extracted.compare_rows(scratch, session, self._context.checkpoint)
        if not self._wanted.tables:
            found += self._invariants(scratch)
        largest = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_TABLES_TOLD]
        self.outcome |= {
            "tables_counted": len(counted),
            "rows": sum(counted.values()),
            "counted": dict(largest),
            "checks": [check.as_dict() for check in found],
        }
        if bad := [check for check in found if not check.ok]:
            said = "; ".join(f"{check.name}: {check.detail}" for check in bad[:5])
            state = "the new database was dropped" if self.creates else "it was committed: look at it"
            raise VerificationFailed(f"what arrived in {self.database!r} is not what was extracted: {said}", hint=state)

    def _invariants(self, scratch: Scratch) -> list[checks.Check]:
        try:
            return extracted.compare_invariants(
                self._source,
                self._context,
                database=self._wanted.database,
                scratch=scratch.connection(self._source.connection.dbname),
                destination=self._destination.settings.connection,
                into=self.database,
            )
        except MingusError as error:
            return [checks.Check("invariants", False, error.message)]

    def _say(self, what: str) -> None:
        self._context.checkpoint()
        self._context.log(what)
        self._context.progress("extract", 0, 0, what)
