"""Servers that are restored into, as the settings name them."""

from __future__ import annotations

import pytest

from mingus_engine.errors import SettingsError
from mingus_engine.settings import parse

SETTINGS = """
repositories: [{name: here, path: /r}]
sources:
  - {id: ledger}
  - {id: sessions, kind: redis, redis: {airflow_connection: sessions_redis, connection: {host: redis.example}}}
destinations:
  - {name: reporting, connection: {host: reporting.example}}
  - {name: staging, kind: redis, redis: {connection: {host: staging.example, cluster: true}}}
"""


def test_each_kind_has_its_own_destinations_and_sources_stand_for_theirs() -> None:
    settings = parse(SETTINGS)
    assert settings.destination("staging", "redis").redis.connection.cluster
    found = settings.destination("sessions", "redis")
    assert (found.kind, found.redis.connection.host) == ("redis", "redis.example")
    assert found.airflow_connection == "sessions_redis"
    assert settings.destination("reporting").connection.host == "reporting.example"


@pytest.mark.parametrize(("name", "kind"), [("staging", "postgres"), ("ledger", "redis")])
def test_one_of_the_other_kind_is_refused(name: str, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"destination '{name}' is of kind"):
        parse(SETTINGS).destination(name, kind)


def test_the_nearest_of_that_kind_is_named() -> None:
    with pytest.raises(SettingsError, match="did you mean 'staging'"):
        parse(SETTINGS).destination("stagin", "redis")
    with pytest.raises(SettingsError, match=r"known: ledger, reporting$"):
        parse(SETTINGS).destination("xyz")


@pytest.mark.parametrize(
    ("entry", "key"),
    [("{name: a, kind: redis, connection: {host: b}}", "connection"), ("{name: a, redis: {}}", "redis")],
)
def test_a_key_of_another_kind_is_refused(entry: str, key: str) -> None:
    with pytest.raises(SettingsError, match=rf"destinations\[0\]: '{key}' is a key of"):
        parse(f"repositories: [{{name: here, path: /r}}]\ndestinations: [{entry}]")
