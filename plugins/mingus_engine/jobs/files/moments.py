"""Which snapshot of a file set is meant by a time: the newest that had ended by then.

A snapshot is what the files were between its start and its end, so one that was still being made at that time is not
what was asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mingus_engine.errors import NotRestorable, SettingsError
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository

_FORMS = "latest, time:2026-11-23T14:29:59+01:00 or the same without `time:`; without an offset it is UTC"


def parse(at: datetime | str) -> datetime | None:
    """The time meant by *at*, in UTC; ``None``: the latest.

    :raises SettingsError: it is no time.
    """
    if isinstance(at, str):
        text = at.strip().removeprefix("time:").strip()
        if text == "latest":
            return None
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise SettingsError(f"{at!r} is not a time", hint=f"one of: {_FORMS}") from None
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise SettingsError(f"{at.isoformat()} is not a time", hint=f"one of: {_FORMS}") from None


def choose(place: Repository, source: str, at: datetime) -> Manifest:
    """The newest snapshot of *source* that ended at or before *at*. Opens few manifests, whatever their number.

    :raises NotRestorable: it lies before the end of the oldest. :raises NoSuchSnapshot: there is none at all.
    :raises Damaged: a manifest is damaged, and may be the one.
    """
    seen = state.look(place, source)
    seen.newest()  # says so where there is none, or one that cannot be judged
    manifests = seen.manifests
    # The position of a snapshot of files is when it was committed, in microseconds: a little after its end.
    wanted = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    number = sum(manifest.position <= wanted for manifest in manifests)
    while number < len(manifests) and ended(place, manifests[number]) <= at:
        number += 1
    while number and ended(place, manifests[number - 1]) > at:
        number -= 1
    if not number:
        oldest = ended(place, manifests[0])
        raise NotRestorable(
            f"no snapshot of {source} in {place.name} ended by {at.isoformat()}: the oldest, {manifests[0].ulid}, ended"
            f" at {oldest.isoformat()}",
            hint="ask for a later time, or for a snapshot by its ULID (`mingus list`)",
        )
    return manifests[number - 1]


def ended(place: Repository, manifest: Manifest) -> datetime:
    """When *manifest*'s reading of the files ended."""
    stopped = place.manifest_body(manifest).facts.get("stopped_at")
    return datetime.fromisoformat(str(stopped)) if stopped else manifest.written_at
