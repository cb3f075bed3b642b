"""The restored server that an extraction dumps from, and the comparison with what arrived."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import conninfo, sql

from mingus_engine.checks import Check
from mingus_engine.errors import TargetError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.postgres.extract_request import Table, Wanted
from mingus_engine.settings import Measurement, PostgresConnection, SourceSettings
from mingus_engine.sources.postgres import invariants
from mingus_engine.sources.postgres.connection import Session
from mingus_engine.sources.postgres.invariants import Measured
from mingus_engine.targets.postgres.server import ThrowAwayServer

_NAMED = 10
# What pg_dump dumps rows of: no catalogues, no temporary tables, no members of extensions.
_WITH_ROWS = """
SELECT n.nspname, c.relname, c.relpersistence = 'u' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
_RELATIONS = """
SELECT n.nspname, c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f')
"""
_PARTITIONS = """
WITH RECURSIVE part(oid) AS (
    SELECT unnest(%s::oid[])
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN part ON i.inhparent = part.oid
    JOIN pg_class child ON child.oid = i.inhrelid AND child.relispartition)
SELECT n.nspname, c.relname, c.oid FROM part JOIN pg_class c ON c.oid = part.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
"""
# Foreign keys of the chosen tables to others. A partition's is the partitioned table's.
_FOREIGN_KEYS = """
SELECT n.nspname, c.relname, k.conname, rn.nspname, r.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY(%s::oid[]) AND NOT k.confrelid = ANY(%s::oid[])
"""
# Owners and grantees: PostgreSQL notes none for the bootstrap superuser, which may own anything.
_ROLES = """
SELECT DISTINCT r.rolname FROM pg_roles r LEFT JOIN pg_shdepend d
  ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid
 AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE r.oid = 10 OR (d.objid IS NOT NULL AND (%s::oid[] IS NULL OR d.objid = ANY(%s::oid[])))
"""


class Scratch:
    """The throw-away server, and what of it is dumped.

    :param wanted: database and tables; ``prepare`` finds them.
    """

    def __init__(self, server: ThrowAwayServer, wanted: Wanted) -> None:
        self._server, self._wanted = server, wanted
        self._tables: dict[Table, int] = {}
        self._keys: list[tuple[Table, str, Table]] = []

    def prepare(self) -> None:
        """Find database and tables; partitions belong to their table.

        :raises TargetError: one of them is not in the snapshot.
        """
        databases = self._server.databases()
        if self._wanted.database not in databases:
            raise TargetError(f"the snapshot has no database {self._wanted.database!r}; it has: {', '.join(databases)}")
        if not self._wanted.tables:
            return
        with self._connect() as session:
            known = {Table(schema, name): oid for schema, name, oid in session.execute(_RELATIONS)}
            if lacking := [str(table) for table in self._wanted.tables if table not in known]:
                raise TargetError(f"database {self._wanted.database!r} of the snapshot has no {', '.join(lacking)}")
            oids = [known[table] for table in self._wanted.tables]
            self._tables = {Table(schema, name): oid for schema, name, oid in session.execute(_PARTITIONS, [oids])}
            every = list(self._tables.values())
            self._keys = [
                (Table(schema, name), key, Table(to_schema, to_name))
                for schema, name, key, to_schema, to_name in session.execute(_FOREIGN_KEYS, [every, every])
            ]

    def roles(self) -> list[str]:
        """Roles that own what is dumped, or have rights on it."""
        oids = list(self._tables.values()) or None
        with self._connect() as session:
            found = [name for (name,) in session.execute(_ROLES, [oids, oids])]
        return found if self._wanted.tables else [*found, self.owner()]

    def owner(self) -> str:
        """Owner of the database."""
        with self._connect() as session:
            (name,) = session.execute(
                "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
            ).fetchone()  # type: ignore[misc]  # one row: the database of the session
        return str(name)

    def extensions(self) -> list[str]:
        """Extensions of a whole database; with tables none is dumped."""
        if self._wanted.tables:
            return []
        with self._connect() as session:
            return [name for (name,) in session.execute("SELECT extname FROM pg_extension")]

    def database_row(self) -> dict[str, Any]:
        """The database's row of ``pg_database``, and the name of its encoding."""
        with self._connect() as session:
            (row,) = session.execute(
                "SELECT to_jsonb(d) || jsonb_build_object('encoding_name', pg_encoding_to_char(encoding))"
                " FROM pg_database d WHERE datname = current_database()"
            ).fetchone()  # type: ignore[misc]  # as above
        return dict(row)

    def referenced(self) -> list[Table]:
        """Tables that foreign keys of the chosen ones refer to."""
        return [other for _, _, other in self._keys]

    def leave_out(self, there: set[Table]) -> list[str]:
        """Drop, in this throw-away copy, foreign keys to tables that will not be at the destination; what was left out.

        :param there: tables that are at the destination.
        """
        said = []
        with self._connect() as session:
            for table, key, other in self._keys:
                if other in there:
                    continue
                session.execute(
                    sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                        sql.Identifier(table.schema, table.name), sql.Identifier(key)
                    )
                )
                said.append(f"foreign key {key} of {table}: {other} is not at the destination")
        return said

    def make_schemas(self, session: Session) -> None:
        """Make the schemas of chosen tables in a new database: a dump of tables has none."""
        for schema in sorted({table.schema for table in self._tables} - {"public"}):
            session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))

    def dump_arguments(self) -> list[str]:
        """Of ``pg_dump``: the custom format, not compressed, since it goes no further than the next process."""
        parameters = self._server.connection_parameters(self._wanted.database)
        kept = {key: str(parameters[key]) for key in ("host", "port", "user", "dbname", "sslmode", "gssencmode")}
        tables = [argument for table in sorted(self._tables) for argument in ("--table", table.pattern)]
        return [
            *("--format=custom", "--compress=0", "--no-password", "--no-subscriptions", "--quote-all-identifiers"),
            *("--dbname", conninfo.make_conninfo("", **kept)),
            *(("--strict-names", *tables) if tables else ()),
        ]

    def environment(self) -> dict[str, str]:
        """Of ``pg_dump``."""
        options = self._server.connection_parameters()["options"]
        return {"PGOPTIONS": str(options), "PGPASSFILE": "/nonexistent", "PGCLIENTENCODING": "UTF8"}

    def connection(self, dbname: str) -> PostgresConnection:
        """How the server is reached, as a source would be; *dbname* is the default database."""
        parameters = self._server.connection_parameters(dbname)
        return PostgresConnection(
            host=parameters["host"], port=parameters["port"], user=parameters["user"], dbname=dbname,
            password_env="", sslmode="disable",
        )  # fmt: skip

    def with_rows(self) -> list[Table]:
        """Tables whose rows are dumped."""
        return [table for table, _ in self._holding_rows()]

    def without_rows(self) -> list[str]:
        """Unlogged tables, said as what is left out: they are empty in every backup."""
        return [
            f"rows of {table}: an unlogged table is empty in a backup" for table, gone in self._holding_rows() if gone
        ]

    def _holding_rows(self) -> list[tuple[Table, bool]]:
        """Chosen tables, and whether they are unlogged."""
        with self._connect() as session:
            found = [(Table(schema, name), gone) for schema, name, gone in session.execute(_WITH_ROWS)]
        return [(table, gone) for table, gone in found if not self._wanted.tables or table in self._tables]

    def count(self, tables: Iterable[Table], checkpoint: Callable[[], None]) -> dict[Table, int]:
        """Rows of each."""
        with self._connect() as session:
            return _count(session, tables, checkpoint)

    def _connect(self) -> psycopg.Connection[Any]:
        return self._server.connect(self._wanted.database)


