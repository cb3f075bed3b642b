"""What a person asked for: the order of one recovery, and the digest that binds an approval to it.

Each kind of source has its own order (``recovery_postgres``, ``recovery_redis``); what they share is here.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mingus_engine.errors import SettingsError

DRILL, RESTORE, EXTRACT = "drill", "restore", "extract"
MODES = (DRILL, RESTORE, EXTRACT)


@dataclass(frozen=True, kw_only=True)
class RecoveryOrder:
    """One recovery, as the form of its DAG asks for it. Empty texts mean "not said".

    :param mode: ``drill`` (scratch directory, wiped), ``restore`` (to *directory*), ``extract`` (into a server).
    :param to: the moment: ``latest``, ``time:…``, …; see docs/CLI.md; empty = the snapshot's own end.
    :param into: name of a destination or source in the settings.
    """

    # Kind of the source.
    kind: ClassVar[str]
    # What a mode cannot do without.
    needs: ClassVar[Mapping[str, tuple[str, ...]]]
    # What means something in one mode alone.
    only: ClassVar[Mapping[str, str]]

    source: str
    mode: str
    snapshot: str = ""
    repository: str = ""
    to: str = ""
    directory: str = ""
    into: str = ""

    @classmethod
    def parse(cls, raw: str | Mapping[str, Any]) -> Self:
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
        known = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                said = f"; did you mean {near[0]!r}?" if near else ""
                raise SettingsError(f"a recovery has no parameter {str(key)!r}{said}")
            if value is not None:
                values[key] = _typed(key, value, hints[key])
        for key in ("source", "mode"):
            if not values.get(key):
                raise SettingsError(f"the parameter {key!r} is missing")
        order = cls(**values)
        order.check()
        return order

    def check_conflict(self, chosen: str, known: Sequence[str]) -> None:
        """What becomes of what is there: *chosen* is one of *known*; another than the first only for an extraction.

        :raises SettingsError: it is not.
        """
        if chosen not in known:
            raise SettingsError(f"conflict {chosen!r} is none of {', '.join(known)}")
        if chosen != known[0] and self.mode != EXTRACT:
            raise SettingsError(f"the parameter 'conflict' is for mode {EXTRACT!r}, not {self.mode!r}")

    def check(self) -> None:
        """:raises SettingsError: what was said cannot be meant."""
        if self.mode not in MODES:
            raise SettingsError(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        for name in self.needs.get(self.mode, ()):
            if not getattr(self, name):
                raise SettingsError(f"mode {self.mode!r} needs the parameter {name!r}")
        for name, mode in self.only.items():
            if getattr(self, name) and self.mode != mode:
                raise SettingsError(f"the parameter {name!r} is for mode {mode!r}, not {self.mode!r}")
        if self.directory and not self.directory.startswith("/"):
            raise SettingsError(f"directory {self.directory!r} is not an absolute path")
        if "://" in self.into or "=" in self.into:
            raise SettingsError("'into' is the name of a destination in the settings, not an address")

    def said(self) -> dict[str, Any]:
        """What was said, in the order of the form."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name))}

    def digest(self, plan: Mapping[str, Any]) -> str:
        """SHA-256 (hex) of order and plan: what an approval is given for, and nothing else."""
        # From fields, not from what arrived: a parameter left out and an empty one are the same order.
        whole = {"kind": self.kind, "order": dataclasses.asdict(self), "plan": plan}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _typed(key: str, value: Any, hint: Any) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if hint is str and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip()
    texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if typing.get_origin(hint) is tuple and texts:
        return tuple(value)
    raise SettingsError(f"the parameter {key!r} cannot be {value!r}")
