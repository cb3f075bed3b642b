"""Backups shared by the tests of this folder, and what each test leaves closed."""

import pytest

from tests.mingus_engine.targets.postgres.backups import LEDGER, OPEN_TARGETS, take
from tests.support.postgres import PgCluster


@pytest.fixture(scope="session")
def backups(pg_versions, session_directory):
    """One backup per major version, of a cluster with a tablespace, taken while it was written to."""
    made = {}
    folder = session_directory / "target-backups"
    folder.mkdir()
    folder.chmod(0o755)

    def of(major):
        if major not in made:
            with PgCluster.create(pg_versions[major], folder / f"c{major}") as cluster:
                cluster.start()
                cluster.create_tablespace("far")
                cluster.execute(*LEDGER)
                cluster.pgbench_init()
                with cluster.pgbench():
                    made[major] = take(cluster, folder / f"b{major}")
        return made[major]

    return of


@pytest.fixture
def backup(backups, pg_version):
    return backups(pg_version.major)


@pytest.fixture(autouse=True)
def targets_are_closed():
    yield
    while OPEN_TARGETS:
        OPEN_TARGETS.pop().close()
