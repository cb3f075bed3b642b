"""What is to be told, and what was told: small files that several processes share. No database, no daemon.

``pending/<group>/<ulid>.json``: events of one story (DAG run, task, kind, cause). Who makes the folder is its leader,
waits for the others, and takes it by renaming it to ``sending/<ulid>``; a rename has one winner, also over NFS. What
was told is removed; what nobody could be told stays and is taken up again. So whoever is killed in between loses
nothing, and may at worst tell something twice.

``incidents/<step>-<cause>.json``: a story that was told and lasts. Read and written under a lock, where one can be had.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mingus_engine import ulids
from mingus_engine.alerts import event as kinds
from mingus_engine.alerts import files
from mingus_engine.alerts.event import Event
from mingus_engine.settings import Settings

# Longer than a delivery may take: what is younger is being told by somebody.
_DELIVERY_MAX_S = 180.0
# What nobody could be told is tried again so often, and after a day it is history.
_AGAIN_AFTER_S = 300.0
_EVENT_MAX_AGE_S = 24 * 3600.0
# An incident that nothing has touched for so long is not the same story any more.
_INCIDENT_MAX_AGE_S = 30 * 24 * 3600.0


class Memory:
    """The folder ``alerts_path``; every method may raise ``OSError``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.alerts_path
        self._pending, self._sending = self._root / "pending", self._root / "sending"
        self._incidents = self._root / "incidents"

    def put(self, event: Event) -> Path | None:
        """Keep *event*. Gives its group when the caller is the one that has to take and tell it."""
        for path in (self._pending, self._sending, self._incidents):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        group = self._pending / _digest(event.dag, event.run, event.task, event.kind, event.cause)
        while True:
            leader = True
            try:
                group.mkdir(mode=0o700)
            except FileExistsError:
                leader = False
            try:
                files.write(group / f"{ulids.new()}.json", event.as_dict())
            except FileNotFoundError:
                continue  # taken between the two: this event begins a group of its own
            return group if leader else None

    def take(self, group: Path) -> tuple[Path, list[Event]] | None:
        """The events of *group*, now the caller's alone; ``None``: somebody else has them."""
        taken = self._sending / ulids.new()
        try:
            group.rename(taken)
            os.utime(taken)
        except FileNotFoundError:
            return None
        found = [files.read(path) for path in sorted(taken.glob("[!.]*.json"))]
        return taken, [Event.of(document) for document in found if document is not None]

    def left_over(self) -> list[Path]:
        """Groups whose leader died, and what nobody could be told; oldest first. What is too old is removed."""
        found: list[tuple[float, Path]] = []
        patience = {self._pending: self._settings.alerts.group_wait_s + 60.0, self._sending: _AGAIN_AFTER_S}
        for place, at_least in patience.items():
            for path in place.iterdir() if place.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    age = abs(time.time() - path.stat().st_mtime)
                    if age > at_least:
                        found.append((-age, path))
        return [path for _, path in sorted(found)]

    def fresh(self, events: Sequence[Event]) -> list[Event]:
        """Those of *events* that are to be told now: the others were told within the repeat interval, as bad or
        worse, and are counted.
        """
        now = time.time()
        with files.locked(self._root / "lock"):
            return [event for event in events if self._is_fresh(event, now)]

    def done(self, taken: Path, events: Sequence[Event]) -> None:
        """*events* of *taken* were told to somebody."""
        with files.locked(self._root / "lock"):
            for event in events:
                path = self._path(event)
                incident = files.read(path)
                if incident is not None:
                    files.write(path, {**incident, "confirmed": True})
        shutil.rmtree(taken, ignore_errors=True)

    def check(self) -> None:
        """Write a file and remove it again. :raises OSError: nothing can be remembered."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = self._root / f".probe.{ulids.new()}"
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)

    def end(self, dag: str, task: str, source: str) -> tuple[str, str, int] | None:
        """End what is told to last of a step of a source: since when, how severe, how often it failed. ``None``: there
        is nothing to end, or somebody else has ended it.
        """
        if not self._incidents.is_dir():
            return None
        prefix = _digest(dag, task, source)
        if not any(self._incidents.glob(f"{prefix}-*.json")):
            return None  # nearly always: no lock for it
        ended = []
        with files.locked(self._root / "lock"):
            for path in self._incidents.glob(f"{prefix}-*.json"):
                incident = files.read(path)
                if incident is not None and incident.get("kind") not in kinds.LASTING:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    ended.append(incident or {})
        if not ended:
            return None
        severity = max((str(i.get("severity", kinds.WARNING)) for i in ended), key=kinds.rank)
        since = min(str(i.get("since", "")) for i in ended)
        return since, severity, sum(max(1, int(_number(i.get("count")))) for i in ended)

    def _path(self, event: Event) -> Path:
        return self._incidents / f"{_digest(event.dag, event.task, event.source)}-{_digest(event.cause)}.json"

    def _is_fresh(self, event: Event, now: float) -> bool:
        if event.kind == kinds.RECOVERED:
            return True
        if now - _seconds(event.at, now) > _EVENT_MAX_AGE_S:
            return False
        path = self._path(event)
        incident = files.read(path) or {}
        age = now - _number(incident.get("told_at"))
        wait = self._settings.alerts.repeat_interval_s if incident.get("confirmed") else _DELIVERY_MAX_S
        worse = kinds.rank(event.severity) > kinds.rank(incident.get("told_severity", incident.get("severity")))
        fresh = worse or not 0 <= age < wait
        if age > _INCIDENT_MAX_AGE_S:
            incident = {}
        # The end is told to whom the worst was told.
        worst = max(event.severity, str(incident.get("severity", kinds.INFO)), key=kinds.rank)
        files.write(path, {
            "dag": event.dag, "task": event.task, "source": event.source, "cause": event.cause,
            "kind": event.kind, "severity": worst, "since": incident.get("since", event.at),
            "count": int(_number(incident.get("count"))) + 1,
            "told_at": now if fresh else incident["told_at"],
            "told_severity": event.severity if fresh else incident.get("told_severity", worst),
            "confirmed": False if fresh else bool(incident.get("confirmed")),
        })  # fmt: skip
        return fresh


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _number(value: object) -> float:
    """*value* of a file that anybody may have written."""
    return float(value) if isinstance(value, int | float) else 0.0


def _seconds(at: str, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return otherwise
