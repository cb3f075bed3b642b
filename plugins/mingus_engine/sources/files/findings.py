"""What a backup of files met that was not as it should be: counted all, named some."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# How many paths of each sort a manifest and a report name.
_NAMED = 50


def shown(path: bytes) -> str:
    """A path for people: in one line, whatever its bytes are."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


@dataclass
class Findings:
    """May be told by any thread. Sorts are the names of the methods' first arguments, below.

    ``unreadable``, ``unreadable directory``, ``vanished``, ``changed`` (while it was read), ``socket``, ``too large``,
    ``silent`` (content changed, nothing else), ``attributes`` (too many to be stored), ``loop`` (of links).
    """

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, sort: str, path: bytes, why: str = "") -> None:
        """One more of *sort*."""
        with self._lock:
            self.counts[sort] += 1
            names = self.named.setdefault(sort, [])
            if len(names) < _NAMED:
                names.append(f"{shown(path)}: {why}" if why else shown(path))

    def data(self, sort: str) -> dict[str, Any]:
        """Count and names of *sort*, for a check."""
        return {"count": self.counts[sort], "paths": list(self.named.get(sort, ()))}
