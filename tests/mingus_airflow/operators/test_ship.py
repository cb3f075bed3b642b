"""What is counted of shipping: each repository by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

from mingus_airflow import metrics
from mingus_airflow.operators import EncryptAndShipOperator
from mingus_engine.errors import StoreError
from tests.mingus_airflow.support import FakeEngine

pytestmark = pytest.mark.airflow


@pytest.fixture
def sent(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Name and repository of each metric."""
    found: list[tuple[str, str]] = []

    def send(name: str, labels: Mapping[str, str], deed: object) -> None:
        found.append((name, labels.get("repository", "")))

    monkeypatch.setattr(metrics, "_send", send)
    return found


def context() -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)
    return {"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name=None)}


def test_each_repository_that_was_shipped_to_is_a_try(engine: FakeEngine, sent: list[tuple[str, str]]) -> None:
    EncryptAndShipOperator(task_id="ship", source="ledger").execute(context())
    names = ("ship_success_total", "ship_duration_seconds")
    assert sent == [(name, repository) for repository in ("offsite", "vault") for name in names]


def test_a_failure_is_counted_of_the_repository_that_failed(engine: FakeEngine, sent: list[tuple[str, str]]) -> None:
    def fail(*_: Any) -> None:
        if engine.calls[-1][2]["destination"] == "vault":
            raise StoreError("vault does not answer")

    engine.act["ship"] = fail
    with pytest.raises(AirflowException, match="vault does not answer"):
        EncryptAndShipOperator(task_id="ship", source="ledger").execute(context())
    assert sent == [
        ("ship_success_total", "offsite"), ("ship_duration_seconds", "offsite"), ("ship_failure_total", "vault"),
    ]  # fmt: skip


def test_where_there_is_one_repository_only_nothing_is_counted(engine: FakeEngine, sent: list[tuple[str, str]]) -> None:
    EncryptAndShipOperator(task_id="ship", source="crm").execute(context())
    assert sent == []
