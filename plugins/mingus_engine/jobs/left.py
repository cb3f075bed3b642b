"""What can still be recovered of a source, in a line for who is woken, as far as it can be had quickly."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from mingus_engine.errors import MingusError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.inspect import list_snapshots
from mingus_engine.jobs.inspected import SnapshotInfo
from mingus_engine.settings import Settings

# A person waits for the alert, and repositories may be what is down.
LOOK_TIMEOUT_S = 5.0
UNKNOWN = "unknown: the repositories did not answer quickly; `mingus windows` and `mingus list` show it"


def left(settings: Settings, sources: Sequence[str], *, timeout_s: float = LOOK_TIMEOUT_S) -> dict[str, str]:
    """For each of *sources* what can be recovered, or why that is not known. Takes *timeout_s* at most; never
    raises.
    """
    context = JobContext()
    found = dict.fromkeys(sources, UNKNOWN)
    answers: dict[str, str] = {}

    def look() -> None:
        for source in sources:
            if context.cancel.is_set():
                return
            try:
                answers[source] = _line(settings, source, context)
            except MingusError as error:
                answers[source] = f"unknown: {error.message}"
            except Exception as error:  # noqa: BLE001 - a thread's edge; what it is must not hide the alert
                answers[source] = f"unknown: {type(error).__name__}"

    thread = threading.Thread(target=look, name="mingus-left", daemon=True)
    thread.start()
    thread.join(timeout_s)
    context.cancel.set()
    return found | dict(answers)


def _line(settings: Settings, source: str, context: JobContext) -> str:
    listing = list_snapshots(settings, source, context=context)
    good = [info for info in listing.snapshots if not info.flagged]
    parts = [_newest(good), _proven(good), _until(settings, source, context)]
    parts += [f"repository {name} was not read" for name in listing.unreachable]
    return "; ".join(part for part in parts if part)


def _newest(good: Sequence[SnapshotInfo]) -> str:
    if not good:
        return "no good snapshot"
    newest = max(good, key=lambda info: info.written_at)
    places = ", ".join(copy.repository for copy in newest.copies)
    return f"newest snapshot {newest.snapshot} of {_time(newest.written_at)} in {places}"


def _proven(good: Sequence[SnapshotInfo]) -> str:
    proven = [
        (info, copy.repository, copy.proof)
        for info in good
        for copy in info.copies
        if copy.proof is not None and copy.proof.ok
    ]
    if not proven:
        return "none is proven" if good else ""
    info, repository, proof = max(proven, key=lambda one: one[0].written_at)
    return f"newest proven one {info.snapshot} of {_time(info.written_at)} ({proof.level} in {repository})"


def _until(settings: Settings, source: str, context: JobContext) -> str:
    """Up to which moment logs reach."""
    kind = settings.stored_source(source).kind
    if kind == "postgres":
        from mingus_engine.jobs.postgres.windows import windows

        report = windows(settings, source, context=context)
    elif kind == "redis":
        from mingus_engine.jobs.redis.windows import windows as redis_windows

        report = redis_windows(settings, source, context=context)
    else:
        return ""
    end = report.as_dict().get("restorable_to")
    return f"any moment of its windows up to {end}" if end else ""


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")
