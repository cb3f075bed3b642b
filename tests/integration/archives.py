"""What is archived, compared with what the server has."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from mingus_engine import lsn as lsns
from mingus_engine.repository import log_index, logs, names, records
from mingus_engine.repository.log_index import LogIndex
from tests.support import processes
from tests.support.installation import FIRST, SOURCE, Installation
from tests.support.postgres import PgCluster


def index_of(mingus: Installation, repository: str = FIRST) -> LogIndex:
    """The logs of a repository."""
    with mingus.opened(repository) as opened:
        return log_index.list_logs(opened, SOURCE)


def system_id(cluster: PgCluster) -> int:
    """The cluster's system identifier."""
    return int(cluster.value("select system_identifier from pg_control_system()")) & 0xFFFFFFFFFFFFFFFF


def archived(mingus: Installation, cluster: PgCluster, timeline: int, repository: str = FIRST) -> dict[int, bytes]:
    """Start → contents of each stretch of a timeline, read from the fewest containers and opened."""
    found = {}
    with mingus.opened(repository) as opened:
        stored = log_index.list_logs(opened, SOURCE).timeline(system_id(cluster), timeline)
        for stretch in stored.stretches():
            data = bytearray(stretch.end - stretch.start)
            for log in stored.covering(*stretch):
                at = log.name.start - stretch.start
                for chunk in logs.LogReader(opened, SOURCE, logs.reference(opened, *log)).chunks():
                    data[at : at + len(chunk)] = chunk
                    at += len(chunk)
            found[stretch.start] = bytes(data)
    return found


def compare(mingus: Installation, cluster: PgCluster, timeline: int = 1, repository: str = FIRST) -> int:
    """Prove that what is archived without a gap is byte for byte what the server has, as far as it has it still.

    Gives the LSN up to which it is archived.
    """
    stretches = archived(mingus, cluster, timeline, repository)
    assert len(stretches) == 1, f"{len(stretches)} stretches: there is a gap"
    ((start, data),) = stretches.items()
    size = int(cluster.value("select setting from pg_settings where name = 'wal_segment_size'"))
    compared = 0
    at = start
    while at < start + len(data):
        take = min(size - at % size, start + len(data) - at)
        file = cluster.data_directory / "pg_wal" / lsns.segment_name(timeline, at, size)
        if file.exists():
            part = file.read_bytes()[at % size : at % size + take]
            assert part == data[at - start : at - start + take], f"{file.name} differs from what is archived"
            compared += take
        at += take
    assert compared
    return start + len(data)


def declared_gaps(mingus: Installation, repository: str = FIRST) -> list[dict[str, object]]:
    """The gaps that are declared in a repository."""

    with mingus.opened(repository) as opened:
        found = [names.record(info.name) for info in opened.store.list(f"records/{SOURCE}/")]
        audits = [opened.get_record(name) for name in found if name and name.kind == records.AUDIT]
        return [dict(record.facts) for record in audits if record.facts["event"] == "wal gap"]


def write_wal(cluster: PgCluster, mib: int = 1) -> None:
    """Write about so many MiB of log."""
    if mib:
        cluster.execute(
            "create table if not exists w (b text)",
            f"insert into w select repeat(md5(g::text), 30) from generate_series(1, {mib * 1000}) g",
        )


@contextmanager
def streaming(mingus: Installation, *arguments: str) -> Iterator[Popen[bytes]]:
    """A ``mingus wal stream`` of its own process; killed at the end if it still runs."""
    log = (mingus.root / f"stream-{secrets.token_hex(4)}.log").open("wb")
    plugins = Path(__file__).resolve().parents[2] / "plugins"
    with log:
        service = processes.start(
            [sys.executable, "-m", "mingus_engine", "wal", "stream", SOURCE, "--config",
             str(mingus.root / "mingus.yaml"), *arguments],
            log=log, env={**mingus.environment, "PYTHONPATH": str(plugins)}, cwd=mingus.root,
        )  # fmt: skip
        try:
            yield service
        finally:
            processes.stop(service)
