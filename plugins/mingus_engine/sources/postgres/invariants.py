"""Financial invariants: predicates that hold at any consistent moment, and measurements that a restore must repeat.

Both are evaluated in one ``REPEATABLE READ READ ONLY`` transaction per database, with fixed output settings, so that
the text of a value is comparable. A measurement is comparable *exactly* when no transaction ended between it and the
restored state. Comparing LSNs cannot tell: a backup's own end, checkpoints and hint bits write WAL on an idle server,
too. The transaction counter can: every change of a logged table needs a transaction id, and its end is logged.

A snapshot is ``xmin:xmax:in progress``. If nothing below ``xmax`` is in progress, what is visible depends on ``xmax``
alone. So a measurement is *quiet* when its snapshot is of that kind and the same one was seen at an LSN before the
backup's stop LSN: the backup then contains every commit that the value depends on. It compares exactly with a restored
server that shows this very snapshot, which also means that no later transaction was replayed. Otherwise something was
written, and the declared tolerance applies.

Not covered: values that change without a transaction id (sequences between two WAL records, ``now()``, statistics),
unlogged and temporary tables; and sums of floating point numbers, which depend on the order of rows: give a tolerance.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from psycopg import pq

from mingus_engine import lsn as lsns
from mingus_engine.errors import SourceError
from mingus_engine.settings import Measurement, PostgresConnection, Predicate
from mingus_engine.sources.base import Check
from mingus_engine.sources.postgres.connection import Session, cancellable, connect_sql, mapped

_OUTPUT = (
    "SET datestyle = ISO; SET intervalstyle = postgres; SET timezone = UTC; SET extra_float_digits = 1;"
    "SET bytea_output = hex; SET xmloption = content; SET synchronize_seqscans = off"
)
_POSITION = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text
"""
# A server in recovery knows running transactions only roughly; its snapshots are never called quiet.
_SNAPSHOT = "SELECT pg_current_snapshot()::text, pg_is_in_recovery()"


@dataclass(frozen=True)
class Moment:
    """A snapshot of the server, and an LSN taken after it: everything the snapshot shows was written before it.

    :param snapshot: ``xmin:xmax:in progress``, as PostgreSQL prints it; empty when it says nothing.
    """

    snapshot: str
    lsn: int

    @property
    def complete(self) -> bool:
        """Every transaction with an id below ``xmax`` has ended, so that what is visible depends on ``xmax`` alone."""
        low, _, rest = self.snapshot.partition(":")
        return bool(low) and rest == f"{low}:"


@dataclass(frozen=True)
class Measured:
    """One value. ``value`` is PostgreSQL's text, ``None`` = NULL; ``error`` is set instead when the query failed."""

    name: str
    kind: str
    database: str
    value: str | None
    error: str
    before: int
    after: Moment

    def as_facts(self, since: Moment | None) -> dict[str, Any]:
        """JSON types, for a manifest. *since*: a moment that the backup contains."""
        return {
            "name": self.name,
            "kind": self.kind,
            "database": self.database,
            "value": self.value,
            "error": self.error,
            "lsn_before": lsns.text(self.before),
            "lsn_after": lsns.text(self.after.lsn),
            "snapshot": self.after.snapshot,
            "quiet": self.after.complete and since is not None and since.snapshot == self.after.snapshot,
        }


def moment(session: Session, conn: PostgresConnection) -> Moment:
    """The server's present.

    :raises SourceError: the query failed.
    """
    with mapped(conn, "taking a snapshot"):
        return _moment(session)


def evaluate(
    conn: PostgresConnection,
    predicates: Sequence[Predicate],
    measurements: Sequence[Measurement],
    cancel: threading.Event,
) -> list[Measured]:
    """Evaluate on a server (the source, or a restored one). A query that fails is a value with an error, no exception.

    :raises SourceError: a database cannot be reached. :raises Cancelled: the event was set.
    """
    found: list[Measured] = []
    wanted: list[tuple[str, Predicate | Measurement]] = [
        *(("predicate", p) for p in predicates),
        *(("measurement", m) for m in measurements),
    ]
    for database in dict.fromkeys(item.database or conn.dbname for _, item in wanted):
        chosen = [(kind, item) for kind, item in wanted if (item.database or conn.dbname) == database]
        with contextlib.closing(connect_sql(conn, database=database, safe_path=False)) as session:
            with mapped(conn, f"preparing to measure in database {database}"):
                session.execute(_OUTPUT)
            found.extend(_in_one_transaction(session, conn, database, chosen, cancel))
    return found


