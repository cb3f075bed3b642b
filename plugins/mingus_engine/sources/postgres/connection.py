"""Connections to a PostgreSQL server, for SQL and for the replication protocol.

The password travels in libpq's parameters in memory only; no message of this module holds it. Errors of libpq and of
the server become the classes of ``mingus_engine.errors``, naming host, port and role.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import conninfo, pq
from psycopg.pq.abc import PGconn, PGresult

from mingus_engine.errors import (
    BackupBroken,
    Cancelled,
    SourceDenied,
    SourceError,
    SourceUnreachable,
    SourceUnsupported,
)
from mingus_engine.settings import PostgresConnection, Secret, read_secret

Row = tuple[Any, ...]
Session = psycopg.Connection[Row]

# A role's own time-outs must not end a backup that waits for a checkpoint or for its readers.
_NO_TIMEOUTS = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0"
)
# An object planted in a schema of the search path must not run with the rights of the backup role.
_SAFE_PATH = " -c search_path=pg_catalog"

_CANCEL_POLL_S = 0.1

# Server texts of states that pass by themselves; libpq gives no SQLSTATE while connecting.

_PASSING = re.compile(
    r"starting up|shutting down|in recovery mode|not yet accepting|too many (clients|connections)|remaining connection"
    r"|requested standby connections|recovery .* conflict",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"FATAL|authentication|password|pg_hba|permission|does not exist|certificate|no pg_hba", re.IGNORECASE
)
_TLS = re.compile(r"does not support (SSL|GSS)|sslmode|root certificate|SSL error", re.IGNORECASE)


def place(conn: PostgresConnection) -> str:
    """Where and as whom: ``PostgreSQL at db1:5432 as role "backup"``."""
    return f'PostgreSQL at {conn.host}:{conn.port} as role "{conn.user}"'


def connect_sql(conn: PostgresConnection, *, database: str | None = None, safe_path: bool = True) -> Session:
    """An autocommit session without time-outs.

    :param database: instead of the connection's own.
    :param safe_path: ``search_path`` is ``pg_catalog`` only; off for SQL that an administrator wrote in the settings.
    :raises SourceUnreachable, SourceDenied, SourceUnsupported: see :func:`connect_error`.
    """
    options = _NO_TIMEOUTS + (_SAFE_PATH if safe_path else "")
    secret = _password(conn)
    try:
        return psycopg.connect(
            **_parameters(conn, secret, database),  # type: ignore[arg-type]
            options=options,
            autocommit=True,
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise connect_error(conn, str(error), secret) from None


def for_programs(conn: PostgresConnection, database: str) -> tuple[str, dict[str, str]]:
    """How one of PostgreSQL's programs connects: libpq's text, which holds no secret, and variables with the password.

    Without a password it finds the password file that this process would find.
    """
    secret = _password(conn)
    text = conninfo.make_conninfo("", **{**_parameters(conn, None, database), "options": _NO_TIMEOUTS})
    if secret is not None:
        return text, {"PGPASSWORD": secret.reveal()}
    passfile = os.environ.get("PGPASSFILE") or os.path.expanduser("~/.pgpass")  # noqa: PTH111 - as libpq does
    return text, {"PGPASSFILE": passfile}


def connect_replication(conn: PostgresConnection) -> PGconn:
    """A connection of the replication protocol.

    ``replication=database`` speaks the same protocol and needs no ``replication`` line in ``pg_hba.conf``.

    :raises SourceUnreachable, SourceDenied, SourceUnsupported: see :func:`connect_error`.
    """
    secret = _password(conn)
    parameters = _parameters(conn, secret, None)
    text = conninfo.make_conninfo("", **parameters, options=_NO_TIMEOUTS, replication="database")
    link: PGconn | None = None
    try:
        link = pq.PGconn.connect(text.encode())
        if link.status == pq.ConnStatus.OK:
            return link
        message = link.get_error_message()
    except psycopg.Error as error:
        message = str(error)
    if link is not None:
        link.finish()
    raise connect_error(conn, message, secret)


def connect_error(conn: PostgresConnection, message: str, secret: Secret | None = None) -> SourceError:
    """The error for a connection that could not be made; *message* is libpq's."""
    shown = f"{place(conn)}: {_clean(message, secret)}"
    if _PASSING.search(message):
        return SourceUnreachable(shown)
    if _TLS.search(message):
        return SourceUnsupported(shown, hint="check sslmode, sslrootcert, sslcert and sslkey of the connection")
    if _REFUSED.search(message):
        return SourceDenied(shown)
    return SourceUnreachable(shown)


