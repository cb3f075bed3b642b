"""What is told of a task that is green."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mingus_airflow import alert_events
from mingus_engine.alerts.telling import Teller
from mingus_engine.settings import Settings, parse

pytestmark = pytest.mark.airflow


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return parse("state_directory: state\nrepositories: [{name: a, path: a}]\nsources: [{id: ledger}]", base=tmp_path)


def context(run: str) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="backup_postgres_full", run_id=run, task_id="source.back_up", map_index=0)
    return {"ti": ti, "task": SimpleNamespace(source="ledger"), "params": {}}


def flagged(snapshot: str) -> dict[str, Any]:
    return {"flagged": True, "snapshot": snapshot, "checks": [{"name": "page checksums", "ok": False, "detail": "2"}]}


def test_a_second_flagged_snapshot_is_told_and_the_same_one_is_not_told_again(settings: Settings) -> None:
    told: list[str] = []
    teller = Teller(settings, {"mail": lambda message: told.append(message.subject)})
    for run, snapshot in (("r1", "01K1"), ("r1", "01K1"), ("r2", "01K2")):
        for event in alert_events.findings(flagged(snapshot), settings, context(run)):
            teller.tell(event)
    assert told == [f"[MINGUS] Critical: flagged snapshot {ulid}: ledger" for ulid in ("01K1", "01K2")]
