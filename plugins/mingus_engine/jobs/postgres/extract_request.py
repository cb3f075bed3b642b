"""What is to be extracted, as a person writes it: ``DATABASE`` or ``DATABASE:schema.table,…``; and where to."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import conninfo

from mingus_engine.errors import SettingsError
from mingus_engine.settings import DestinationSettings, PostgresConnection, Settings

# An identifier as SQL writes it: bare, or quoted with doubled quotes inside.
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".:,\s][^".:,]*)')
_URI_KEYS = {
    "host": "host",
    "port": "port",
    "user": "user",
    "dbname": "dbname",
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
    "sslcert": "sslcert",
    "sslkey": "sslkey",
    "connect_timeout": "connect_timeout_s",
}
_DATABASE_NAME_MAX_BYTES = 63


@dataclass(frozen=True, order=True)
class Table:
    """A relation, by its exact names."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def pattern(self) -> str:
        """For ``pg_dump --table``: everything between double quotes stands for itself."""
        return ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema, self.name))


@dataclass(frozen=True)
class Wanted:
    """A database, or some of its tables; none = the whole database."""

    database: str
    tables: tuple[Table, ...] = ()


def parse_what(text: str) -> Wanted:
    """``ledger``, ``ledger:posting``, ``ledger:public.posting,audit."Log 1"``. A table without schema is in public.

    Names are exact, as in the catalogue; what holds a dot, a comma or a colon is written in double quotes.

    :raises SettingsError: not of that form.
    """
    wrong = SettingsError(f"{text!r} is not of the form DATABASE or DATABASE:schema.table,…")
    found = _PART.match(text)
    if found is None:
        raise wrong
    database, at = _name(found), found.end()
    tables = []
    if at < len(text):
        if text[at] != ":":
            raise wrong
        while True:
            parts = []
            while True:
                found = _PART.match(text, at + 1)
                if found is None:
                    raise wrong
                parts.append(_name(found))
                at = found.end()
                if not text.startswith(".", at):
                    break
            if len(parts) > 2:
                raise wrong
            tables.append(Table(*(["public", *parts][-2:])))
            if at == len(text):
                break
            if text[at] != ",":
                raise wrong
    return Wanted(database, tuple(dict.fromkeys(tables)))


def destination(settings: Settings, into: str) -> DestinationSettings:
    """The server *into*: a name of the settings (a destination, or a source's id), or a libpq URI.

    :raises SettingsError: no such name, not a URI, or a password in it: arguments are public on a machine.
    """
    if "://" not in into:
        return settings.destination(into)
    try:
        given = {key: str(value) for key, value in conninfo.conninfo_to_dict(into).items() if value is not None}
    except psycopg.Error:
        # libpq's message would quote the text, which may hold a password.
        raise SettingsError("the address of --into is not a libpq URI") from None
    if "password" in given:
        raise SettingsError(
            "the address of --into holds a password, which everybody on this machine can see",
            hint="leave it out: PGPASSWORD or a PGPASSFILE is used, or name a destination of the settings",
        )
    if unknown := sorted(set(given) - set(_URI_KEYS)):
        raise SettingsError(f"the address of --into sets {', '.join(unknown)}, which is not supported")
    if not given.get("user"):
        raise SettingsError("the address of --into names no user")
    modes = PostgresConnection.__dataclass_fields__["sslmode"].default
    values: dict[str, object] = {_URI_KEYS[key]: value for key, value in given.items()}
    connection = PostgresConnection(
        **{
            "host": "localhost",
            "port": 5432,
            "dbname": given["user"],
            "sslmode": modes,
            **values,
            "connect_timeout_s": int(given.get("connect_timeout", "10")),
        },  # type: ignore[arg-type]
        password_env="PGPASSWORD",  # noqa: S106 - the name of a variable
    )
    return DestinationSettings(f"{connection.host}:{connection.port}", connection)


def require_database_name(name: str) -> str:
    """*name*, when PostgreSQL would take it unchanged as a database's name.

    :raises SettingsError: it would not.
    """
    if not name or len(name.encode()) > _DATABASE_NAME_MAX_BYTES or not name.isprintable():
        raise SettingsError(f"{name!r} is not a name for a database")
    return name


def _name(found: re.Match[str]) -> str:
    return found[1].replace('""', '"') if found[1] is not None else found[2].strip()
