"""Installations of a test, and clusters with a ledger that a module shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.integration import ledger
from tests.support import directories
from tests.support.installation import Installation
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster

Install = Callable[..., Installation]
# Two backups of a cluster that nobody uses are equal, byte for byte, only where nobody works by itself.
QUIET = {"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h"}


@pytest.fixture
def install(workspace: Path) -> Iterator[Install]:
    """``install(cluster, …)`` as ``Installation.make``, below the test's workspace."""
    with ExitStack() as made:
        numbers = count()

        def make(cluster: PgCluster, **options: Any) -> Installation:
            return made.enter_context(Installation.make(workspace / f"i{next(numbers)}", cluster, **options))

        yield make


@pytest.fixture(scope="module")
def module_directory(session_directory: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for what a module's tests share."""
    path = directories.make_directory(session_directory / f"m{abs(hash(request.node.nodeid)) % 10**6}")
    yield path
    directories.remove(path)


@pytest.fixture(scope="module")
def books(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[PgCluster]:
    """A quiet PostgreSQL 15 with a ledger in the database postgres, shared by the tests of a module."""
    with PgCluster.create(pg_versions[15], module_directory / "books", conf=QUIET) as cluster:
        cluster.start()
        ledger.furnish(cluster)
        yield cluster
