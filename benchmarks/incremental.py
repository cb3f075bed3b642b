"""Incremental backups: a full one of each contender, then the database changes, then what each does about it.

What changes are single rows all over the largest tables, one on each chosen page: their new versions, the pages of the
index and those that log them make the rest. How much of the cluster that is, is measured (the LSNs of its pages).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.contenders import Bench, Contender, Mingus, PgBackRest
from benchmarks.figures import Target
from benchmarks.rounds import Sample, restored, said
from benchmarks.suite import Say, Suite
from mingus_engine.lsn import parse
from tests.support.postgres import PgCluster

_PAGE = 8192
_LOCAL, _REPLICATION, _SQL = "mingus local", "mingus replication", "mingus sql"
_PEER = "pgbackrest"
# One row of every page that comes up; the seed makes rounds alike.
_CHANGE = """
SELECT setseed({seed});
UPDATE {table} t SET {column} = t.{column} + 1
FROM (SELECT format('(%s,1)', p)::tid AS place
      FROM generate_series(0, pg_relation_size('{table}') / 8192 - 1) p WHERE random() < {share}) chosen
WHERE t.ctid = chosen.place;
"""


def change(cluster: PgCluster, share: float, number: int) -> float:
    """Change a row on about *share* of the pages; the share of all pages of relations that is newer now."""
    before = parse(cluster.value("select pg_current_wal_insert_lsn()::text"))
    for table, column in (("pgbench_accounts", "abalance"), ("ledger", "amount")):
        cluster.psql(_CHANGE.format(seed=1 / (number + 2), table=table, column=column, share=share))
    cluster.execute("CHECKPOINT")
    pages = newer = 0
    for path in (cluster.data_directory / "base").rglob("[0-9]*"):
        if path.is_file() and "_" not in path.name:
            with path.open("rb") as file:
                while raw := file.read(1024 * _PAGE):
                    heads = [raw[at : at + 8] for at in range(0, len(raw), _PAGE)]
                    pages += len(heads)
                    newer += sum(_lsn(head) > before for head in heads)
    return newer / pages


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Say, *, share: float) -> Iterator[Sample]:
    """In each round: everybody's full backup, the change, everybody's increment and its restore."""
    started = time.monotonic()
    for number in range(rounds):
        turn = number % len(contenders)
        order = [*contenders[turn:], *contenders[:turn]]
        try:
            for contender in order:
                bench.cluster.execute("CHECKPOINT")
                contender.prepare()
                full = contender.back_up()
                yield said(say, started, Sample.of(contender, "back up", number, full))
            say(f"{time.monotonic() - started:5.0f} s  {change(bench.cluster, share, number):.2%} of the pages changed")
            for contender in order:
                bench.cluster.execute("CHECKPOINT")
                yield said(say, started, Sample.of(contender, "increment", number, contender.increment()))
            for contender in order:
                for sample in restored(bench, contender, number):
                    yield said(say, started, sample)
        finally:
            for contender in order:
                contender.remove()


def _lsn(head: bytes) -> int:
    return int.from_bytes(head[:4], "little") << 32 | int.from_bytes(head[4:8], "little")


def _beside_the_peer(bench: Bench) -> list[Contender]:
    return [
        Mingus(bench, _LOCAL),
        PgBackRest(bench, _PEER),
        Mingus(bench, _REPLICATION, transport="replication", restores=False),
    ]


INCREMENTAL = Suite(
    name="incremental",
    title="Incremental backup",
    conditions=(
        "2.5 % of the pages changed between the full backup and the increment. pgBackRest 2.45 has no block"
        " incremental: it stores files that changed as a whole."
    ),
    contenders=_beside_the_peer,
    play=partial(play, share=0.013),
    targets=(
        Target("increment, local", "increment", "wall", _LOCAL, _PEER, 0.50),
        Target("increment, replication", "increment", "wall", _REPLICATION, _PEER, 0.50),
        Target("increment, stored bytes", "increment", "stored", _LOCAL, _PEER, 0.75),
        Target("engine over its imports (MiB)", "increment", "memory", _LOCAL, "", 64),
    ),
    space_per_gb=3.5,
)

NATIVE = Suite(
    name="incremental-native",
    title="Incremental backup by the server's own summaries, PostgreSQL 18",
    conditions="2.5 % of the pages changed between the full backup and the increment; summarize_wal is on.",
    contenders=lambda bench: [Mingus(bench, _REPLICATION, transport="replication")],
    play=partial(play, share=0.013),
    targets=(
        Target(
            "native increment, wall against a full", "increment", "wall", _REPLICATION, _REPLICATION, 0.20, "back up"
        ),
        Target("engine over its imports (MiB)", "increment", "memory", _REPLICATION, "", 64),
    ),
    major=18,
    conf={"summarize_wal": "on"},
    space_per_gb=3.0,
)

SQL = Suite(
    name="incremental-sql",
    title="Incremental backup over SQL, PostgreSQL 15",
    conditions="1 % of the pages changed; changes are found on the server, no file and no replication right is needed.",
    contenders=lambda bench: [
        Mingus(bench, _SQL, transport="sql"),
        Mingus(bench, _REPLICATION, transport="replication", restores=False),
    ],
    play=partial(play, share=0.0052),
    targets=(
        Target(
            "increment over SQL, wall against a full over replication",
            "increment",
            "wall",
            _SQL,
            _REPLICATION,
            0.60,
            "back up",
        ),
        Target(
            "increment over SQL, bytes on the wire against a full", "increment", "wire", _SQL, _SQL, 0.05, "back up"
        ),
    ),
    space_per_gb=3.5,
)
