"""The server that keys are restored into, as a person names it."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from mingus_engine.errors import SettingsError
from mingus_engine.settings import DestinationSettings, RedisConnection, RedisDestination, Settings

_SCHEMES = {"redis": False, "rediss": True, "unix": False}
#: Where the password of an address comes from: the variable that ``redis-cli`` reads.
PASSWORD_ENV = "REDISCLI_AUTH"  # noqa: S105 - the name of a variable


def destination(settings: Settings, into: str) -> DestinationSettings:
    """The server *into*: a name of the settings (a destination, or a source's id), or ``redis://[USER@]HOST[:PORT]``,
    ``rediss://`` (TLS), ``unix://[USER@]/PATH``, whose password is that of ``REDISCLI_AUTH``.

    :raises SettingsError: no such name, not such an address, or a password in it: arguments are public on a machine.
    """
    if "://" not in into:
        return settings.destination(into, "redis")
    wrong = SettingsError("the address of --into is not of the form redis://[USER@]HOST[:PORT], rediss:// or unix://")
    try:
        parts = urlsplit(into)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.password is not None:
        raise SettingsError(
            "the address of --into holds a password, which everybody on this machine can see",
            hint=f"leave it out: {PASSWORD_ENV} is used, or name a destination of the settings",
        )
    user = unquote(parts.username or "")
    if parts.scheme not in _SCHEMES or parts.query or parts.fragment:
        raise wrong
    if parts.scheme == "unix":
        if not parts.path or parts.hostname:
            raise wrong
        connection = RedisConnection(socket=unquote(parts.path), user=user, password_env=PASSWORD_ENV, port=0)
        return DestinationSettings(connection.socket, kind="redis", redis=RedisDestination(connection))
    if parts.path not in {"", "/"}:
        raise SettingsError("the address of --into names a database", hint="say --database FROM=TO")
    if not parts.hostname:
        raise wrong
    connection = RedisConnection(
        host=parts.hostname, port=port or 6379, user=user, tls=_SCHEMES[parts.scheme], password_env=PASSWORD_ENV
    )
    name = f"{connection.host}:{connection.port}"
    return DestinationSettings(name, kind="redis", redis=RedisDestination(connection))
