"""Snapshots of Redis with the command line alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mingus_engine.cli.support import Cli
from tests.support.fixtures import MakeRedis
from tests.support.redis import RedisServer


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    return make_redis(requirepass="sessions-password", save="3600 1")


@pytest.fixture
def sessions(workspace: Path, server: RedisServer) -> Cli:
    cli = Cli(workspace)
    cli.environment |= {"REDIS_PASSWORD": "sessions-password"}
    cli.secrets.append("sessions-password")
    cli.write_settings(f"""
state_directory: state
repositories: [{{name: primary, path: one}}]
sources:
  - id: sessions
    kind: redis
    redis: {{connection: {{host: 127.0.0.1, port: {server.port}}}}}
""")
    assert cli("init", "primary").code == 0
    return cli


def test_a_snapshot_is_checked_beforehand_and_taken(sessions: Cli, server: RedisServer) -> None:
    empty = sessions("check", "sessions")
    assert empty.code == 7
    assert re.search(r"source sessions +keys +FAILED +no key: a snapshot fails", empty.text)
    refused = sessions("backup", "sessions")
    assert refused.code == 7
    assert "holds no key" in refused.err
    assert "may_be_empty" in refused.err
    server.fill(100, ttl_s=3600)
    assert sessions("check", "sessions").code == 0
    taken = sessions("backup", "sessions")
    assert taken.code == 0, taken.text + taken.err
    assert re.search(r"^kind +redis full$", taken.text, re.MULTILINE)
    assert re.search(r"^server +redis 7\.\S+, RDB \d+$", taken.text, re.MULTILINE)
    assert re.search(rf"^read from +primary 127.0.0.1:{server.port}, offset \d+$", taken.text, re.MULTILINE)
    report = sessions("backup", "sessions", "--json").document
    assert (report["keys"], report["shards"][0]["keys"], report["flagged"]) == (100, 100, False)
    (newest, *_) = sessions("list", "--json").document["snapshots"]
    shown = sessions("show", newest["snapshot"], "--json").document
    assert "sessions-password" not in str(shown)


def test_an_increment_is_refused_before_anything_is_asked(sessions: Cli, server: RedisServer) -> None:
    server.kill()
    refused = sessions("backup", "sessions", "--incremental")
    assert refused.code == 2
    assert "always a full one" in refused.err
    gone = sessions("backup", "sessions")
    assert gone.code == 7
    assert f"127.0.0.1:{server.port}" in gone.err
