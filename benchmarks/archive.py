"""Write-ahead log on its way into the archive, and out of it again.

``receive``: what a busy hour left is drained through the slot, sealed and stored. ``replay``: a server started on a
restored backup replays that log to its end, file after file from the archive, or, beside it, with ``cp`` from a
directory that holds it in plain text.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Bench, Contender, Mingus
from benchmarks.figures import Target
from benchmarks.measuring import Cost, server_s
from benchmarks.rounds import Sample, said
from benchmarks.suite import Say, Suite
from tests.support import directories
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

_RECEIVER, _PLAIN = "mingus wal archive", "pg_receivewal, plain text"
_FETCH, _COPY = "mingus wal fetch", "cp of plain text"
# Rows of the ledger that are written, and changed, for a GB of database: some 0.4 GB of log.
_ROWS_PER_GB = 400_000
_TRAFFIC = """
CREATE TABLE IF NOT EXISTS traffic (LIKE ledger INCLUDING ALL);
INSERT INTO traffic
SELECT {first} + i, now(), gen_random_uuid(), debit, credit, amount, currency, reference, purpose, signature
FROM (SELECT *, row_number() OVER () AS i FROM ledger LIMIT {rows}) l;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 20 = {number} % 20;
"""


@dataclass
class Receiver(Mingus):
    """Drains the slot into a repository on the disk."""

    restores: bool = False

    def drain(self) -> tuple[Cost, int]:
        """What it cost, and how many bytes of log came."""
        outcome = self._engine("archive", "bench", served=True)
        return outcome.cost, int(json.loads(outcome.output)["report"]["wal_bytes"])


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Say) -> Iterator[Sample]:
    """A full backup; then in each round traffic, both receivers, and two restored servers that replay it all."""
    del contenders
    started = time.monotonic()
    cluster = bench.cluster
    receiver = Receiver(bench, _RECEIVER)
    rows = int(_ROWS_PER_GB * max(0.5, float(cluster.value("select count(*) from ledger")) / 1_200_000))
    plain = bench.folder("plain")
    receiver.prepare()
    try:
        receiver.back_up()
        receiver.drain()  # makes the slot
        cluster.execute("select pg_create_physical_replication_slot('plain', true)")
        for number in range(rounds):
            cluster.psql(_TRAFFIC.format(first=10**9 + number * 10**8, rows=rows, number=number))
            cluster.execute("select pg_switch_wal()")
            end = cluster.value("select pg_current_wal_flush_lsn()::text")
            tools = [receiver.drain, lambda end=end: _plain(bench, plain, end)]
            for name, tool in list(zip((_RECEIVER, _PLAIN), tools, strict=True))[:: 1 if number % 2 else -1]:
                cost, received = tool()
                yield said(say, started, Sample(name, "receive", number, cost, wire_bytes=received))
            for name in (_FETCH, _COPY)[:: 1 if number % 2 else -1]:
                command = f"cp {plain}/%f %p" if name == _COPY else ""
                yield said(say, started, Sample(name, "replay", number, _replay(bench, receiver, command)))
    finally:
        receiver.remove()
        directories.remove(plain)
        cluster.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots")


def _plain(bench: Bench, directory: Path, end: str) -> tuple[Cost, int]:
    cluster = bench.cluster
    before = sum(path.stat().st_size for path in directory.iterdir())
    command = (
        cluster.version.tool("pg_receivewal"), "-D", directory, "-d", cluster.dsn(), "--slot=plain", "--no-loop",
        f"--endpos={end}",
    )  # fmt: skip
    cost = bench.run(*command, served=True, cwd=directory).cost
    return cost, sum(path.stat().st_size for path in directory.iterdir()) - before


def _replay(bench: Bench, receiver: Receiver, command: str) -> Cost:
    """Start a server on the restored backup; until it has replayed everything and answers."""
    folder = bench.folder("restored")
    data = folder / "data"
    options = ["hot_standby=off", "fsync=off", "shared_buffers=256MB", "archive_mode=off"]
    try:
        receiver.run("restore", receiver.settings, "bench", data, "0", "latest")
        directories.give_tree(data, unprivileged_user())
        if command:
            options.append(f"restore_command={command}")
        arguments = [argument for option in options for argument in ("-c", option)]
        server = PgCluster.of_directory(bench.cluster.version, data, arguments=arguments)
        with _in_environment(receiver.environment):
            begin = time.monotonic()
            server.start(timeout_s=1800)
        seconds = time.monotonic() - begin
        cpu_s = server_s(server.pid)
        server.stop("immediate")
        return Cost(seconds, 0.0, cpu_s, 0.0, 0.0)
    finally:
        directories.remove(folder)


@contextmanager
def _in_environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


ARCHIVE = Suite(
    name="archive",
    title="Write-ahead log: received and replayed",
    conditions=(
        "Each round writes log, which both receivers drain; then a server replays all log of all rounds so far, from"
        " the archive and from a directory of plain files. 150 MB/s are 6.7 s a GB."
    ),
    contenders=lambda bench: [Receiver(bench, _RECEIVER)],
    play=play,
    targets=(
        Target("WAL received, sealed and stored (s/GB)", "receive", "seconds a GB", _RECEIVER, "", 6.67),
        Target("memory of the receiver, whole process (MiB)", "receive", "whole memory", _RECEIVER, "", 256),
        Target("replay with wal fetch", "replay", "wall", _FETCH, _COPY, 1.10),
    ),
    space_per_gb=5.0,
)