def server_error(conn: PostgresConnection, sqlstate: str | None, message: str, doing: str) -> SourceError:
    """The error for something that failed on an open connection.

    :param sqlstate: five characters, or ``None`` when the connection broke.
    :param doing: what was tried, e.g. ``reading the tablespaces``.
    """
    shown = f"{place(conn)}: {doing}: {_clean(message, _password(conn))}"
    if sqlstate is None:
        return BackupBroken(shown)
    if sqlstate == "42501" or sqlstate.startswith("28"):
        return SourceDenied(shown)
    if sqlstate == "53300":
        return SourceUnreachable(shown, hint="too many connections: see max_connections and max_wal_senders")
    if sqlstate == "53400":
        return BackupBroken(shown, hint="raise max_replication_slots, or wait until another backup has ended")
    if sqlstate in {"55000", "0A000", "42883", "42601"}:
        return SourceUnsupported(
            shown, hint="see `mingus check SOURCE`: versions 15 to 18, wal_level replica or logical"
        )
    return BackupBroken(shown)


def query_error(conn: PostgresConnection, error: psycopg.Error, doing: str) -> SourceError:
    """:func:`server_error` of an exception of psycopg."""
    message = error.diag.message_primary or str(error)
    return server_error(conn, error.sqlstate, message, doing)


def result_error(conn: PostgresConnection, result: PGresult, doing: str) -> SourceError:
    """:func:`server_error` of a failed result of libpq."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    message = primary.decode("utf-8", "replace") if primary else result.get_error_message()
    return server_error(conn, state.decode("ascii") if state else None, message, doing)


@contextmanager
def mapped(conn: PostgresConnection, doing: str) -> Iterator[None]:
    """Turns errors of psycopg inside the block into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise query_error(conn, error, doing) from error


@contextmanager
def cancellable(session: Session, cancel: threading.Event) -> Iterator[None]:
    """Inside the block a statement of *session* is cancelled on the server when the event is set.

    :raises Cancelled: it was.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_CANCEL_POLL_S):
            if cancel.is_set():
                with suppress(psycopg.Error):
                    session.cancel_safe(timeout=5)
                return

    watcher = threading.Thread(target=watch, name="mingus-cancel", daemon=True)
    watcher.start()
    try:
        yield
    except psycopg.Error:
        if cancel.is_set():
            raise Cancelled("a statement was cancelled on request") from None
        raise
    finally:
        done.set()
        watcher.join()
    if cancel.is_set():
        raise Cancelled("a statement was cancelled on request")


def _password(conn: PostgresConnection) -> Secret | None:
    return conn.password or read_secret(conn.password_env, conn.password_file, what="password of PostgreSQL")


def _parameters(conn: PostgresConnection, secret: Secret | None, database: str | None) -> Mapping[str, str]:
    parameters = {
        "host": conn.host,
        "port": str(conn.port),
        "user": conn.user,
        "dbname": database or conn.dbname,
        "sslmode": conn.sslmode,
        "connect_timeout": str(conn.connect_timeout_s),
        "application_name": "mingus",
        "client_encoding": "UTF8",
        # Whether GSS encrypts a link cannot be asked through psycopg; so it is off unless the environment wants it.
        "gssencmode": os.environ.get("PGGSSENCMODE", "disable"),
        # A cut that no packet reports is noticed after 30 + 6 * 10 seconds.
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "6",
    }
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if getattr(conn, name):
            parameters[name] = getattr(conn, name)
    if secret is not None:
        parameters["password"] = secret.reveal()
    return parameters


def _clean(message: str, secret: Secret | None) -> str:
    """One line, without the password should a library ever quote it."""
    if secret is not None and secret.reveal():
        message = message.replace(secret.reveal(), "***")
    return " ".join(message.split())
