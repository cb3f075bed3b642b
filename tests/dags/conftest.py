"""DAGs as Airflow parses them, with settings of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mingus_airflow.conftest import airflow_home, engine, settings_file
from tests.mingus_airflow.support import ROOT

__all__ = ["airflow_home", "engine", "settings_file"]


def parse(path: Path) -> Any:
    """The DagBag of a file or directory, without deadlines and without what is called when a run fails.

    ``dag.test()`` of Airflow 3.3 breaks off on the first, and on the second where a parameter has no default.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=path)
    for dag in bag.dags.values():
        dag.deadline = None
        dag.on_failure_callback = None
        dag.has_on_failure_callback = False
    return bag


@pytest.fixture
def dag_bag(settings_file: Path) -> Any:
    """All DAGs of dags/."""
    return parse(ROOT / "dags")


@pytest.fixture
def dag(dag_bag: Any) -> Any:
    """The nightly backup."""
    return dag_bag.dags["backup_postgres_full"]


@pytest.fixture(scope="session")
def metadata_database(airflow_home: Path) -> Iterator[Path]:
    """Airflow's metadata database, as ``dag.test()`` needs it; made once."""
    from airflow.utils import db

    db.initdb()
    return airflow_home
