"""What an increment of transport `sql` sends and takes: ``python -m benchmarks.sql_increment``.

In each round: a full backup over the replication protocol, a full one over SQL, then 1 % of the pages of the largest
table are changed, far from each other, and an increment is taken over SQL. Prints wall and CPU seconds, the engine's
memory, and what came over the data connections.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median

from benchmarks import cluster as clusters
from benchmarks import places
from benchmarks.__main__ import _copied, _prioritise
from benchmarks.contenders import Bench, Mingus
from benchmarks.measuring import Cost
from tests.support.postgres import PgCluster

_CHANGE = """
UPDATE pgbench_accounts SET abalance = abalance + 1
WHERE ctid IN (SELECT format('(%%s,1)', n)::tid FROM generate_series(%s, (SELECT relpages FROM pg_class
               WHERE relname = 'pgbench_accounts') - 1, 100) n)
"""


class Remote(Mingus):
    """A source of one transport whose repository stays, so that there is a parent."""

    def take(self, *, incremental: bool) -> tuple[Cost, int]:
        """A backup by the command line; its cost and the bytes that the source gave."""
        kind = "--incremental" if incremental else "--full"
        command = (sys.executable, "-m", "mingus_engine", "--config", self._settings, "--json", "backup", "bench", kind)
        outcome = self.bench.run(*command, env=self._environment, cwd=self._home, served=True)
        report = json.loads(outcome.output)
        wanted = "postgres incremental" if incremental else "postgres full"
        if report["kind"] != wanted:
            raise AssertionError(f"{report['kind']} instead of {wanted}: {report['reasons']}")
        return outcome.cost, report["bytes_given"]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sql_increment", description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the database (1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--nice", type=int, default=0, help="priority of everything that is measured (needs root)")
    options = parser.parse_args()
    _prioritise(options.nice)
    with places.place(options.gb, None, keep=False) as place:
        code = _copied(place.directory / "code")
        cluster = clusters.make(place.directory, options.gb)
        try:
            _measure(Bench(cluster, place.directory, code), cluster, options.rounds)
        finally:
            cluster.stop("fast")


def _measure(bench: Bench, cluster: PgCluster, rounds: int) -> None:
    found: dict[str, list[tuple[Cost, int]]] = {"full, replication": [], "full, sql": [], "increment, sql": []}
    for number in range(rounds):
        for transport in ("replication", "sql"):
            cluster.execute("CHECKPOINT")
            remote = Remote(bench, f"mingus {transport}", transport=transport, restores=False)
            remote.prepare()
            found[f"full, {transport}"].append(remote.take(incremental=False))
            if transport == "sql":
                # Its pages are written by the checkpoint of the backup, as those of any load are.
                cluster.execute(_CHANGE % number)
                found["increment, sql"].append(remote.take(incremental=True))
            remote.remove()
    for name, taken in found.items():
        costs = [cost for cost, _ in taken]
        print(
            f"{name:18} {median(c.wall_s for c in costs):6.2f} s, CPU {median(c.cpu_s for c in costs):6.2f} s"
            f" (server {median(c.server_s for c in costs):.2f} s), {median(c.peak_mib for c in costs):.0f} MiB,"
            f" {median(given for _, given in taken) / 1e6:.1f} MB came"
        )


if __name__ == "__main__":
    main()
