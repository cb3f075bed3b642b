"""Buttons on a task's page."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf


class ReportLink(BaseOperatorLink):
    """Opens what the task returned: snapshot id, sizes, checks, RTO. Without it one must know to look under XCom."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The address of the task's XCom page."""
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        mapped = f"/mapped/{ti_key.map_index}" if ti_key.map_index is not None and ti_key.map_index >= 0 else ""
        # run ids contain "+00:00", which an address must not carry bare.
        return f"{base}/dags/{ti_key.dag_id}/runs/{quote(ti_key.run_id)}/tasks/{ti_key.task_id}{mapped}/xcom"
