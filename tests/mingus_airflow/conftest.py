"""Airflow for the tests of the adapters: own home, own metadata database, set up once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mingus_airflow.support import (
    KEY,
    PASSWORD,
    SESSIONS_PASSWORD,
    SETTINGS,
    FakeEngine,
    airflow_home_of_this_process,
)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    return airflow_home_of_this_process()


@pytest.fixture
def settings_file(airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of three sources, the Airflow connections of two, and the key; named by ``MINGUS_CONFIG``."""
    path = tmp_path / "mingus.yaml"
    path.write_text(SETTINGS)
    connection = {"conn_type": "postgres", "host": "10.0.0.5", "login": "mingus", "password": PASSWORD}
    connection["extra"] = json.dumps({"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "connect_timeout": "3"})
    monkeypatch.setenv("MINGUS_CONFIG", str(path))
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER_DB", json.dumps(connection))
    redis = {"conn_type": "redis", "host": "10.0.0.8", "password": SESSIONS_PASSWORD}
    monkeypatch.setenv("AIRFLOW_CONN_SESSIONS_REDIS", json.dumps(redis))
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEY", KEY)
    return path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Engine jobs that only pretend."""
    fake = FakeEngine()
    fake.install(monkeypatch)
    return fake
