"""What a person asked for: the order of one recovery, and the digest that binds an approval to it."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingus_engine.errors import SettingsError

DRILL, RESTORE, EXTRACT = "drill", "restore", "extract"
MODES = (DRILL, RESTORE, EXTRACT)


@dataclass(frozen=True, kw_only=True)
class RecoveryOrder:
    """One recovery, as the form of ``recover_postgres`` asks for it. Empty texts mean "not said".

    :param mode: ``drill`` (scratch directory, wiped), ``restore`` (to *directory*), ``extract`` (into a server).
    :param to: the moment: ``latest``, ``time:…``, ``lsn:…``, …; see docs/CLI.md; empty = the snapshot's own end.
    :param timeline: number, or empty. :param exclusive: without what is exactly at the moment.
    :param what: ``DATABASE[:schema.table,…]`` of an extraction. :param into: name of a destination or source in the
        settings. :param new_name: extract the database as a new one of this name.
    """

    source: str
    mode: str
    snapshot: str = ""
    repository: str = ""
    to: str = ""
    timeline: str = ""
    exclusive: bool = False
    directory: str = ""
    tablespaces: tuple[str, ...] = ()
    what: str = ""
    into: str = ""
    new_name: str = ""
    overwrite: bool = False
    no_owner: bool = False

    @classmethod
    def parse(cls, raw: str | Mapping[str, Any]) -> RecoveryOrder:
        """The order of the parameters *raw*, a mapping or its JSON; ``None`` counts as not said.

        :raises SettingsError: something is missing, unknown, contradictory or of the wrong type.
        """
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except ValueError:
                raw = None  # said below
        if not isinstance(raw, Mapping):
            raise SettingsError("the order of a recovery is not a JSON object")
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in hints:
                near = difflib.get_close_matches(str(key), hints, n=1)
                said = f"; did you mean {near[0]!r}?" if near else ""
                raise SettingsError(f"a recovery has no parameter {str(key)!r}{said}")
            if value is not None:
                values[key] = _typed(key, value, hints[key])
        for key in ("source", "mode"):
            if not values.get(key):
                raise SettingsError(f"the parameter {key!r} is missing")
        order = cls(**values)
        order._check()
        return order

    def _check(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        wanted = {RESTORE: ("directory",), EXTRACT: ("what", "into"), DRILL: ()}[self.mode]
        for name in wanted:
            if not getattr(self, name):
                raise SettingsError(f"mode {self.mode!r} needs the parameter {name!r}")
        only = {"directory": RESTORE, "what": EXTRACT, "into": EXTRACT, "new_name": EXTRACT, "overwrite": EXTRACT}
        for name, mode in {**only, "tablespaces": RESTORE, "no_owner": EXTRACT}.items():
            if getattr(self, name) and self.mode != mode:
                raise SettingsError(f"the parameter {name!r} is for mode {mode!r}, not {self.mode!r}")
        if self.directory and not self.directory.startswith("/"):
            raise SettingsError(f"directory {self.directory!r} is not an absolute path")
        if "://" in self.into or "=" in self.into:
            raise SettingsError("'into' is the name of a destination in the settings, not an address")
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

    def said(self) -> dict[str, Any]:
        """What was said, in the order of the form."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name))}

    def digest(self, plan: Mapping[str, Any]) -> str:
        """SHA-256 (hex) of order and plan: what an approval is given for, and nothing else."""
        # From fields, not from what arrived: a parameter left out and an empty one are the same order.
        whole = {"order": dataclasses.asdict(self), "plan": plan}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _typed(key: str, value: Any, hint: Any) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip()
    texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if typing.get_origin(hint) is tuple and texts:
        return tuple(value)
    raise SettingsError(f"the parameter {key!r} cannot be {value!r}")
