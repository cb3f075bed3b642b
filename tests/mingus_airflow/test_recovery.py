"""The order of a recovery: what is understood, what is refused, and what its digest covers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_engine.errors import SettingsError

pytestmark = pytest.mark.airflow

RESTORE = {"source": "ledger", "mode": "restore", "directory": "/restored"}
PLAN = {"snapshot": "01KSNAP", "repository": "primary", "bytes": 5}


def test_what_is_left_out_and_what_is_empty_are_the_same_order() -> None:
    spoken = {**RESTORE, "snapshot": None, "repository": "", "tablespaces": []}
    assert PostgresOrder.parse(spoken) == PostgresOrder.parse(RESTORE) == PostgresOrder.parse(json.dumps(RESTORE))
    assert PostgresOrder.parse(spoken).digest(PLAN) == PostgresOrder.parse(RESTORE).digest(PLAN)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**RESTORE, "directry": "/x"}, "has no parameter 'directry'; did you mean 'directory'"),
        ({"mode": "drill"}, "'source' is missing"),
        ({**RESTORE, "mode": "destroy"}, "mode 'destroy' is none of"),
        ({**RESTORE, "directory": "relative"}, "not an absolute path"),
        ({**RESTORE, "directory": ""}, "needs the parameter 'directory'"),
        ({**RESTORE, "mode": "drill"}, "'directory' is for mode 'restore'"),
        ({**RESTORE, "timeline": 2}, "'timeline' and 'exclusive' need the parameter 'to'"),
        ({"source": "ledger", "mode": "drill", "to": "latest", "timeline": 2}, "are for the other modes"),
        ({**RESTORE, "tablespaces": ["16400"]}, "not of the form OID=/DIR"),
        ({**RESTORE, "tablespaces": "16400=/x"}, "cannot be '16400=/x'"),
        ({**RESTORE, "overwrite": "yes"}, "cannot be 'yes'"),
        ({"source": "ledger", "mode": "extract", "what": "crm"}, "needs the parameter 'into'"),
        (
            {"source": "ledger", "mode": "extract", "what": "crm", "into": "postgresql://evil.example/"},
            "not an address",
        ),
        ("no json", "not a JSON object"),
        ("[1]", "not a JSON object"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PostgresOrder.parse(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"directory": "/elsewhere"},
        {"snapshot": "01KOTHER"},
        {"source": "crm"},
        {"repository": "offsite"},
        {"tablespaces": ["16400=/x"]},
    ],
)
def test_every_parameter_changes_the_digest(change: dict[str, Any]) -> None:
    assert PostgresOrder.parse({**RESTORE, **change}).digest(PLAN) != PostgresOrder.parse(RESTORE).digest(PLAN)


@pytest.mark.parametrize("change", [{"snapshot": "01KOTHER"}, {"repository": "offsite"}, {"more": 1}])
def test_every_word_of_the_plan_changes_the_digest(change: dict[str, Any]) -> None:
    order = PostgresOrder.parse(RESTORE)
    assert order.digest({**PLAN, **change}) != order.digest(PLAN)
