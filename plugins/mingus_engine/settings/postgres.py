"""What a source of kind ``postgres`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mingus_engine import bounds
from mingus_engine.settings.secret import Secret


@dataclass(frozen=True)
class PostgresConnection:
    """How a PostgreSQL server is reached; ``host`` may be a directory with its unix socket."""

    host: str = "${POSTGRES_HOST:-localhost}"
    port: int | str = "${POSTGRES_PORT:-5432}"
    user: str = "${POSTGRES_USER:-postgres}"
    dbname: str = "${POSTGRES_DB:-postgres}"
    password_env: str = "POSTGRES_PASSWORD"  # noqa: S105 - the name of a variable
    password_file: str = ""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    connect_timeout_s: int = 10
    password: Secret | None = None


@dataclass(frozen=True)
class Predicate:
    """SQL that must be true at any consistent moment, e.g. sum of debits = sum of credits.

    :param sql: a query of one row with one boolean.
    """

    name: str
    sql: str
    database: str = ""


@dataclass(frozen=True)
class Measurement:
    """SQL whose value is recorded with the LSN at which it was taken, and compared after a restore.

    :param sql: a query of one row with one number or text.
    :param tolerance: how far a number may lie from the recorded one when something was written in between;
        a text must then merely be there. Relative when ``tolerance_relative`` (0.01 = 1 %), else absolute.
    """

    name: str
    sql: str
    database: str = ""
    tolerance: float = 0.0
    tolerance_relative: bool = False


@dataclass(frozen=True)
class WalSettings:
    """How the write-ahead log of a source is archived.

    :param scheduled: whether the DAG ``backup_postgres_wal`` archives it; off where the server pushes its log, which is
        then shipped with each snapshot.
    :param slot: name of the replication slot; empty = ``mingus_<source id>`` (see :attr:`SourceSettings.wal_slot`).
    :param slice_interval_s: a streaming archiver stores what is new of the unfinished segment this often.
    :param idle_sample_s: while nothing is written, how often "archived up to now" is stored, at most.
    :param canary: write a marker, and find it again in every repository after each drain.
    :param busy_lag_max_bytes: a drain that finds the slot held by a streaming archiver is content when no more than
        this is not stored yet.
    """

    scheduled: bool = True
    slot: str = ""
    slice_interval_s: float = 5.0
    idle_sample_s: float = 300.0
    canary: bool = True
    busy_lag_max_bytes: int = 64 * bounds.MIB
