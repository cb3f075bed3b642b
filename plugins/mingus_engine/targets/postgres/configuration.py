"""Settings in the text of ``postgresql.auto.conf`` and on a server's command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mingus_engine.errors import SettingsError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")
# Two recovery targets are an error to PostgreSQL, and commands of an earlier recovery may remove somebody's archive.
_RECOVERY = re.compile(
    rb"^[ \t]*(recovery_target\w*|restore_command|recovery_end_command|archive_cleanup_command)[ \t=].*\n?",
    re.IGNORECASE | re.MULTILINE,
)


def without_recovery(text: bytes) -> bytes:
    """*text* of a configuration file without settings of a recovery."""
    return _RECOVERY.sub(b"", text)


def lines(values: Mapping[str, str]) -> bytes:
    """Lines for a configuration file; the last of two with the same name counts.

    A value is quoted as PostgreSQL documents ("Parameter Interaction via the Configuration File"): quotes doubled, and
    backslashes too, since they are escapes there.

    :raises SettingsError: a name that is none, a value with a line break or NUL.
    """
    out = []
    for name, value in values.items():
        check(name, value)
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        out.append(f"{name} = '{quoted}'\n")
    return "".join(out).encode()


def arguments(values: Mapping[str, str]) -> list[str]:
    """``-c name=value`` for each; stronger than every configuration file.

    :raises SettingsError: see :func:`lines`.
    """
    out = []
    for name, value in values.items():
        check(name, value)
        out += ["-c", f"{name}={value}"]
    return out


def check(name: str, value: str) -> None:
    """Refuse what would become more than one setting.

    :raises SettingsError: see :func:`lines`.
    """
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{name!r} is not the name of a PostgreSQL setting")
    if any(character in value for character in "\n\r\0"):
        raise SettingsError(f"the value of PostgreSQL setting {name} holds a line break")
