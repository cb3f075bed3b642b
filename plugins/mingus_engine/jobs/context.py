"""What every job is given besides its settings: who asked, whom to tell, when to stop.

A job is one function ``job(settings, source_id, *, context, …) -> …Report``. It may be called from the command line,
from an Airflow task or from a test; it never prints, never exits and never reads the environment by itself.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mingus_engine.errors import Cancelled


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. ``total_bytes`` 0 = unknown. ``phase`` is a verb of the product's vocabulary."""

    phase: str
    done_bytes: int
    total_bytes: int
    detail: str = ""


@dataclass
class JobContext:
    """Shared by a job and its caller.

    :param provenance: plain facts about who asked (host, user, Airflow DAG run and task), stored with the run. No
        secrets.
    :param on_progress: called often from the job's threads; must be quick and never raise.
    :param cancel: set by the caller (``on_kill``, Ctrl-C) to stop the job; it ends with :class:`Cancelled` and cleans
        up.
    """

    provenance: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    log: Callable[[str], None] = lambda _: None

    def progress(self, phase: str, done: int, total: int, detail: str = "") -> None:
        """Tell the caller; cheap enough for every slab."""
        if self.on_progress is not None:
            self.on_progress(Progress(phase, done, total, detail))

    def checkpoint(self) -> None:
        """Where a job may be stopped.

        :raises Cancelled: the caller asked for it.
        """
        if self.cancel.is_set():
            raise Cancelled("the job was cancelled; nothing was committed")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Base of what jobs return: small, JSON-able, free of secrets; Airflow stores it as the task's return value."""

    job: str
    source: str
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """A dict of JSON types, ``None`` values left out."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


class Stopwatch:
    """Wall seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far, rounded to milliseconds."""
        return round(time.monotonic() - self._start, 3)
