"""The running server that an extraction goes into: what is there already, what it lacks, and a new database on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from mingus_engine.errors import SourceError, TargetError, TargetNotEmpty
from mingus_engine.jobs.postgres.extract_request import Table
from mingus_engine.settings import DestinationSettings
from mingus_engine.sources.postgres import connection as connections
from mingus_engine.sources.postgres.connection import Session

# A database that is being filled says so, with the backend that does it: one that a killed extraction left is replaced.
_UNDER_WAY = "MINGUS extraction under way, backend "
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f')
"""


class Destination:
    """One session on the server, to its maintenance database; ``close`` it."""

    def __init__(self, settings: DestinationSettings) -> None:
        self.settings = settings
        self.session = self._connect(settings.connection.dbname)
        self.version = self.session.info.server_version // 10000

    def close(self) -> None:
        """End the session; idempotent."""
        self.session.close()

    def renew(self) -> None:
        """A fresh session. :raises TargetError: the server cannot be reached any more."""
        self.session.close()
        self.session = self._connect(self.settings.connection.dbname)

    def __str__(self) -> str:
        return f"{self.settings.name} ({connections.place(self.settings.connection)})"

    @contextmanager
    def database(self, name: str) -> Iterator[Session]:
        """A session in the database *name*.

        :raises TargetError: it cannot be reached.
        """
        with contextlib.closing(self._connect(name)) as session:
            yield session

    def rows(self, query: str, *values: Any, session: Session | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query, by default in the maintenance database.

        :raises TargetError: the server refused.
        """
        with self.translated("asking it"):
            return list((session or self.session).execute(query, values).fetchall())

    def has_database(self, name: str) -> bool:
        """Whether there is one, other than what a killed extraction left, which is dropped.

        :raises TargetError: another extraction is filling it.
        """
        found = self.rows(
            "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = %s", name
        )
        if not found:
            return False
        note = str(found[0][0])
        if not note.startswith(_UNDER_WAY):
            return True
        backend = note.removeprefix(_UNDER_WAY)
        if self.rows("SELECT 1 FROM pg_stat_activity WHERE pid::text = %s", backend):
            raise TargetError(f"another extraction is filling database {name!r} of {self} (backend {backend})")
        self.drop(name)
        return False

    def tables_there(self, session: Session, tables: Sequence[Table]) -> list[Table]:
        """Which of *tables* exist in a database."""
        there = {Table(*row) for row in self.rows(_TABLES, session=session)}
        return [table for table in tables if table in there]

    def missing_roles(self, roles: Iterable[str]) -> list[str]:
        """Which of *roles* are not there."""
        return sorted(set(roles) - {name for (name,) in self.rows("SELECT rolname FROM pg_roles")})

    def missing_extensions(self, extensions: Iterable[str]) -> list[str]:
        """Which of *extensions* cannot be created there."""
        return sorted(set(extensions) - {name for (name,) in self.rows("SELECT name FROM pg_available_extensions")})

    def create(self, name: str, like: Mapping[str, Any]) -> None:
        """Make an empty database.

        :param like: its row of ``pg_database`` in the original, plus ``encoding_name``.
        :raises TargetNotEmpty: it is there already. :raises TargetError: refused.
        """
        provider = str(like["datlocprovider"])
        parts = [
            sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)),
            sql.SQL("ENCODING {}").format(like["encoding_name"]),
            sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(like["datcollate"], like["datctype"]),
            sql.SQL("LOCALE_PROVIDER {}").format(sql.SQL(_PROVIDERS[provider])),
        ]
        if locale := like.get("datlocale") or like.get("daticulocale"):
            option = "BUILTIN_LOCALE" if provider == "b" else "ICU_LOCALE"
            parts.append(sql.SQL("{} {}").format(sql.SQL(option), locale))
        try:
            self.session.execute(sql.SQL(" ").join(parts))
        except psycopg.errors.DuplicateDatabase:
            raise TargetNotEmpty(f"database {name!r} exists at {self}") from None
        except psycopg.Error as error:
            raise self._error(error, f"creating database {name!r}") from None
        self.comment(name, f"{_UNDER_WAY}{self.session.info.backend_pid}")

    def comment(self, name: str, text: str) -> None:
        """Put a comment on a database."""
        with self.translated(f"commenting on database {name!r}"):
            self.session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), text))

    def give(self, name: str, role: str) -> None:
        """Make *role* the owner of a database."""
        with self.translated(f"giving database {name!r} to role {role!r}"):
            self.session.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), sql.Identifier(role))
            )

    def drop(self, name: str) -> None:
        """Drop a database that this class made."""
        with self.translated(f"dropping database {name!r}"):
            self.session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Errors of the server inside the block as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self._error(error, doing) from None

    def _connect(self, database: str) -> Session:
        try:
            return connections.connect_sql(self.settings.connection, database=database)
        except SourceError as error:
            raise TargetError(
                f"destination {self.settings.name}: {error.message}", hint="is it up, and let in?"
            ) from None

    def _error(self, error: psycopg.Error, doing: str) -> TargetError:
        message = error.diag.message_primary or str(error).strip()
        return TargetError(f"{self}: {doing}: {' '.join(message.split())}")
