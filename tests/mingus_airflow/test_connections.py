"""From Airflow connections to plain values, and what the log masker is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mingus_airflow.connections import mask_secrets, redacted, resolve, resolve_destination
from mingus_airflow.wiring import load_settings
from mingus_engine.errors import SettingsError
from mingus_engine.settings import RedisConnection
from tests.mingus_airflow.support import KEY, PASSWORD, SESSIONS_PASSWORD, SETTINGS

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("settings_file")]


def test_an_airflow_connection_becomes_plain_values() -> None:
    found = resolve(load_settings(), "ledger").source("ledger").connection
    assert (found.host, found.user, found.sslmode, found.sslrootcert) == (
        "10.0.0.5",
        "mingus",
        "verify-full",
        "/etc/ca.pem",
    )
    assert found.connect_timeout_s == 3
    assert found.password is not None
    assert found.password.reveal() == PASSWORD


def test_what_the_airflow_connection_leaves_empty_stays_as_the_settings_say() -> None:
    found = resolve(load_settings(), "ledger").source("ledger").connection
    assert (found.port, found.dbname) == (5433, "ledger")


def test_a_source_without_airflow_connection_keeps_its_settings() -> None:
    settings = load_settings()
    assert resolve(settings, "crm") is settings


def test_a_missing_connection_is_named_with_the_way_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_LEDGER_DB")
    with pytest.raises(SettingsError, match="'ledger_db', which does not exist") as caught:
        resolve(load_settings(), "ledger")
    assert "airflow connections add ledger_db" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conn_type": "mysql"}, "of type 'mysql', not 'postgres'"),
        ({"extra": json.dumps({"connect_timeout": "soon"})}, "no number of seconds"),
        ({"extra": json.dumps({"sslmode": "verify"})}, "sslmode"),
    ],
)
def test_a_connection_that_cannot_be_used_is_refused(
    change: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "postgres", "host": "h", **change}
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER_DB", json.dumps(connection))
    with pytest.raises(SettingsError, match=message):
        resolve(load_settings(), "ledger")


def test_an_unknown_source_is_named_with_its_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'ledger'"):
        resolve(load_settings(), "leger")


def test_every_secret_of_a_source_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINGUS_PASSPHRASE", "four correct horses")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-0815-x")
    mask_secrets(resolve(load_settings(), "ledger"), "ledger")
    text = redacted(f"{PASSWORD} {KEY} four correct horses aws-secret-0815-x and the rest")
    assert text == "*** *** *** *** and the rest"


class TestRedis:
    """Connections of type ``redis``: their "extra" is what Airflow's own hook reads."""

    @pytest.fixture
    def connect(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RedisConnection]:
        def connect(**fields: Any) -> RedisConnection:
            extra = json.dumps(fields.pop("extra", {}))
            monkeypatch.setenv(
                "AIRFLOW_CONN_SESSIONS_REDIS", json.dumps({"conn_type": "redis", "extra": extra, **fields})
            )
            return resolve(load_settings(), "sessions").source("sessions").redis.connection

        return connect

    def test_it_becomes_plain_values_and_what_it_leaves_empty_stays(self, connect: Callable[..., Any]) -> None:
        extra = {"ssl": True, "ssl_ca_certs": "/ca.pem", "ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem", "db": 3}
        found = connect(host="10.0.0.6", login="mingus", password="pw", extra=extra)
        assert (found.host, found.port, found.user, found.tls) == ("10.0.0.6", 6390, "mingus", True)
        assert (found.ca_file, found.cert_file, found.key_file) == ("/ca.pem", "/c.pem", "/k.pem")
        assert found.password is not None
        assert found.password.reveal() == "pw"

    def test_without_ssl_in_it_the_settings_say_whether_to_encrypt(
        self, connect: Callable[..., Any], settings_file: Path
    ) -> None:
        settings_file.write_text(SETTINGS.replace("port: 6390", "port: 6390, tls: true"))
        assert connect(host="h").tls is True
        assert connect(host="h", extra={"ssl": "false"}).tls is False

    def test_a_path_is_a_socket_and_a_host_wins_over_the_socket_of_the_settings(
        self, connect: Callable[..., Any], settings_file: Path
    ) -> None:
        assert connect(host="/run/redis.sock").socket == "/run/redis.sock"
        settings_file.write_text(SETTINGS.replace("port: 6390", "port: 6390, socket: /run/redis.sock"))
        assert connect(login="mingus").socket == "/run/redis.sock"
        assert connect(host="h").socket == ""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"conn_type": "postgres"}, "of type 'postgres', not 'redis'"),
            ({"extra": {"ssl": True, "ssl_cert_reqs": "none"}}, "always verified"),
            ({"extra": {"ssl": True, "ssl_check_hostname": False}}, "always verified"),
            ({"extra": {"ssl": "perhaps"}}, "ssl 'perhaps' is neither true nor false"),
        ],
    )
    def test_one_that_cannot_be_used_or_would_verify_nothing_is_refused(
        self, connect: Callable[..., Any], fields: dict, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            connect(**fields)

    def test_every_secret_of_it_is_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_SENTINEL_PASSWORD", "sentinel-pw-33")
        mask_secrets(resolve(load_settings(), "sessions"), "sessions")
        assert redacted(f"{SESSIONS_PASSWORD} sentinel-pw-33 rest") == "*** *** rest"

    def test_a_destination_is_resolved_and_masked_too_and_its_kind_is_looked_at(
        self, settings_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spare = "destinations:\n  - {name: spare, kind: redis, airflow_connection: spare_redis}\n"
        settings_file.write_text(SETTINGS + spare)
        connection = {"conn_type": "redis", "host": "10.0.0.7", "password": "pw-of-the-spare"}
        monkeypatch.setenv("AIRFLOW_CONN_SPARE_REDIS", json.dumps(connection))
        found = resolve_destination(load_settings(), "spare", "redis").destination("spare", "redis")
        assert found.redis.connection.host == "10.0.0.7"
        assert redacted("pw-of-the-spare") == "***"
        of_source = resolve_destination(load_settings(), "sessions", "redis").destination("sessions", "redis")
        assert of_source.redis.connection.host == "10.0.0.8"
        with pytest.raises(SettingsError, match="of kind redis, not postgres"):
            resolve_destination(load_settings(), "spare")
