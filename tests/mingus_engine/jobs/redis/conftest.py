from pathlib import Path

import pytest

from tests.support.redis_snapshots import RedisRepository


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> RedisRepository:
    """A repository for the source ``sessions``."""
    return RedisRepository.make(workspace / "i", monkeypatch)