def checks(measured: Iterable[Measured]) -> Iterator[Check]:
    """What the source itself says: a predicate that is false, or a query that fails, flags the snapshot."""
    for item in measured:
        if item.error:
            yield Check(f"invariant {item.name}", False, f"{item.kind} failed: {item.error}", _data(item, "failed"))
        elif item.kind == "predicate":
            ok = item.value == "t"
            detail = "holds" if ok else f"predicate is {_shown(item.value)} at {lsns.text(item.after.lsn)}"
            yield Check(f"invariant {item.name}", ok, detail, _data(item, "predicate"))


def compare(
    recorded: Sequence[Mapping[str, Any]], restored: Sequence[Measured], measurements: Sequence[Measurement]
) -> Iterator[Check]:
    """Compare what a manifest recorded with what a restored server says; each check says which rule applied.

    :param recorded: ``as_facts`` of the source's values. :param measurements: their declared tolerances.
    """
    before = {(r["kind"], r["name"]): r for r in recorded}
    tolerances = {m.name: m for m in measurements}
    for item in restored:
        name = f"invariant {item.name}"
        known = before.get((item.kind, item.name))
        if item.error:
            yield Check(name, False, f"{item.kind} failed: {item.error}", _data(item, "failed"))
        elif item.kind == "predicate":
            yield Check(name, item.value == "t", f"predicate is {_shown(item.value)}", _data(item, "predicate"))
        elif known is None or known.get("error"):
            yield Check(name, True, f"{_shown(item.value)}, nothing recorded to compare with", _data(item, "none"))
        else:
            yield _compare(name, known, item, tolerances.get(item.name))


def _compare(name: str, known: Mapping[str, Any], item: Measured, declared: Measurement | None) -> Check:
    was, now = known["value"], item.value
    exact = bool(known["quiet"]) and item.after.complete and known["snapshot"] == item.after.snapshot
    data = {**_data(item, "exact" if exact else "tolerance"), "recorded": was}
    if exact:
        return Check(name, was == now, f"{_shown(now)}, recorded {_shown(was)}: must be equal", data)
    allowed = _allowed(was, declared)
    if allowed is None or now is None:
        return Check(
            name, (was is None) == (now is None), f"{_shown(now)}, recorded {_shown(was)}: must be there", data
        )
    number = _number(now)
    ok = number is not None and abs(number - Decimal(was)) <= allowed
    return Check(name, ok, f"{now}, recorded {was}: may differ by {allowed}", data)


def _allowed(was: str | None, declared: Measurement | None) -> Decimal | None:
    number = _number(was)
    if number is None:
        return None
    tolerance = Decimal(repr(declared.tolerance)) if declared else Decimal(0)
    return abs(number) * tolerance if declared and declared.tolerance_relative else tolerance


def _number(text: str | None) -> Decimal | None:
    try:
        number = Decimal(text) if text is not None else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def _in_one_transaction(
    session: Session,
    conn: PostgresConnection,
    database: str,
    wanted: Sequence[tuple[str, Predicate | Measurement]],
    cancel: threading.Event,
) -> Iterator[Measured]:
    with mapped(conn, f"measuring in database {database}"):
        before = _position(session)
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        after = _moment(session)
        for kind, item in wanted:
            value, error = _value(session, item.sql, cancel)
            yield Measured(item.name, kind, database, value, error, before, after)
        session.execute("ROLLBACK")


def _value(session: Session, sql: str, cancel: threading.Event) -> tuple[str | None, str]:
    session.execute("SAVEPOINT item")
    with cancellable(session, cancel):
        # The extended protocol takes one statement only, so nothing can end the read-only transaction.
        result = session.pgconn.exec_params(sql.encode(), None)
        if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
            primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
            session.execute("ROLLBACK TO item")
            return None, (primary or b"failed").decode("utf-8", "replace")
    session.execute("RELEASE item")
    if result.ntuples != 1 or result.nfields != 1:
        return None, f"must give one row with one value, not {result.ntuples} rows of {result.nfields}"
    value = result.get_value(0, 0)
    return value.decode("utf-8", "replace") if value is not None else None, ""


def _moment(session: Session) -> Moment:
    snapshot, standby = session.execute(_SNAPSHOT).fetchone() or ("", True)
    return Moment("" if standby else snapshot, _position(session))


def _position(session: Session) -> int:
    row = session.execute(_POSITION).fetchone()
    if row is None or row[0] is None:
        raise SourceError("the server has no WAL position")
    return lsns.parse(row[0])


def _data(item: Measured, rule: str) -> dict[str, Any]:
    return {"rule": rule, "value": item.value, "lsn": lsns.text(item.after.lsn)}


def _shown(value: str | None) -> str:
    return "NULL" if value is None else value[:200]
