"""An Airflow in the test's process, settings to point it at, and engine jobs that only pretend."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.jobs import recovery_test
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.jobs.postgres import archive_wal
from mingus_engine.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "pw-of-the-ledger-4711"  # not a secret
SESSIONS_PASSWORD = "pw-of-the-sessions-4712"  # not a secret
KEY = "5c" * 32

SETTINGS = """
time_zone: Europe/Berlin
state_directory: state
repositories:
  - {name: primary, path: primary}
  - {name: offsite, path: offsite}
  - {name: vault, path: vault}
sources:
  - id: ledger
    connection: {host: db.example, port: 5433, user: backup, dbname: ledger}
    airflow_connection: ledger_db
    repository: primary
    ship_to: [offsite, vault]
    verify: {level: L3}
  - id: crm
    connection: {host: crm.example}
    repository: primary
  - id: sessions
    kind: redis
    redis:
      airflow_connection: sessions_redis
      connection: {host: redis.example, port: 6390}
    repository: primary
    ship_to: [offsite]
airflow:
  back_up: {pool: mingus_backup, timeout_s: 600}
  retries: 2
  retry_delay_s: 7
  progress_interval_s: 1
"""


@dataclass(frozen=True, kw_only=True)
class FakeReport(Report):
    """A report with whatever a test wants in it."""

    more: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"job": self.job, "source": self.source, "duration_s": self.duration_s, **self.more}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.more[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class FakeEngine:
    """Stands in for the engine's jobs; notes every call, does what a test says, reports what it says."""

    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    act: dict[str, Callable[[Settings, JobContext], None]] = field(default_factory=dict)
    say: dict[str, dict[str, Any]] = field(default_factory=dict)

    def job(self, name: str, **more: Any) -> Callable[..., FakeReport]:
        def run(settings: Settings, source_id: str, *, context: JobContext, **arguments: Any) -> FakeReport:
            self.calls.append((name, source_id, arguments))
            if name in self.act:
                self.act[name](settings, context)
            return FakeReport(job=name, source=source_id, duration_s=1.5, more={**more, **self.say.get(name, {})})

        return run

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = "01K0000000000000000000LEDG"
        # By the job's module below ``mingus_engine.jobs``; the function is named as its last part.
        reports: dict[str, dict[str, Any]] = {
            "back_up": {
                "snapshot": snapshot,
                "repository": "primary",
                "bytes_read": 1000,
                "bytes_stored": 400,
                "flagged": False,
                "checks": [],
            },
            "ship": {"snapshots": [snapshot], "objects_put": 3, "bytes_put": 400},
            "postgres.archive_wal": {
                "archived_to": "0/3000148",
                "lag_bytes": 7,
                "wal_bytes": 4096,
                "gaps": [],
                "checks": [],
                "repositories": [{"name": "primary", "ok": True}],
            },
            "redis.back_up_aof": {"gaps": [], "checks": [], "bytes_stored": 12},
            "postgres.restore": {
                "snapshot": snapshot,
                "repository": "primary",
                "plan": {"bytes": 1000, "wal_bytes": 16},
            },
            "postgres.windows": {"restorable_from": "2026-11-23T01:00:00+00:00", "restorable_to": None},
            "redis.restore": {"snapshot": snapshot, "repository": "primary", "plan": {"bytes": 500, "form": "rdb"}},
            "files.restore": {
                "snapshot": snapshot,
                "repository": "primary",
                "plan": {"files": 3, "bytes": 300},
                "actions": {"created": {"count": 3, "bytes": 300}},
                "changes": ["+ letters/one"],
            },
            "redis.windows": {"restorable_from": None, "restorable_to": "2026-11-23T01:00:00+00:00"},
            "redis.restore_into": {"snapshot": snapshot, "repository": "primary", "selected": 7, "keys_per_s": 0},
            "recovery_test": {"ok": True, "repository": "primary", "snapshot": snapshot, "rto_s": 2.5},
            "verify": {"snapshot": snapshot, "ok": True, "rto_s": 2.5, "checks": [], "proof": "01K0PROOF"},
        }
        for path, more in reports.items():
            module = types.ModuleType(f"mingus_engine.jobs.{path}")
            name = {"redis.restore": "restore_redis", "files.restore": "restore_files"}.get(path, path.split(".")[-1])
            setattr(module, name, self.job(name, **more))
            if name == "recovery_test":
                module.RecoveryTestFailed = recovery_test.RecoveryTestFailed  # type: ignore[attr-defined]
            if name == "archive_wal":
                module.refuse_incomplete = archive_wal.refuse_incomplete  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)


def airflow_environment(home: Path) -> dict[str, str]:
    """The variables of an Airflow that keeps everything in *home*."""
    options = {
        "CORE__DAGS_FOLDER": ROOT / "dags",
        "CORE__PLUGINS_FOLDER": ROOT / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__UNIT_TEST_MODE": False,
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": home / "passwords.json",
        "API__BASE_URL": "http://airflow.example:8080/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": 120,
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    return {"AIRFLOW_HOME": str(home)} | {f"AIRFLOW__{name}": str(value) for name, value in options.items()}


@functools.cache
def airflow_home_of_this_process() -> Path:
    """A home for the Airflow of this process, also when it was imported before with another one.

    Once per process and not per fixture: what Airflow learnt at import it does not forget.
    """
    home = Path(tempfile.mkdtemp(prefix="mingus-test-airflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(airflow_environment(home))
    from airflow import settings

    settings.initialize()
    return home
