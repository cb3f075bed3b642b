"""Restore tests of Redis: what is proven, and what refutes a snapshot on which rung."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.checks import Check
from mingus_engine.jobs.verify import VerifyReport
from tests.support.fixtures import MakeRedis
from tests.support.redis_data import fill_every_encoding
from tests.support.redis_snapshots import RedisRepository


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> RedisRepository:
    return RedisRepository.make(workspace / "i", monkeypatch)


def check_of(report: VerifyReport, name: str) -> Check:
    """The check *name*."""
    (found,) = (check for check in report.checks if check["name"] == name)
    return Check(**found)


def test_every_encoding_is_proven(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis()
    keys = fill_every_encoding(server)
    repository.take(server)
    report = repository.verify()
    assert report.ok
    assert sum(check_of(report, "L4 keys").data["databases"].values()) == keys
    assert check_of(report, "L4 sampled keys").data == {"keys": keys, "missing": 0, "changed": 0, "expired": 0}
    assert check_of(report, "L4 function libraries").ok
    assert report.rto_s is not None
    assert report.rpo_s is not None
