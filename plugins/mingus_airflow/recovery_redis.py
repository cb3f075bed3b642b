"""The order of a recovery of Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mingus_airflow.recovery import EXTRACT, RESTORE, RecoveryOrder
from mingus_engine.errors import SettingsError

CONFLICTS = ("fail", "skip", "replace")
FORMS = ("rdb", "aof")


@dataclass(frozen=True, kw_only=True)
class RedisOrder(RecoveryOrder):
    """One recovery, as the form of ``recover_redis`` asks for it.

    :param form: ``rdb`` or ``aof``; empty = as the server was configured.
    :param shard: of a cluster: only this one (``shard-0``), or its number.
    :param configuration: also write the configuration beside the data, secrets included. :param acl: also the users.
    :param keys: glob patterns of the keys that are wanted; none = all. :param databases: numbers; none = all.
    :param database_map: ``3=0`` each: what was in database 3 goes into 0.
    :param conflict: what becomes of a key that is there: ``fail`` (before anything is written), ``skip``, ``replace``.
    :param rate_keys_per_s: 0 = no limit. :param functions: also restore the server's functions.
    """

    kind: ClassVar[str] = "redis"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {RESTORE: ("directory",), EXTRACT: ("into",)}
    only: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("directory", "form", "shard", "configuration", "acl"), RESTORE),
        **dict.fromkeys(("into", "keys", "databases", "database_map", "rate_keys_per_s", "functions"), EXTRACT),
    }

    form: str = ""
    shard: str = ""
    configuration: bool = False
    acl: bool = False
    keys: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    database_map: tuple[str, ...] = ()
    conflict: str = "fail"
    rate_keys_per_s: int = 0
    functions: bool = False

    def check(self) -> None:
        """:raises SettingsError: what was said cannot be meant."""
        super().check()
        self.check_conflict(self.conflict, CONFLICTS)
        if self.form not in ("", *FORMS):
            raise SettingsError(f"form {self.form!r} is none of {', '.join(FORMS)}")
        self.extraction()

    def moment(self) -> dict[str, Any]:
        """Arguments of the engine's jobs that say to which moment."""
        return {"to": self.to or None}

    def files(self) -> dict[str, Any]:
        """Arguments of the engine's ``restore_redis`` that say what is written beside the data."""
        return {
            "form": self.form or None,
            "shard": self.shard or None,
            "configuration": self.configuration,
            "acl": self.acl,
        }

    def extraction(self) -> dict[str, Any]:
        """Arguments of the engine's ``restore_into`` that say which keys, where to and how.

        :raises SettingsError: a database is not a number.
        """
        return {
            "into": self.into,
            "keys": self.keys,
            "databases": tuple(_number(text) for text in self.databases),
            "database_map": self._renumbered(),
            "conflict": self.conflict,
            "rate_keys_per_s": self.rate_keys_per_s,
            "functions": self.functions,
        }

    def _renumbered(self) -> dict[int, int]:
        pairs = {}
        for entry in self.database_map:
            old, equals, new = entry.partition("=")
            if not equals:
                raise SettingsError(f"database_map {entry!r} is not of the form OLD=NEW")
            if _number(old) in pairs:
                raise SettingsError(f"database_map says twice where database {old} goes")
            pairs[_number(old)] = _number(new)
        return pairs


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise SettingsError(f"{text!r} is not the number of a database")
    return int(text)
