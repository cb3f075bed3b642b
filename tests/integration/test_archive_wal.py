"""Archiving the write-ahead log of real servers: nothing is missing, nothing is other than the server's own bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from tests.integration.archives import compare, declared_gaps
from tests.support.fixtures import MakeCluster
from tests.support.installation import FIRST, SECOND, Installation
from tests.support.postgres import PgCluster

MIB = 1 << 20


def write_wal(cluster: PgCluster, mib: int = 1) -> None:
    """Write about so many MiB of log."""
    cluster.execute(
        "create table if not exists w (b text)",
        f"insert into w select repeat(md5(g::text), 30) from generate_series(1, {mib * 1000}) g",
    )


@pytest.fixture
def installed(workspace: Path) -> Iterator[list[Installation]]:
    made: list[Installation] = []
    yield made
    for mingus in made:
        mingus.close()


@pytest.mark.parametrize("major", [15, 16, 18])
def test_drains_store_whole_segments_and_slices_of_the_servers_own_bytes(
    make_cluster: MakeCluster, workspace: Path, major: int
) -> None:
    cluster = make_cluster(major, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        for mib in (3, 0, 2):
            if mib:
                write_wal(cluster, mib)
            before = lsns.parse(cluster.flush_lsn())
            report = mingus.archive_wal()
            assert (report.ok, report.gaps, report.streaming) == (True, [], False)
            assert lsns.parse(report.archived_to) >= before
            assert [entry["name"] for entry in report.repositories] == [FIRST, SECOND]
            assert all(entry["canary"]["ok"] for entry in report.repositories)
            assert report.sampled_at is not None
        assert compare(mingus, cluster) == compare(mingus, cluster, repository=SECOND) == lsns.parse(report.archived_to)
        assert declared_gaps(mingus) == []
