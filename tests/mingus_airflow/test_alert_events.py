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


def flagged(snapshot: str, found: str) -> dict[str, Any]:
    checks = [
        {"name": "page checksums", "ok": False, "detail": found},
        {"name": "size", "ok": True, "detail": snapshot},
    ]
    return {"flagged": True, "snapshot": snapshot, "checks": checks}


def test_what_was_found_is_told_once_and_anything_else_at_once(settings: Settings) -> None:
    told: list[str] = []
    teller = Teller(settings, {"mail": lambda message: told.append(message.text)})
    for run, snapshot, found in (("r1", "01K1", "block 7"), ("r2", "01K2", "block 7"), ("r3", "01K3", "blocks 7, 9")):
        for event in alert_events.findings(flagged(snapshot, found), settings, context(run)):
            teller.tell(event)
    assert [text.partition("snapshot 01K")[2][:1] for text in told] == ["1", "3"]
