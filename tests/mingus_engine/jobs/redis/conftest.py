"""Fixtures of tests of restoring Redis: into running servers, into directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mingus_engine.jobs.redis.restoring import saved
from tests.support.redis import RedisServer
from tests.support.redis_snapshots import RedisRepository


@pytest.fixture(scope="package")
def sessions(session_directory: Path) -> bytes:
    """An RDB of 20,000 sessions in database 0."""
    with RedisServer(session_directory / "sessions", {}) as server:
        server.start().fill(20000, ttl_s=3600)
        return saved(server)


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> RedisRepository:
    """A repository for the source ``sessions``."""
    return RedisRepository.make(workspace / "i", monkeypatch)
