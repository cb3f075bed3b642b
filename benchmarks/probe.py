"""The light probe over 100 sources: ``python -m benchmarks.probe [DIRECTORY]``.

Half of them are file sets, each with three snapshots in two repositories; half are a PostgreSQL cluster under as many
ids, each with its own login. Shown are the first probe (everything is opened) and the next ones (what did not change is
not), with the highest resident memory. Target: 60 s and 256 MiB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.health.probe import probe
from mingus_engine.jobs.initialise import initialise
from mingus_engine.jobs.ship import ship
from mingus_engine.settings import load
from tests.support.pg_versions import find_versions
from tests.support.postgres import PgCluster

SOURCES, SNAPSHOTS, PROBES = 100, 3, 3


def main(where: Path) -> None:
    """Make the sources, then probe them in a process of its own."""
    os.environ["BENCH_PROBE_KEY"] = "1" * 64
    version = find_versions(where)[16]
    with PgCluster.create(version, where / "cluster", conf={"max_connections": "200"}) as cluster:
        cluster.start()
        sources: list[dict[str, object]] = []
        for n in range(SOURCES // 2):
            root = where / "files" / f"f{n}"
            root.mkdir(parents=True)
            (root / "a").write_bytes(os.urandom(10_000))
            chain = {"repository": "first", "ship_to": ["second"]}
            sources.append({"id": f"files-{n}", "kind": "files", "files": {"roots": [{"path": str(root)}]}, **chain})
            connection = {"host": str(cluster.socket_directory), "port": cluster.port, "user": "postgres"}
            sources.append({"id": f"pg-{n}", "connection": {**connection, "password_env": ""}, **chain})
        key = {"keys": {"environment": "BENCH_PROBE_KEY"}}
        repositories = [{"name": name, "path": str(where / name), **key} for name in ("first", "second")]
        document = {"state_directory": str(where / "state"), "repositories": repositories, "sources": sources}
        file = where / "mingus.yaml"
        file.write_text(json.dumps(document), encoding="utf-8")
        settings, context = load(file), JobContext()
        for name in ("first", "second"):
            initialise(settings, name, context=context)
        for source in settings.of_kind("files"):
            for n in range(SNAPSHOTS):
                (where / "files" / f"f{source.rpartition('-')[2]}" / str(n)).write_bytes(os.urandom(1000))
                back_up(settings, source, context=context, incremental=True)
            ship(settings, source, origin="first", destination="second", context=context)
        subprocess.run([sys.executable, "-m", "benchmarks.probe", "--measure", str(file)], check=True)


def measure(file: Path) -> None:
    """Probe a few times; a line for each."""
    settings = load(file)
    for number in range(PROBES):
        began, used = time.monotonic(), time.process_time()
        report = probe(settings, context=JobContext())
        took, cpu = time.monotonic() - began, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        failed = report.as_dict()["critical"]
        print(
            f"probe {number + 1}: {took:.1f} s, {cpu:.1f} s of CPU, {peak:.0f} MiB, {len(report.gauges)} gauges,"
            f" {len(report.findings)} checks, {failed} critical"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as made:
            Path(made).chmod(0o755)
            main(Path(made))
