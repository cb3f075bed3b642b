"""From an Airflow connection to the plain values the engine takes, and every secret known to the log masker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret, redact

from mingus_airflow.connection_values import postgres_values, redis_values
from mingus_engine.errors import SettingsError
from mingus_engine.settings import (
    DestinationSettings,
    PostgresConnection,
    RedisConnection,
    Secret,
    Settings,
    SourceSettings,
    read_secret,
)

_C = TypeVar("_C", PostgresConnection, RedisConnection)
# What has a connection.
_Server = TypeVar("_Server", SourceSettings, DestinationSettings)


@dataclass(frozen=True)
class _Kind:
    """What an Airflow connection to a server of one kind is called, and what of it the engine takes."""

    conn_types: tuple[str, ...]
    values: Callable[[Any], dict[str, Any]]


_KINDS: dict[type, _Kind] = {
    PostgresConnection: _Kind(("postgres", "postgresql"), postgres_values),
    RedisConnection: _Kind(("redis",), redis_values),
}


def resolve(settings: Settings, source_id: str) -> Settings:
    """*settings* with the connection of one source taken from its Airflow connection, where it names one.

    What the Airflow connection leaves empty stays as the settings say.

    :raises SettingsError: no such source or connection, or the connection is of another type.
    """
    source = settings.source(source_id)
    name = source.redis.airflow_connection if source.kind == "redis" else source.airflow_connection
    return settings.with_source(_with_resolved(source, name, f"source {source_id!r}")) if name else settings


def resolve_destination(settings: Settings, name: str, kind: str = "postgres") -> Settings:
    """*settings* with the connection of a destination of *kind* (or a source as one) resolved likewise; its secrets are
    masked.

    :raises SettingsError: as :func:`resolve`; or the destination is of another kind.
    """
    found = settings.destination(name, kind)
    if found.airflow_connection:
        found = _with_resolved(found, found.airflow_connection, f"destination {name!r}")
    _mask(*_secrets(_connection(found)))
    return settings.with_destination(found)


def mask_secrets(settings: Settings, source_id: str) -> None:
    """Tell Airflow's masker every secret that a job of *source_id* may hold, so that none reaches a log.

    The engine does not write secrets anywhere; this guards against the libraries beneath it.
    """
    _mask(*_secrets(_connection(settings.source(source_id))))
    for name in settings.chain(source_id):
        repository = settings.repository(name)
        _mask(
            read_secret(repository.keys.environment),
            read_secret(repository.keys.passphrase_env, repository.keys.passphrase_file, what="passphrase"),
            read_secret(repository.s3.secret_access_key_env),
        )


def redacted(text: str) -> str:
    """*text* without the secrets of :func:`mask_secrets`.

    Airflow itself masks a task's log where it is stored, but not the copy that ``LocalExecutor`` writes to the
    scheduler's standard output; so texts of the engine are masked before they are logged.
    """
    return str(redact(text))


def _connection(server: _Server) -> PostgresConnection | RedisConnection:
    return server.redis.connection if server.kind == "redis" else server.connection


def _with_resolved(server: _Server, name: str, who: str) -> _Server:
    """*server* with what the Airflow connection *name* says."""
    if server.kind == "redis":
        connection = _resolved(server.redis.connection, name, who)
        return dataclasses.replace(server, redis=dataclasses.replace(server.redis, connection=connection))
    return dataclasses.replace(server, connection=_resolved(server.connection, name, who))


def _secrets(connection: PostgresConnection | RedisConnection) -> list[Secret | None]:
    found = [connection.password, read_secret(connection.password_env, connection.password_file, what="password")]
    if isinstance(connection, RedisConnection):
        found.append(read_secret(connection.sentinel_password_env))
    return found


def _mask(*secrets: Secret | None) -> None:
    for secret in secrets:
        if secret is not None and secret.reveal():
            mask_secret(secret.reveal())


def _resolved(base: _C, name: str, who: str) -> _C:
    """*base* with what the Airflow connection *name* says."""
    kind = _KINDS[type(base)]
    try:
        found = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise SettingsError(
            f"{who} names the Airflow connection {name!r}, which does not exist",
            hint=f"`airflow connections add {name} --conn-type {kind.conn_types[0]} …`,"
            " or give it its own `connection`",
        ) from None
    if found.conn_type not in kind.conn_types:
        raise SettingsError(
            f"the Airflow connection {name!r} is of type {found.conn_type!r}, not {kind.conn_types[0]!r}"
        )
    try:
        values = kind.values(found)
    except ValueError as error:
        raise SettingsError(f"the Airflow connection {name!r}: {error}") from None
    return dataclasses.replace(base, **values)
