"""The DAGs that check health."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.airflow


def test_the_check_runs_nightly_and_the_probe_every_five_minutes(dag_bag: Any) -> None:
    check, probe = dag_bag.dags["health_check"], dag_bag.dags["probe"]
    assert "0 4 * * *" in check.timetable.expression
    assert "*/5 * * * *" in probe.timetable.expression
    assert (check.max_active_runs, probe.max_active_runs) == (1, 1)
    assert not check.catchup
    assert probe.task_dict["probe"].execution_timeout == timedelta(minutes=15)
