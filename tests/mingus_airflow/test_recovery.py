"""The order of a recovery: what is understood, what is refused, and what its digest covers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mingus_airflow.recovery_files import FilesOrder
from mingus_airflow.recovery_postgres import PostgresOrder
from mingus_airflow.recovery_redis import RedisOrder
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


class TestRedis:
    EXTRACT: ClassVar[dict[str, Any]] = {"source": "sessions", "mode": "extract", "into": "spare"}

    def test_what_is_said_of_keys_becomes_arguments_of_the_job(self) -> None:
        order = RedisOrder.parse(
            {**self.EXTRACT, "keys": ["session:*"], "databases": ["0", "3"], "database_map": ["3=1"]}
        )
        assert order.extraction() == {
            "into": "spare",
            "keys": ("session:*",),
            "databases": (0, 3),
            "database_map": {3: 1},
            "conflict": "fail",
            "rate_keys_per_s": 0,
            "functions": False,
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"conflict": "overwrite"}, "conflict 'overwrite' is none of fail, skip, replace"),
            ({"databases": ["first"]}, "'first' is not the number of a database"),
            ({"database_map": ["3"]}, "not of the form OLD=NEW"),
            ({"database_map": ["3=1", "3=2"]}, "says twice"),
            ({"rate_keys_per_s": -1}, "cannot be -1"),
            ({"rate_keys_per_s": True}, "cannot be True"),
            ({"directory": "/x"}, "'directory' is for mode 'restore'"),
            ({"into": "redis://evil.example/0"}, "not an address"),
            ({"into": ""}, "needs the parameter 'into'"),
            ({"mode": "restore", "into": "", "directory": "/x", "form": "csv"}, "form 'csv' is none of rdb, aof"),
            ({"tablespaces": []}, "no parameter 'tablespaces'"),
            ({"mode": "drill"}, "'into' is for mode 'extract'"),
            (
                {"mode": "restore", "into": "", "directory": "/x", "conflict": "skip"},
                "'conflict' is for mode 'extract'",
            ),
        ],
    )
    def test_an_order_that_cannot_be_meant_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            RedisOrder.parse({**self.EXTRACT, **change})

    @pytest.mark.parametrize(
        "change",
        [
            {"keys": ["session:*"]},
            {"databases": ["1"]},
            {"database_map": ["0=1"]},
            {"conflict": "replace"},
            {"rate_keys_per_s": 5},
            {"functions": True},
            {"into": "sessions"},
            {"to": "latest"},
        ],
    )
    def test_every_parameter_changes_the_digest(self, change: dict[str, Any]) -> None:
        assert RedisOrder.parse({**self.EXTRACT, **change}).digest(PLAN) != RedisOrder.parse(self.EXTRACT).digest(PLAN)

    def test_the_same_words_for_another_kind_of_source_are_another_order(self) -> None:
        assert RedisOrder.parse(RESTORE).digest(PLAN) != PostgresOrder.parse(RESTORE).digest(PLAN)


FILES = {"source": "letters", "mode": "extract", "into": "original"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**FILES, "directory": "/x"}, "needs either the parameter 'directory' or 'into'"),
        ({**FILES, "into": ""}, "needs either the parameter 'directory' or 'into'"),
        ({**FILES, "into": "spare"}, "into 'spare' is not 'original'"),
        ({**FILES, "conflict": "replace"}, "conflict 'replace' is none of fail, skip, newer, overwrite"),
        ({**FILES, "owners": "root"}, "owners 'root' is none of ids, names, mine"),
        ({**FILES, "snapshot": "01K", "to": "time:2026-11-23"}, "both say from when"),
        ({"source": "letters", "mode": "restore"}, "needs the parameter 'directory'"),
        ({"source": "letters", "mode": "restore", "directory": "/x", "paths": ["a"]}, "'paths' is for mode 'extract'"),
        ({"source": "letters", "mode": "restore", "directory": "/x", "delta": True}, "'delta' is for mode 'extract'"),
        ({"source": "letters", "mode": "restore", "directory": "/x", "conflict": "skip"}, "'conflict' is for mode"),
        ({"source": "letters", "mode": "drill", "directory": "/x"}, "a drill has its own directory"),
        ({**FILES, "keys": ["a"]}, "has no parameter 'keys'"),
    ],
)
def test_an_order_of_files_that_cannot_be_meant_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        FilesOrder.parse(raw)


def test_an_order_of_files_says_where_to_and_what() -> None:
    order = FilesOrder.parse({**FILES, "paths": ["tree/a"], "conflict": "newer", "to": "time:2026-11-23"})
    assert order.place() == {"original": True}
    assert order.selection() == {
        "paths": ("tree/a",), "patterns": (), "conflict": "newer", "delta": False, "owners": None
    }  # fmt: skip
    there = FilesOrder.parse({"source": "letters", "mode": "restore", "directory": "/x"})
    assert there.place() == {"directory": Path("/x")}
    assert order.digest(PLAN) != FilesOrder.parse({**FILES, "paths": ["tree/b"]}).digest(PLAN)
