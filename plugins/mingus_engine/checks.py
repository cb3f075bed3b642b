"""One thing that was checked, by a source while it read or by a restore test afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that was checked. ``ok=False`` on a backup flags the snapshot; details are small and plain.

    ``data["available"] is False`` marks a check that could not be made (a program or extension is missing): it is not
    ``ok``, but says nothing about the backup.
    """

    name: str
    ok: bool
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for manifests and reports."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "data": dict(self.data)}
