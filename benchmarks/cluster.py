"""The database that is measured: pgbench tables and a ledger, five to three by size, with page checksums.

pgbench's accounts compress extremely well, the ledger's references, signatures and amounts do not; zstd level 1 makes
a bit over a fifth of both together. The cluster is made by ``initdb`` as an unprivileged user, on a port and socket of
its own, and stays idle while it is backed up, so that every program reads the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.support import directories
from tests.support.pg_versions import PgVersion, find_versions
from tests.support.postgres import PgCluster

# pgbench units (100,000 accounts) and ledger rows per GB, measured.
_SCALE_PER_GB = 40
_LEDGER_ROWS_PER_GB = 1_200_000
_FILL_TIMEOUT_S = 3600.0
# Filling writes no WAL that way; nothing is archived, so nobody's archiver runs beside what is measured.
_WHILE_FILLING = (
    "-c",
    "wal_level=minimal",
    "-c",
    "max_wal_senders=0",
    "-c",
    "archive_mode=off",
    "-c",
    "max_wal_size=256MB",
)
_SETTINGS = {
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "wal_level": "replica",
    # pgBackRest insists on an archive; what it would hold is not compared (see ``contenders``).
    "archive_mode": "on",
    "archive_command": "/bin/true",
    "autovacuum": "off",
    "min_wal_size": "80MB",
    # Inside the data directory: a killed server leaves nothing of it in the machine's shared memory.
    "dynamic_shared_memory_type": "mmap",
}
# As `pgbench -i` makes them, but with balances as they are after some use, not all zero.
_ACCOUNTS = """
BEGIN;
TRUNCATE pgbench_branches, pgbench_tellers, pgbench_accounts;
INSERT INTO pgbench_branches (bid, bbalance) SELECT i, 0 FROM generate_series(1, %(scale)s) AS i;
INSERT INTO pgbench_tellers (tid, bid, tbalance)
SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, %(scale)s * 10) AS i;
INSERT INTO pgbench_accounts (aid, bid, abalance, filler)
SELECT i, (i - 1) / 100000 + 1, i * 48271::bigint %% 200003 - 100000, ''
FROM generate_series(1, %(scale)s * 100000) AS i;
COMMIT;
"""
_LEDGER = """
BEGIN;
CREATE TABLE ledger (
    id          bigint         NOT NULL,
    booked_at   timestamptz    NOT NULL,
    transaction uuid           NOT NULL,
    debit       char(22)       NOT NULL,
    credit      char(22)       NOT NULL,
    amount      numeric(14, 2) NOT NULL,
    currency    char(3)        NOT NULL,
    reference   text           NOT NULL,
    purpose     text           NOT NULL,
    signature   bytea          NOT NULL
);
INSERT INTO ledger
SELECT i, timestamptz '2022-01-01' + i * interval '11 seconds', md5('t' || i)::uuid,
       'DE' || lpad((i * 7919::bigint %% 1000003)::text, 20, '0'),
       'DE' || lpad((i * 104729::bigint %% 1000003)::text, 20, '0'),
       round((i * 48271::bigint %% 10000000) / 100.0, 2), (ARRAY['EUR', 'USD', 'CHF', 'JPY'])[1 + i %% 4],
       'TX-' || md5(i::text),
       (ARRAY['card payment', 'salary', 'rent', 'direct debit', 'transfer', 'interest', 'fee'])[1 + i %% 7]
           || ' of contract ' || i * 15485863::bigint %% 9999991,
       sha256(i::text::bytea)
FROM generate_series(1, %(rows)s) AS i;
COMMIT;
ALTER TABLE ledger ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ledger_transaction ON ledger (transaction);
CREATE INDEX ledger_booked_at ON ledger (booked_at);
VACUUM (FREEZE, ANALYZE) ledger;
"""


def version(major: int, directory: Path) -> PgVersion:
    """PostgreSQL of that major version; programs that are copied go into *directory*.

    :raises FileNotFoundError: it is not installed.
    """
    return find_versions(directories.make_directory(directory))[major]


def make(directory: Path, gb: float, major: int = 15, conf: Mapping[str, str] = MappingProxyType({})) -> PgCluster:
    """A started cluster of about *gb* GB below *directory*, or the one that an earlier run left there."""
    home = directory / f"cluster-{major}"
    found = version(major, directory / "programs")
    if (home / "complete").exists():
        return PgCluster.of_directory(found, home / "data").start()
    directories.remove(home)  # an interrupted filling
    cluster = PgCluster.create(found, home, conf={**_SETTINGS, **conf})
    # Log that is not written cannot be summarized either.
    cluster.arguments = (*_WHILE_FILLING, "-c", "summarize_wal=off") if major >= 17 else _WHILE_FILLING
    with cluster.start():
        numbers = {"scale": max(1, round(gb * _SCALE_PER_GB)), "rows": max(1000, round(gb * _LEDGER_ROWS_PER_GB))}
        for steps, script in (("dt", _ACCOUNTS), ("p", _LEDGER)):
            scale = str(numbers["scale"])
            cluster.tool("pgbench", "-i", "-q", "-I", steps, "-s", scale, cluster.dsn(), timeout_s=_FILL_TIMEOUT_S)
            psql = ("psql", "-XAtqv", "ON_ERROR_STOP=1", "-d", cluster.dsn())
            cluster.tool(*psql, stdin=script % numbers, timeout_s=_FILL_TIMEOUT_S)
        # Every hint bit is set and every page written, so that no run writes what another does not.
        cluster.execute("VACUUM FREEZE", "CHECKPOINT")
        cluster.stop("fast")
    cluster.arguments = ()
    cluster.start()
    cluster.execute("SELECT pg_switch_wal()", "CHECKPOINT")  # lets go of the WAL of the filling
    (home / "complete").touch()
    return cluster


def size_bytes(cluster: PgCluster) -> int:
    """What the files of a base backup take: everything but WAL."""
    return sum(
        path.stat().st_size
        for path in cluster.data_directory.rglob("*")
        if path.is_file() and "pg_wal" not in path.parts
    )


def describe(cluster: PgCluster) -> str:
    """Version and settings that matter, for the report."""
    return f"{cluster.value('select version()').split(',')[0]}, data_checksums {cluster.value('show data_checksums')}"
