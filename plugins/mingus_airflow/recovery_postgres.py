"""The order of a recovery of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mingus_airflow.recovery import DRILL, EXTRACT, RESTORE, RecoveryOrder
from mingus_engine.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class PostgresOrder(RecoveryOrder):
    """One recovery, as the form of ``recover_postgres`` asks for it.

    :param timeline: number, or empty. :param exclusive: without what is exactly at the moment.
    :param tablespaces: ``OID=/DIR`` each. :param what: ``DATABASE[:schema.table,…]`` of an extraction.
    :param new_name: extract the database as a new one of this name.
    """

    kind: ClassVar[str] = "postgres"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {RESTORE: ("directory",), EXTRACT: ("what", "into")}
    only: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("directory", "tablespaces"), RESTORE),
        **dict.fromkeys(("what", "into", "new_name", "overwrite", "no_owner"), EXTRACT),
    }

    timeline: str = ""
    exclusive: bool = False
    tablespaces: tuple[str, ...] = ()
    what: str = ""
    new_name: str = ""
    overwrite: bool = False
    no_owner: bool = False

    def check(self) -> None:
        """:raises SettingsError: what was said cannot be meant."""
        super().check()
        if self.timeline and not self.timeline.isdecimal():
            raise SettingsError(f"timeline {self.timeline!r} is not a number")
        if (self.timeline or self.exclusive) and self.mode == DRILL:
            raise SettingsError(
                "a drill follows the newest timeline: 'timeline' and 'exclusive' are for the other modes"
            )
        if (self.timeline or self.exclusive) and not self.to:
            raise SettingsError("'timeline' and 'exclusive' need the parameter 'to'")
        self.tablespace_map()

    def tablespace_map(self) -> dict[str, str]:
        """OID or original directory → new directory.

        :raises SettingsError: an entry is not of the form ``OID=DIR``.
        """
        pairs = {}
        for entry in self.tablespaces:
            which, equals, directory = entry.partition("=")
            if not (which and equals and directory.startswith("/")):
                raise SettingsError(f"tablespace {entry!r} is not of the form OID=/DIR")
            pairs[which] = directory
        return pairs

    def moment(self) -> dict[str, Any]:
        """Arguments of the engine's jobs that say to which moment."""
        return {
            "to": self.to or None,
            "timeline": int(self.timeline) if self.timeline else None,
            "inclusive": not self.exclusive,
        }

    def extraction(self) -> dict[str, Any]:
        """Arguments of the engine's ``extract`` that say what, and where to."""
        return {name: getattr(self, name) for name in ("what", "into", "new_name", "overwrite", "no_owner")}
