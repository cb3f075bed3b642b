"""Buttons on a task's page."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mingus_airflow.links import ReportLink

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("airflow_home")]

RUN = "scheduled__2026-11-23T02:00:00+00:00"


@pytest.mark.parametrize(("map_index", "mapped"), [(-1, ""), (None, ""), (3, "/mapped/3")])
def test_the_report_link_leads_to_what_the_task_returned(map_index: int | None, mapped: str) -> None:
    key = SimpleNamespace(dag_id="d", run_id=RUN, task_id="source.verify", map_index=map_index)
    assert ReportLink().get_link(None, ti_key=key) == (
        f"http://airflow.example:8080/dags/d/runs/scheduled__2026-11-23T02%3A00%3A00%2B00%3A00"
        f"/tasks/source.verify{mapped}/xcom"
    )
