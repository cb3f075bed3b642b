"""From Airflow connections to plain values, and what the log masker is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mingus_airflow.connections import mask_secrets, redacted, resolve
from mingus_airflow.wiring import load_settings
from mingus_engine.errors import SettingsError
from tests.mingus_airflow.support import KEY, PASSWORD

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
