"""How the last message to each channel ended, for the health check and for the other channels."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from mingus_engine.alerts import files
from mingus_engine.settings import CHANNELS, Settings


@dataclass(frozen=True)
class Failure:
    """The last message to a channel was not taken.

    :param at: when, ISO 8601 with offset. :param since: when the first in a row was not. :param why: for people.
    """

    channel: str
    at: str
    since: str
    why: str


def last_failures(settings: Settings) -> list[Failure]:
    """The channels whose last message was not taken; one that took the next one is not among them."""
    found = []
    for channel in CHANNELS:
        document = files.read(settings.alerts_path / f"channel-{channel}.json")
        if document and document.get("ok") is False:
            found.append(Failure(channel, *(str(document.get(key, "unknown")) for key in ("at", "since", "why"))))
    return found


def note(settings: Settings, channel: str, why: str | None) -> None:
    """Remember how a message to *channel* ended; *why* it was not taken, or ``None``. Never raises."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path = settings.alerts_path / f"channel-{channel}.json"
    document = {"ok": why is None, "at": now}
    if why is not None:
        before = files.read(path)
        since = before.get("since", now) if before and before.get("ok") is False else now
        document |= {"since": since, "why": why[:500]}
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, document)
