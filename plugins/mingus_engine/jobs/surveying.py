"""What ``windows`` of every kind of source has in common: each repository of the chain is looked at, one report."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from mingus_engine.errors import MingusError, NotARepository, NotRestorable, StoreError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings


class Stretch(Protocol):
    """A window or a gap of a source of any kind; times are ``None`` where they are not known."""

    @property
    def start_time(self) -> datetime | None:
        """Of its first moment."""

    @property
    def end_time(self) -> datetime | None:
        """Of its last moment."""

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""


W = TypeVar("W", bound=Stretch)
G = TypeVar("G", bound=Stretch)


@dataclass(frozen=True)
class Found(Generic[W, G]):
    """What one repository can restore.

    :param windows: the newest one last. :param unusable: ULID → why the snapshot opens no window.
    :param damaged: stored name of a log container that is not whole → what is wrong with it; it counts as not there.
    """

    windows: tuple[W, ...]
    gaps: tuple[G, ...]
    unusable: dict[str, str]
    damaged: dict[str, str] = field(default_factory=dict)

    def newest(self) -> W | None:
        """The window that a restore to ``latest`` uses."""
        return self.windows[-1] if self.windows else None


@dataclass(frozen=True, kw_only=True)
class WindowsReport(Report):
    """Per repository: its windows, gaps and unusable snapshots, or why it was not read.

    :param restorable_from, restorable_to: the newest window of the first repository that was read; ISO 8601, ``None``
        = unknown. :param rpo_s: age of its end in seconds.
    """

    repositories: list[dict[str, Any]]
    unreachable: dict[str, str]
    restorable_from: str | None = None
    restorable_to: str | None = None
    rpo_s: float | None = None


def survey(
    settings: Settings,
    source_id: str,
    repository: str | None,
    look: Callable[[Repository, str], Found[W, G]],
    *,
    context: JobContext,
) -> WindowsReport:
    """What *look* finds of *source_id* in *repository* (default: in each of its chain).

    :raises MingusError: no repository could be read; the error of the first.
    """
    clock = Stopwatch()
    chosen = (settings.repository(repository).name,) if repository else settings.chain(source_id)
    listed: list[dict[str, Any]] = []
    unreachable: dict[str, str] = {}
    first: MingusError | None = None
    newest: W | None = None
    for name in chosen:
        context.checkpoint()
        try:
            with places.opened(settings, name, context) as place:
                found = look(place, source_id)
        except (StoreError, NotARepository) as error:
            unreachable[name] = error.message
            first = first or error
            continue
        newest = newest or found.newest()
        listed.append({
            "repository": name,
            "windows": [window.as_dict() for window in found.windows],
            "gaps": [gap.as_dict() for gap in found.gaps],
            "unusable": found.unusable,
            "damaged": found.damaged,
        })  # fmt: skip
    if first is not None and not listed:
        raise first
    return WindowsReport(
        job="windows", source=source_id, duration_s=clock.seconds, repositories=listed, unreachable=unreachable,
        **summary(newest, utc_now()),
    )  # fmt: skip


def summary(newest: Stretch | None, now: datetime) -> dict[str, Any]:
    """``restorable_from``, ``restorable_to`` (ISO 8601) and ``rpo_s`` for the report of a task; ``None`` = unknown."""
    start, end = (newest.start_time, newest.end_time) if newest else (None, None)
    return {
        "restorable_from": iso(start),
        "restorable_to": iso(end),
        "rpo_s": round(max(0.0, (now - end).total_seconds()), 1) if end else None,
    }


def random_second(windows: Iterable[Stretch], seed: int) -> datetime:
    """A second inside the last of *windows* whose times are known; the same one for the same *seed* and window.

    :raises NotRestorable: there is none.
    """
    known = [times for window in windows if (times := known_times(window))]
    if not known:
        raise NotRestorable("there is no window whose first and last moment are known")
    return second_between(*known[-1], seed)


def known_times(window: Stretch) -> tuple[datetime, datetime] | None:
    """First and last moment of *window*; ``None``: not known, or there is nothing between them."""
    start, end = window.start_time, window.end_time
    return (start, end) if start and end and start < end else None


def second_between(start: datetime, end: datetime, seed: int) -> datetime:
    """A second from *start* to *end*, or a moment where no second lies between; the same one for the same *seed*."""
    # By ratio, so that the choice needs no more of the generator than one call.
    moment = start + (end - start) * random.Random(seed).random()  # noqa: S311 - a sample, not a secret
    second = moment.replace(microsecond=0)
    return second if second >= start else moment


def iso(at: datetime | None) -> str | None:
    """ISO 8601; ``None`` = unknown."""
    return at.isoformat() if at else None


def shown(position: str, at: datetime | None) -> str:
    """A position in the log for messages, with its moment where that is known: ``0/3000100 (2026-…Z)``."""
    return f"{position} ({at:%Y-%m-%d %H:%M:%S.%f}Z)" if at else position
