"""What can still be recovered of a source, repository by repository: what a person needs to know when a test failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mingus_engine.errors import Cancelled, MingusError
from mingus_engine.jobs import kinds
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.inspect import list_snapshots
from mingus_engine.jobs.inspected import Copy, SnapshotInfo
from mingus_engine.settings import Settings

# A proof by restoring; below it, that bytes are whole.
_RESTORED = ("L3", "L4")


def still_recoverable(settings: Settings, source_id: str, context: JobContext) -> list[dict[str, Any]]:
    """For each repository of the chain of *source_id*, JSON types:

    ``repository``; ``snapshots`` (how many whose newest proof does not say that they are bad), the ULIDs ``newest`` (of
    those) and ``proven`` (the newest of them that was restored, with ``proven_level`` and ``proven_at``); where the
    kind has windows ``window_from`` and ``window_to`` of the newest; ``trouble``: why something is not known, which is
    then left out. Times are ISO 8601. Trouble is never raised.

    :raises Cancelled:
    """
    return [_in_repository(settings, source_id, name, context) for name in settings.chain(source_id)]


def told(one: Mapping[str, Any]) -> str:
    """One entry of :func:`still_recoverable`, for people."""
    said = [f"not known: {why}"] if (why := one.get("trouble")) else []
    if one.get("window_to"):
        said.append(f"any moment from {one.get('window_from') or 'unknown'} to {one['window_to']}")
    if one.get("proven"):
        said.append(f"{one['proven']}, proven {one['proven_level']} on {one['proven_at']}")
    elif one.get("newest"):
        said.append(f"{one['newest']}, not proven")
    return f"{one['repository']}: {', '.join(said) or 'nothing'}"


def _in_repository(settings: Settings, source_id: str, name: str, context: JobContext) -> dict[str, Any]:
    found: dict[str, Any] = {"repository": name}
    try:
        listing = list_snapshots(settings, source_id, repository=name, context=context)
        found |= _snapshots([(info, info.copies[0]) for info in listing.snapshots])
        kind = kinds.kind_of(settings, source_id, name, context)
        if kind in kinds.WINDOWS:
            report = kinds.WINDOWS[kind](settings, source_id, repository=name, context=context)
            found |= {"window_from": report.restorable_from, "window_to": report.restorable_to}
    except Cancelled:
        raise
    except MingusError as error:
        found["trouble"] = error.message
    return {key: value for key, value in found.items() if value is not None}


def _snapshots(copies: list[tuple[SnapshotInfo, Copy]]) -> dict[str, Any]:
    good = [(info, copy) for info, copy in copies if copy.settled and (copy.proof is None or copy.proof.ok)]
    found: dict[str, Any] = {"snapshots": len(good)}
    if good:
        found["newest"] = good[-1][0].snapshot
    for info, copy in reversed(good):
        if copy.proof is not None and copy.proof.level in _RESTORED:
            proof = copy.proof
            return found | {
                "proven": info.snapshot,
                "proven_level": proof.level,
                "proven_at": proof.at.isoformat(timespec="seconds"),
            }
    return found
