"""What services have in common: they end in order when they are asked to, and wait out what passes by itself."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from mingus_engine.errors import (
    Cancelled,
    ClockSkew,
    CommitRefused,
    MingusError,
    ObjectMissing,
    SourceError,
    SourceUnsupported,
    StoreError,
)
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import runs, writer
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings, SourceSettings

# After a request to stop, what is left may take so long; then whatever is under way is cut off.
LAST_SLICE_S = 20.0
STATUS_S = 60.0
# A run, and with it the key of what it stores, is renewed daily; in a repository that is not the chain's first one
# sooner, to go back when the first is there again.
_RUN_S = 86400.0
_RUN_ELSEWHERE_S = 600.0
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 60.0


class Pauses:
    """Pauses that grow from failure to failure, until something went well."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def pause(self, error: MingusError, asked: threading.Event, context: JobContext) -> None:
        """Say what failed, and wait; ends early when *asked* to end."""
        longest = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2.0**self._in_a_row)
        self._in_a_row += 1
        pause = longest * (0.5 + random.random() / 2)  # noqa: S311 - only so that many do not come back at once
        context.log(f"{error.message}; again in {pause:.1f} s")
        asked.wait(pause)

    def over(self) -> None:
        """It works again."""
        self._in_a_row = 0


@contextmanager
def cut_off_after(cancel: threading.Event, seconds: float) -> Iterator[threading.Event]:
    """An event that is set *seconds* after *cancel*: what is under way then may still finish."""
    cut, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if cancel.is_set():
                if not done.wait(seconds):
                    cut.set()
                return

    watcher = threading.Thread(target=watch, name="mingus-stop", daemon=True)
    watcher.start()
    try:
        yield cut
    finally:
        done.set()
        watcher.join()


class LogService(ABC):
    """Stores a source's log for ever, until it is asked to stop: run after run, each in the first reachable repository.

    :param cut: set when what is under way shall break off (:func:`cut_off_after`).
    :ivar failures: what was waited out.
    """

    #: What is said when the time for the last slice was too short.
    late: str

    def __init__(
        self,
        settings: Settings,
        source: SourceSettings,
        context: JobContext,
        *,
        cut: threading.Event,
        status_interval_s: float,
    ) -> None:
        self._settings, self._source = settings, source
        self._asked, self._cut = context.cancel, cut
        self._context = dataclasses.replace(context, cancel=cut)
        self._status_interval_s, self._status_due = status_interval_s, 0.0
        self._pauses = Pauses()
        self._repository = ""
        self.failures = 0

    @abstractmethod
    def work(self, run: WriteRun, until: float) -> None:
        """Store until *until* (``time.monotonic``), or until asked to stop. A :class:`SourceError` ends the run well:
        what was stored stays.
        """

    def run(self) -> None:
        """Until asked to stop.

        :raises MingusError: something that no waiting mends.
        """
        while not self._asked.is_set():
            try:
                self._one_run()
            except (StoreError, SourceError, CommitRefused, ClockSkew) as error:
                if isinstance(error, SourceUnsupported | ObjectMissing):
                    raise
                self.failures += 1
                self._pauses.pause(error, self._asked, self._context)
            except Cancelled:
                self._context.log(self.late)
                return

    def _one_run(self) -> None:
        """One run in one repository; ends when it is time for another, or when asked to stop."""
        settings, source = self._settings, self._source
        with places.first_reachable(settings, source.id, self._context) as repository:
            self._repository = repository.name
            first = repository.name == settings.chain(source.id)[0]
            until = time.monotonic() + (_RUN_S if first else _RUN_ELSEWHERE_S)
            run = writer.begin(
                repository, source.id, kind=runs.LOG, spool_path=settings.spool_path, level=source.zstd_level,
                provenance=self._context.provenance,
            )  # fmt: skip
            with closing(run):
                try:
                    self.work(run, until)
                except SourceError:
                    with suppress(MingusError):
                        run.end([])
                    raise
                run.end([])

    def _working(self) -> bool:
        """It works again; whether it is time to tell where it is."""
        self._pauses.over()
        if time.monotonic() < self._status_due:
            return False
        self._status_due = time.monotonic() + self._status_interval_s
        return True
