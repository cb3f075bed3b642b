"""Everything a busy database does to its files, again and again while a backup reads them.

One round does each deed once, in an order that depends on the seed: tables and databases come and go, files are
rewritten, shrink, grow again and grow over the boundary of a segment.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

SEGMENT_BYTES = 1 << 30
PAGE_BYTES = 8192
_SHORT_BYTES = 8 * PAGE_BYTES
#: In one transaction each: what is in the table and what was counted never differ.
GROWN_IS_COUNTED = "select (select count(*) from grown) = (select n from grown_count)"
_DEEDS: dict[str, tuple[str, ...]] = {
    "create and drop": (
        "drop table if exists passing",
        "create table passing as select g, md5(g::text) t from generate_series(1, 5000) g",
        "create index on passing (t)",
    ),
    "rewrite": ("vacuum full account", "vacuum full posting"),
    "truncate": ("truncate refilled", "insert into refilled select g, md5(g::text) from generate_series(1, 8000) g"),
    "shrink": ("delete from shrinking where g > 500", "vacuum (truncate) shrinking"),
    "regrow": ("insert into shrinking select g, repeat('r', 500) from generate_series(501, 6000) g",),
    "reindex": ("reindex table posting",),
    # A server that was killed between the two has the column already.
    "alter": (
        "alter table altered add column if not exists more int default 7",
        "alter table altered drop column more",
    ),
    "move": ("alter table moving set tablespace other", "alter table moving set tablespace pg_default"),
    "database": ("drop database if exists passing_db", "create database passing_db"),
    "copied database": ("drop database if exists copied_db", "create database copied_db strategy file_copy"),
    "checkpoint": ("checkpoint",),
}
_GROW = """
with added as (insert into grown select repeat('g', 7000) from generate_series(1, 16) returning 1)
update grown_count set n = n + (select count(*) from added)
"""


def prepare(cluster: PgCluster, *, large: bool) -> None:
    """Make what the deeds need; *large*: a table that lacks a few pages to 1 GiB. The server is restarted for it."""
    cluster.create_tablespace("other")
    cluster.psql("""
        create table refilled (g int, t text);
        create table shrinking as select g, repeat('s', 500) t from generate_series(1, 6000) g;
        create index on shrinking (g);
        create table altered as select g from generate_series(1, 1000) g;
        create table moving as select g, md5(g::text) t from generate_series(1, 3000) g;
        create table grown (t text);
        alter table grown alter t set storage plain;
        create table grown_count (n bigint);
        insert into grown_count values (0);
    """)
    if large:
        path = cluster.data_directory / cluster.value("select pg_relation_filepath('grown')")
        cluster.stop()
        # Pages of zeros are empty pages to PostgreSQL, and holes to the file system.
        with path.open("r+b") as file:
            file.truncate(SEGMENT_BYTES - _SHORT_BYTES)
        cluster.start()


class Mayhem:
    """See the module. ``rounds`` counts how often everything was done.

    :param databases: also make and drop databases. A DROP DATABASE waits for every session to notice, and one that
        waits for a client to read on does not notice: a BASE_BACKUP must not be held back meanwhile.
    """

    def __init__(self, cluster: PgCluster, seed: int, *, databases: bool = True) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._databases = databases
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.rounds = 0

    @contextmanager
    def raging(self) -> Iterator[Mayhem]:
        """Under way in the block."""
        thread = threading.Thread(target=self._rage)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()
        self._refuse_error()

    def let_go(self) -> None:
        """From now on with databases."""
        self._databases = True

    def one_more_round(self) -> None:
        """Wait until everything was done once from begin to end."""
        before = self.rounds
        wait_until(lambda: self._error or self.rounds >= before + 2, "everything was done once", timeout_s=120)
        self._refuse_error()

    def _refuse_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _rage(self) -> None:
        try:
            with self._cluster.connect() as connection:
                while not self._ended.is_set():
                    self._round(connection)
                    self.rounds += 1
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: raised by who waits
            self._error = error

    def _round(self, connection: psycopg.Connection[object]) -> None:
        names = list(_DEEDS)
        self._random.shuffle(names)
        for name in names:
            if "database" in name and not self._databases:
                continue
            for statement in _DEEDS[name]:
                if self._ended.is_set():
                    return
                connection.execute(statement)
            connection.execute(_GROW)
