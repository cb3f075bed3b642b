"""Bad pages found while reading, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from mingus_engine.sources.base import Check

# What a manifest lists one by one; the count goes on.
LISTED_PAGES = 1000
CHECK = "page checksums"


class Findings:
    """Collects bad pages; thread-safe.

    :param wanted: verification was asked for. :param enabled: the cluster has data checksums.
    """

    def __init__(self, *, wanted: bool, enabled: bool) -> None:
        self._wanted = wanted
        self._enabled = enabled
        self._lock = threading.Lock()
        self._pages = 0
        self._listed: dict[str, list[int]] = {}
        self._notes: list[str] = []
        self._unverified: list[str] = []
        self.count = 0

    def verified(self, pages: int) -> None:
        """Count pages that were looked at."""
        with self._lock:
            self._pages += pages

    def add(self, path: bytes, block: int) -> None:
        """A page is bad: *block* of the file *path* (counted in this file, not across segments)."""
        with self._lock:
            if self.count < LISTED_PAGES:
                self._listed.setdefault(path.decode("utf-8", "replace"), []).append(block)
            self.count += 1

    def note(self, text: str) -> None:
        """Something the server said about bad pages that names no block."""
        with self._lock:
            if len(self._notes) < LISTED_PAGES:
                self._notes.append(text)

    def unverified(self, text: str) -> None:
        """The server did not look at a page, or at the rest of a file, as *text* says: nothing is known to be bad."""
        with self._lock:
            if len(self._unverified) < LISTED_PAGES:
                self._unverified.append(text)

    def total(self, pages: int) -> None:
        """The server's own count; it names only the first bad pages of a file."""
        with self._lock:
            self.count = max(self.count, pages)

    def checks(self) -> Iterator[Check]:
        """One check; not ok = bad pages, which flags the snapshot."""
        if not self._wanted:
            return
        if not self._enabled:
            yield Check(CHECK, True, "the cluster has no data checksums", {"enabled": False})
            return
        data = {
            "enabled": True,
            "verified": self._pages,
            "bad": self.count,
            "pages": self._listed,
            "notes": self._notes,
            "unverified": self._unverified,
        }
        if not self.count and not self._notes:
            done = f"{self._pages} pages verified" if self._pages else "verified"
            cut = f", except the end of files that changed their size ({n})" if (n := len(self._unverified)) else ""
            yield Check(CHECK, True, done + cut, data)
            return
        shown = [f"{path} block {blocks[0]}" for path, blocks in list(self._listed.items())[:5]]
        more = "" if len(self._listed) <= 5 else f" and {len(self._listed) - 5} more files"
        yield Check(CHECK, False, f"{self.count} bad pages: {', '.join(shown or self._notes[:3])}{more}", data)
