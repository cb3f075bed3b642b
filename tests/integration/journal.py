"""A writer that keeps a journal of what it committed when and where: what a recovery to any point must show.

It numbers its transactions 1, 2, 3, … and writes them one after the other, so that a recovered cluster holds exactly
the first *n* of them. Beside it others may do what they like.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mingus_engine import lsn as lsns
from tests.support.postgres import PgCluster

TABLE = "create table journal (n int primary key, x text)"
_BEFORE = "select pg_current_wal_insert_lsn(), clock_timestamp(), pg_current_xact_id()::text::bigint"
_BEHIND = "select pg_current_wal_insert_lsn(), clock_timestamp()"
# A recovery to an LSN inside a record goes on to the record behind it. So one stands between what was before a commit
# and the commit, which else could be that record.
_APART = "select pg_logical_emit_message(false, 'journal', '')"


@dataclass(frozen=True)
class Entry:
    """One transaction: its number, and what the client knew before and after its commit."""

    n: int
    timeline: int
    xid: int
    lsn_before: int
    lsn_behind: int
    before: datetime
    behind: datetime


@dataclass
class Journal:
    """See the module. ``points``: name of a restore point → the entries before it."""

    seed: int = 0
    entries: list[Entry] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def write(self, cluster: PgCluster, count: int, *, timeline: int = 1, lost: bool = False) -> list[Entry]:
        """Commit *count* transactions, now and then with DDL or a restore point. *lost*: not kept in ``entries``."""
        written = []
        first = self.entries[-1].n + 1 if self.entries else 1
        with cluster.connect() as connection:
            for n in range(first, first + count):
                connection.execute("begin")
                connection.execute(
                    "insert into journal select %s, repeat(md5(%s::text), %s)",
                    [n, n, self._random.choice([1, 30, 400])],
                )
                if self._random.random() < 0.1:
                    connection.execute(f"create table if not exists made_{n}_{timeline} (x int primary key)")
                if self._random.random() < 0.05:
                    connection.execute("truncate scratch; insert into scratch select generate_series(1, 500)")
                lsn, at, xid = connection.execute(_BEFORE).fetchone() or ()
                connection.execute(_APART)
                connection.execute("commit")
                lsn_behind, behind = connection.execute(_BEHIND).fetchone() or ()
                entry = Entry(n, timeline, xid, lsns.parse(lsn), lsns.parse(lsn_behind), at, behind)
                written.append(entry)
                if not lost:
                    self.entries.append(entry)
                    if self._random.random() < 0.05:
                        self.points[f"point-{n}"] = n
                        connection.execute("select pg_create_restore_point(%s)", [f"point-{n}"])
        return written

    def prepare(self, cluster: PgCluster) -> None:
        """Make the tables."""
        cluster.execute(TABLE, "create table scratch (g int)")

    def at_lsn(self, lsn: int) -> set[int]:
        """How many entries a recovery to *lsn* may show."""
        certain = max((e.n for e in self.entries if e.lsn_behind <= lsn), default=0)
        return {certain, max((e.n for e in self.entries if e.lsn_before <= lsn), default=0)}

    def at_time(self, moment: datetime) -> set[int]:
        """How many entries a recovery to *moment* may show."""
        certain = max((e.n for e in self.entries if e.behind <= moment), default=0)
        return {certain, max((e.n for e in self.entries if e.before <= moment), default=0)}

    def random_target(self, source: random.Random, first: int) -> tuple[str, dict[str, bool], set[int]]:
        """A target behind entry *first*: its text, options of the restore, and how many entries it may show."""
        known = [e for e in self.entries if e.n > first]
        kind = source.choice(["time", "time", "lsn", "lsn", "xid", "name"])
        inclusive = source.random() < 0.7
        if kind == "time":
            span = known[-1].behind - known[0].before
            moment = known[0].before + timedelta(microseconds=source.randrange(span // timedelta(microseconds=1)))
            return f"time:{moment.isoformat()}", {"inclusive": inclusive}, self.at_time(moment)
        if kind == "lsn":
            lsn = source.randrange(known[0].lsn_before, known[-1].lsn_behind)
            return f"lsn:{lsns.text(lsn)}", {"inclusive": inclusive}, self.at_lsn(lsn)
        points = {name: n for name, n in self.points.items() if n > first}
        if kind == "name" and points:
            name = source.choice(sorted(points))
            return f"name:{name}", {}, {points[name]}
        entry = source.choice(known)
        return f"xid:{entry.xid}", {"inclusive": inclusive}, {entry.n if inclusive else entry.n - 1}


def shown(cluster: PgCluster) -> int:
    """How many entries a cluster holds; an AssertionError when one of them is missing in between."""
    count, last = cluster.rows("select count(*), coalesce(max(n), 0) from journal")[0]
    assert count == last, f"{count} entries up to number {last}"
    return int(count)
