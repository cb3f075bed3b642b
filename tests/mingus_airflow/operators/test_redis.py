"""The operators of Redis around the engine's real jobs: a real server, real repositories; no scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mingus_airflow.operators import (
    EncryptAndShipOperator,
    RedisAofOperator,
    RedisRecoveryPlanOperator,
    RedisSnapshotOperator,
    RestoreVerifyOperator,
)
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.wiring import load_settings
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.initialise import initialise
from mingus_engine.jobs.redis.windows import windows
from mingus_engine.settings import Settings
from tests.support.directories import make_directory
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer

pytestmark = pytest.mark.airflow

PASSWORD = "pw-of-a-real-redis"  # not a secret


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    server = make_redis(requirepass=PASSWORD, appendonly="yes", aof_timestamp_enabled="yes")
    server.fill(500, ttl_s=86400)
    return server


@pytest.fixture
def settings(airflow_home: Path, workspace: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A source of the server that its Airflow connection says how to reach: once by its files, once without them."""
    make_directory(workspace / "scratch")
    common = {
        "kind": "redis",
        "repository": "primary",
        "ship_to": ["offsite"],
        "verify": {"scratch_directory": str(workspace / "scratch")},
    }
    redis = {"airflow_connection": "a_redis", "connection": {"password_env": ""}}
    document = {
        "state_directory": str(workspace / "state"),
        "repositories": [{"name": name, "path": str(workspace / name)} for name in ("primary", "offsite")],
        "sources": [
            {"id": "remote", **common, "redis": redis},
            {"id": "here", **common, "redis": {**redis, "data_directory": str(server.directory)}},
        ],
    }
    path = workspace / "mingus.yaml"
    path.write_text(yaml.safe_dump(document))
    connection = {"conn_type": "redis", "host": "127.0.0.1", "port": server.port, "password": PASSWORD}
    monkeypatch.setenv("MINGUS_CONFIG", str(path))
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEY", "7e" * 32)
    monkeypatch.setenv("AIRFLOW_CONN_A_REDIS", json.dumps(connection))
    loaded = load_settings()
    for name in ("primary", "offsite"):
        initialise(loaded, name, context=JobContext())
    return loaded


def execute(operator: EngineOperator) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)
    return operator.execute({"ti": ti, "dag_run": SimpleNamespace(run_type=None, triggering_user_name=None)})


def test_a_snapshot_is_backed_up_shipped_proven_and_planned_to_be_restored(settings: Settings, workspace: Path) -> None:
    backup = execute(RedisSnapshotOperator(task_id="b", source="remote"))
    shipped = execute(EncryptAndShipOperator(task_id="s", source="remote", snapshot=backup))
    assert shipped["bytes_put"] > 0
    proof = execute(RestoreVerifyOperator(task_id="v", source="remote", snapshot=backup))
    assert (proof["ok"], proof["repository"], proof["level"]) == (True, "offsite", "L4")
    order = {"source": "remote", "mode": "restore", "directory": str(workspace / "restored")}
    plan = execute(RedisRecoveryPlanOperator(task_id="p", order=order))
    assert (plan["snapshot"], plan["files"], plan["mode"]) == (backup["snapshot"], 2, "restore")
    assert not (workspace / "restored").exists()
    assert len(json.dumps([backup, shipped, proof, plan])) < 32768
    assert PASSWORD not in json.dumps([backup, shipped, proof, plan])


def test_the_plan_for_a_running_server_counts_the_keys_that_are_asked_for_and_there(settings: Settings) -> None:
    backup = execute(RedisSnapshotOperator(task_id="b", source="remote"))
    order = {"source": "remote", "mode": "extract", "into": "here", "keys": ["session:1?"], "conflict": "skip"}
    plan = execute(RedisRecoveryPlanOperator(task_id="p", order=order))
    assert (plan["snapshot"], plan["selected"], plan["other"]) == (backup["snapshot"], 10, 490)


def test_an_append_only_file_is_shipped_as_a_snapshot_of_its_own(settings: Settings, server: RedisServer) -> None:
    report = execute(RedisAofOperator(task_id="b", source="here"))
    assert server.execute("CONFIG", "GET", "auto-aof-rewrite-percentage")[1] == b"100"
    shipped = execute(EncryptAndShipOperator(task_id="s", source="here", snapshot=report))
    assert shipped["snapshot"] == report["snapshot"]
    assert shipped["bytes_put"] > 0
    assert execute(RestoreVerifyOperator(task_id="v", source="here", snapshot=report))["ok"] is True


def test_the_command_stream_reaches_the_last_repository_too(settings: Settings, server: RedisServer) -> None:
    """Two drains: the first takes a snapshot to begin with, the second continues it."""
    for number in range(2):
        server.execute("SET", "counter", str(number))
        report = execute(RedisAofOperator(task_id="b", source="remote"))
        execute(EncryptAndShipOperator(task_id="s", source="remote", snapshot=report))
    found = windows(settings, "remote", "offsite", context=JobContext())
    (window,) = found.repositories[0]["windows"]
    assert (window["end_offset"], found.repositories[0]["gaps"]) == (report["position"], [])
    assert found.restorable_to >= report["reaches"]
