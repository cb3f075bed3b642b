"""What a throw-away server says: followed while it starts, kept in few lines, free of passwords."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \w+ \[\d+\] (\w+): +(.*)$")
_CONSISTENT = re.compile(r"consistent recovery state reached at ([0-9A-F]+/[0-9A-F]+)")
_REDO_STARTS = re.compile(r"redo starts at ([0-9A-F]+/[0-9A-F]+)")
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_STOPPING = re.compile(r"recovery stopping (before|after|at) ")
_PASSWORD = re.compile(r"(pass\w*\s*=\s*)('[^']*'|\S+)", re.IGNORECASE)
_TOO_EARLY = re.compile("the database system is (starting up|not yet accepting|not accepting|shutting down)")
# A failing server may repeat itself for an hour.
_READ_MAX_BYTES = 1 << 20
_KEPT_LINES = 20


class ServerLog:
    """Follows a log file. ``failures``: FATAL and PANIC lines with their hints; ``last``: the last lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.consistent_at = ""
        self.redo_started_at = ""
        self.redo_done_at = ""
        self.stopping = ""
        self.failures: deque[str] = deque(maxlen=_KEPT_LINES)
        self.last: deque[str] = deque(maxlen=_KEPT_LINES)

    def follow(self) -> None:
        """Read what was added since the last call."""
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self._position, size - _READ_MAX_BYTES))
            text = file.read(_READ_MAX_BYTES)
        complete = text.rpartition(b"\n")[0]
        if not complete:
            return
        self._position = max(self._position, size - _READ_MAX_BYTES) + len(complete) + 1
        for line in complete.decode(errors="replace").splitlines():
            self._take(line)

    def explain(self) -> str:
        """Why it failed, as far as the log says: the failures, or else the last lines."""
        return " | ".join(self.failures or self.last) or "its log is empty"

    def _take(self, line: str) -> None:
        match = _LINE.match(line)
        if match is None:
            # Before the log's form is set, the server writes "postgres: …" or "FATAL:  …" plainly.
            level, _, text = line.partition(":") if re.match(r"[A-Z]+: ", line) else ("", "", line)
        else:
            level, text = match[1], match[2]
        if level in {"STATEMENT", "QUERY", "CONTEXT"}:
            return
        shown = _PASSWORD.sub(r"\1***", f"{level}: {text.strip()}" if level else text)
        self.last.append(shown)
        is_failure = level in {"FATAL", "PANIC"} or (level in {"HINT", "DETAIL"} and len(self.failures) > 0)
        # Every attempt to connect before the server is up is a FATAL line of its own.
        if is_failure and not _TOO_EARLY.search(text):
            self.failures.append(shown)
        if found := _CONSISTENT.search(text):
            self.consistent_at = found[1]
        if found := _REDO_STARTS.search(text):
            self.redo_started_at = found[1]
        if found := _STOPPING.search(text):
            self.stopping = found[1]
        if found := _REDO_DONE.search(text):
            self.redo_done_at = found[1]
