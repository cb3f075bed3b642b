"""What the engine takes of an Airflow connection, by kind of server: its fields and its ``extra``.

Each function gives fields of a connection of the engine's settings; what the Airflow connection leaves empty is not
among them.
"""

from __future__ import annotations

import typing
from typing import Any

from mingus_engine.settings import PostgresConnection, Secret

# libpq's names, as Airflow's own PostgreSQL connections carry them in "extra".
_LIBPQ = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_SSL_MODES = typing.get_args(typing.get_type_hints(PostgresConnection)["sslmode"])
# As Airflow's own Redis hook reads them.
_REDIS_FILES = {
    "ssl_ca_certs": "ca_file",
    "ssl_certfile": "cert_file",
    "ssl_cert_file": "cert_file",
    "ssl_keyfile": "key_file",
}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


def postgres_values(found: Any) -> dict[str, Any]:
    """Of an Airflow connection of type ``postgres``.

    :raises ValueError: an entry of ``extra`` cannot be used; the text says which.
    """
    extra = found.extra_dejson
    values: dict[str, Any] = {
        **_account(found),
        "host": found.host,
        "dbname": found.schema,
        **{name: extra.get(name) for name in _LIBPQ},
        "connect_timeout_s": _seconds(extra, "connect_timeout"),
    }
    if values["sslmode"] not in (None, "", *_SSL_MODES):
        raise ValueError(f"sslmode {values['sslmode']!r} is none of libpq's")
    return _said(values)


def redis_values(found: Any) -> dict[str, Any]:
    """Of an Airflow connection of type ``redis``. A host that is an absolute path is a unix socket. ``db`` means
    nothing: every database is backed up.

    :raises ValueError: an entry of ``extra`` cannot be used, or asks for an unverified certificate.
    """
    extra = found.extra_dejson
    if str(extra.get("ssl_cert_reqs") or "required") != "required" or not _flag(extra, "ssl_check_hostname", True):
        raise ValueError("ssl_cert_reqs, ssl_check_hostname: a certificate and its name are always verified")
    values = _account(found)
    for name, field in _REDIS_FILES.items():
        values[field] = extra.get(name) or values.get(field)
    if "ssl" in extra:
        values["tls"] = _flag(extra, "ssl", False)
    values["connect_timeout_s"] = _seconds(extra, "socket_connect_timeout")
    if not found.host:
        return _said(values)
    # A socket of the settings would else win over the host.
    path = found.host.startswith("/")
    return {**_said(values), **({"socket": found.host} if path else {"host": found.host, "socket": ""})}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in values.items() if value not in (None, "")}


def _account(found: Any) -> dict[str, Any]:
    return {
        "port": found.port,
        "user": found.login,
        "password": Secret(found.password) if found.password else None,
    }


def _seconds(extra: dict[str, Any], name: str) -> int | None:
    try:
        return None if extra.get(name) is None else int(extra[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no number of seconds") from None


def _flag(extra: dict[str, Any], name: str, default: bool) -> bool:
    """A truth value, also as text: the form of Airflow's UI gives either."""
    said = str(extra.get(name, default)).casefold()
    if said not in _TRUE + _FALSE:
        raise ValueError(f"{name} {extra[name]!r} is neither true nor false")
    return said in _TRUE
