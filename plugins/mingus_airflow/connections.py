"""From an Airflow connection to the plain values the engine takes, and every secret known to the log masker."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret, redact

from mingus_engine.errors import SettingsError
from mingus_engine.settings import PostgresConnection, Secret, Settings, read_secret

# libpq's names, as Airflow's own PostgreSQL connections carry them in "extra".
_EXTRAS = {
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
    "sslcert": "sslcert",
    "sslkey": "sslkey",
    "connect_timeout": "connect_timeout_s",
}
_SSL_MODES = typing.get_args(typing.get_type_hints(PostgresConnection)["sslmode"])


def resolve(settings: Settings, source_id: str) -> Settings:
    """*settings* with the connection of one source taken from its Airflow connection, where it names one.

    What the Airflow connection leaves empty stays as the settings say.

    :raises SettingsError: no such source or connection, or the connection is of another type.
    """
    source = settings.source(source_id)
    if not source.airflow_connection:
        return settings
    connection = _resolved(source.connection, source.airflow_connection, f"source {source_id!r}")
    return settings.with_source(dataclasses.replace(source, connection=connection))


def resolve_destination(settings: Settings, name: str) -> Settings:
    """*settings* with the connection of a destination (or a source as one) resolved likewise; its password is masked.

    :raises SettingsError: as :func:`resolve`.
    """
    found = settings.destination(name)
    connection = _resolved(found.connection, found.airflow_connection, f"destination {name!r}")
    secret = connection.password or read_secret(connection.password_env, connection.password_file, what="password")
    if secret is not None and secret.reveal():
        mask_secret(secret.reveal())
    return settings.with_destination(dataclasses.replace(found, connection=connection))


def mask_secrets(settings: Settings, source_id: str) -> None:
    """Tell Airflow's masker every secret that a job of *source_id* may hold, so that none reaches a log.

    The engine does not write secrets anywhere; this guards against the libraries beneath it.
    """
    connection = settings.source(source_id).connection
    secrets = [connection.password, read_secret(connection.password_env, connection.password_file, what="password")]
    for name in settings.chain(source_id):
        repository = settings.repository(name)
        secrets.append(read_secret(repository.keys.environment))
        secrets.append(read_secret(repository.keys.passphrase_env, repository.keys.passphrase_file, what="passphrase"))
        secrets.append(read_secret(repository.s3.secret_access_key_env))
    for secret in secrets:
        if secret is not None and secret.reveal():
            mask_secret(secret.reveal())


def redacted(text: str) -> str:
    """*text* without the secrets of :func:`mask_secrets`.

    Airflow itself masks a task's log where it is stored, but not the copy that ``LocalExecutor`` writes to the
    scheduler's standard output; so texts of the engine are masked before they are logged.
    """
    return str(redact(text))


def _resolved(base: PostgresConnection, name: str, who: str) -> PostgresConnection:
    """*base* with what the Airflow connection *name* says, where one is named."""
    if not name:
        return base
    try:
        found = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise SettingsError(
            f"{who} names the Airflow connection {name!r}, which does not exist",
            hint=f"`airflow connections add {name} --conn-type postgres …`, or give it its own `connection`",
        ) from None
    if found.conn_type not in ("postgres", "postgresql"):
        raise SettingsError(f"the Airflow connection {name!r} is of type {found.conn_type!r}, not 'postgres'")
    return _merged(base, found, name)


def _merged(base: PostgresConnection, found: Any, name: str) -> PostgresConnection:
    values: dict[str, Any] = {
        "host": found.host,
        "port": found.port,
        "user": found.login,
        "dbname": found.schema,
        "password": Secret(found.password) if found.password else None,
    }
    extra = found.extra_dejson
    values |= {field: extra.get(key) for key, field in _EXTRAS.items()}
    if values["sslmode"] not in (None, "", *_SSL_MODES):
        raise SettingsError(f"sslmode {values['sslmode']!r} of the Airflow connection {name!r} is none of libpq's")
    try:
        if values["connect_timeout_s"] is not None:
            values["connect_timeout_s"] = int(values["connect_timeout_s"])
    except (TypeError, ValueError):
        raise SettingsError(f"connect_timeout of the Airflow connection {name!r} is no number of seconds") from None
    return dataclasses.replace(base, **{field: value for field, value in values.items() if value not in (None, "")})
