"""Connections to a Redis (or Valkey) server for ordinary commands, and the errors of all its connections.

The password travels in memory only; no message of this module holds it. Source: Redis documentation "AUTH", "TLS",
"Redis client handling". The replication protocol, which redis-py does not speak, has its own connection (``link``).
"""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mingus_engine.errors import SourceDenied, SourceError, SourceUnreachable, SourceUnsupported
from mingus_engine.settings import RedisConnection, Secret, read_secret

#: How long a command may take unless its caller says otherwise. ``CONFIG GET *`` and the like take milliseconds, but a
#: server that forks a large process, or runs somebody's slow command, answers nobody for a while.
COMMAND_TIMEOUT_S = 60.0

_TLS_HINT = "check tls, ca_file, cert_file and key_file of the connection; the certificate must name the host"
# What passes by itself is not among them: a connection that is cut, bytes that were changed on their way.
_TLS_SETUP = re.compile(r"certificate|alert|wrong.version|no.protocols|cipher|hostname|mismatch", re.IGNORECASE)
# First words of a server's errors. What is not listed is a command or option it does not know.
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH", "DENIED")
_PASSING = ("LOADING", "BUSY ", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "NOMASTERLINK", "ERR max number of clients")


def place(conn: RedisConnection) -> str:
    """Where and as whom: ``Redis at db1:6379 as user "backup"``."""
    where = conn.socket or f"{conn.host}:{conn.port}"
    return f"Redis at {where}" + (f' as user "{conn.user}"' if conn.user else "")


def node_of(conn: RedisConnection, host: str, port: int) -> RedisConnection:
    """The connection to another node of the same installation: same user, password and TLS."""
    return dataclasses.replace(conn, host=host, port=port, socket="", sentinels=(), sentinel_master="", cluster=False)


def connect(
    conn: RedisConnection, *, timeout_s: float = COMMAND_TIMEOUT_S, database: int = 0, raw: bool = False
) -> redis.Redis:
    """A client of the one node that *conn* names (Sentinels and clusters: see ``topology``); the caller closes it.

    It speaks RESP 2, gives bytes, and repeats nothing by itself. Its first connection is made here, so that a wrong
    address or password shows now.

    :param timeout_s: for one answer. :param raw: answers are as the server gave them, whatever the command: bytes,
        numbers, lists; else as redis-py interprets them.
    :raises SourceUnreachable, SourceDenied, SourceUnsupported: see :func:`client_error`.
    """
    secret = password_of(conn)
    tls = {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": conn.ca_file or None,
        "ssl_certfile": conn.cert_file or None,
        "ssl_keyfile": conn.key_file or None,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "redis_connect_func": _read_something,
    }
    client = redis.Redis(
        host=conn.host,
        port=0 if conn.socket else int(conn.port),
        unix_socket_path=conn.socket or None,
        db=database,
        username=conn.user or None,
        password=secret.reveal() if secret is not None else None,
        socket_timeout=timeout_s,
        socket_connect_timeout=conn.connect_timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
        protocol=2,
        **(tls if conn.tls and not conn.socket else {}),  # type: ignore[arg-type]
    )
    try:
        with mapped(conn, "connecting"):
            pool = client.connection_pool
            pool.release(pool.get_connection())
        if raw:
            client.response_callbacks.clear()
    except BaseException:
        client.close()
        raise
    return client


def _read_something(connection: Any) -> None:
    """Log in, and read an answer: what TLS itself sends after the handshake would look like one to redis-py."""
    connection.on_connect()
    with suppress(redis.ResponseError, redis.AuthenticationError, redis.exceptions.BusyLoadingError):
        connection.send_command("PING")
        connection.read_response()


@contextmanager
def connected(
    conn: RedisConnection, *, timeout_s: float = COMMAND_TIMEOUT_S, database: int = 0, raw: bool = False
) -> Iterator[redis.Redis]:
    """:func:`connect`, closed at the end of the block."""
    client = connect(conn, timeout_s=timeout_s, database=database, raw=raw)
    try:
        yield client
    finally:
        with suppress(redis.RedisError, OSError):
            client.close()


def ask(client: redis.Redis, *command: bytes | str | int) -> Any:
    """The answer to *command*: bytes, numbers, lists of them; of a pipeline, which is asked later, nothing.

    :raises redis.RedisError: it is refused, or the connection broke; see :func:`mapped`.
    """
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


@contextmanager
def mapped(conn: RedisConnection, doing: str) -> Iterator[None]:
    """Turns errors of redis-py inside the block into ours.

    :param doing: what was tried, e.g. ``reading the configuration``.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise client_error(conn, error, doing) from None


def client_error(conn: RedisConnection, error: Exception, doing: str) -> SourceError:
    """Our error for one of redis-py or of a socket."""
    if _TLS_SETUP.search(str(error)) and isinstance(error, redis.ConnectionError | OSError):
        return SourceUnsupported(_shown(conn, doing, error), hint=_TLS_HINT)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError | PermissionError):
        return SourceDenied(_shown(conn, doing, error))
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return _loading(_shown(conn, doing, error))
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return SourceUnreachable(_shown(conn, doing, error))
    # redis-py cuts the first word off some errors and makes it the class.
    prefix = {"NoPermissionError": "NOPERM "}.get(type(error).__name__, "")
    return reply_error(conn, prefix + str(error), doing)


def reply_error(conn: RedisConnection, text: str, doing: str) -> SourceError:
    """Our error for an error reply of the server; *text* without the leading ``-``."""
    shown = _shown(conn, doing, text)
    if text.startswith("LOADING"):
        return _loading(shown)
    if text.startswith(_DENIED):
        return SourceDenied(shown)
    if text.startswith(_PASSING):
        return SourceUnreachable(shown, hint="the server cannot answer now; the same call may succeed later")
    return SourceUnsupported(shown, hint="`mingus check SOURCE` says what this server lacks")


def password_of(conn: RedisConnection) -> Secret | None:
    """The password of the settings, of a variable or of a file; ``None`` = there is none.

    :raises SettingsError: the file is named but cannot be read.
    """
    return conn.password or read_secret(conn.password_env, conn.password_file, what="password of Redis")


def tls_context(conn: RedisConnection) -> ssl.SSLContext:
    """Verifies the server's certificate and its name; shows ours where there is one.

    :raises SourceUnsupported: a file of it cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=conn.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if conn.cert_file:
            context.load_cert_chain(conn.cert_file, conn.key_file or None)
    except OSError as error:
        raise SourceUnsupported(_shown(conn, "preparing TLS", error), hint=_TLS_HINT) from None
    return context


def _loading(shown: str) -> SourceUnreachable:
    return SourceUnreachable(shown, hint="the server is loading its data; the next try may find it ready")


def _shown(conn: RedisConnection, doing: str, error: object) -> str:
    """The error's text without the password, which a server repeats when its AUTH was renamed."""
    text = " ".join(str(error).split()) or type(error).__name__
    secret = password_of(conn)
    if secret is not None and secret.reveal():
        text = text.replace(secret.reveal(), "***")
    return f"{place(conn)}: {doing}: {text[:500]}"