def compare_rows(
    scratch: Scratch, session: Session, checkpoint: Callable[[], None]
) -> tuple[dict[str, int], list[Check]]:
    """Rows of every table here and at the destination; the counts, and one check over all.

    :param session: in the database at the destination. :raises psycopg.Error: a table is not there.
    """
    tables = scratch.with_rows()
    sent = scratch.count(tables, checkpoint)
    # A policy would hide rows from the count: fail instead.
    session.execute("SET row_security = off")
    arrived = _count(session, tables, checkpoint)
    bad = [f"{table}: {arrived[table]} instead of {sent[table]}" for table in tables if sent[table] != arrived[table]]
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    detail = f"{', '.join(bad[:_NAMED])}{more}" if bad else f"{sum(sent.values())} rows in {len(tables)} tables"
    return {str(table): rows for table, rows in arrived.items()}, [Check("rows", not bad, detail)]


def compare_invariants(
    source: SourceSettings,
    context: JobContext,
    *,
    database: str,
    scratch: PostgresConnection,
    destination: PostgresConnection,
    into: str,
) -> list[Check]:
    """Every predicate and measurement of *database*, on both sides.

    :param scratch, destination: the two servers. :param into: the database's name at the destination.
    :raises SourceError: a server cannot be reached.
    """
    default = source.connection.dbname
    predicates = [item for item in source.predicates if (item.database or default) == database]
    measurements = [item for item in source.measurements if (item.database or default) == database]
    if not predicates and not measurements:
        return []
    here = invariants.evaluate(scratch, predicates, measurements, context.cancel)
    there = invariants.evaluate(
        destination,
        [replace(item, database=into) for item in predicates],
        [replace(item, database=into) for item in measurements],
        context.cancel,
    )
    return [_same(before, after, measurements) for before, after in zip(here, there, strict=True)]


def _same(before: Measured, after: Measured, measurements: list[Measurement]) -> Check:
    name = f"invariant {after.name}"
    if after.error or before.error:
        return Check(name, False, f"{after.kind} failed: {after.error or before.error}")
    if after.kind == "predicate":
        return Check(name, after.value == "t", "holds" if after.value == "t" else f"predicate is {after.value}")
    if after.value == before.value:
        return Check(name, True, f"{str(after.value)[:200]}, equal")
    if any(item.name == after.name and item.tolerance for item in measurements):
        # Rows come back in another order, which matters to sums of floating point numbers.
        (check,) = invariants.compare([before.as_facts(None)], [after], measurements)
        return check
    return Check(name, False, f"{str(after.value)[:200]} instead of {str(before.value)[:200]}")


def _count(session: Session, tables: Iterable[Table], checkpoint: Callable[[], None]) -> dict[Table, int]:
    counted = {}
    for table in tables:
        checkpoint()
        query = sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(table.schema, table.name))
        (counted[table],) = session.execute(query).fetchone() or (0,)
    return counted
