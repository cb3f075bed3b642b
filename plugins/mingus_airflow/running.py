"""Runs one engine job beside the task's main thread, which stays free for signals, time-outs and progress lines.

Airflow delivers an execution time-out to the main thread, as an exception at any instruction. Were the job there, it
could be cut in the middle of its own cleaning up; so it runs in a thread, is asked to stop, and is waited for.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mingus_airflow.connections import redacted
from mingus_engine.jobs.context import JobContext, Progress, Report

# Airflow sends SIGKILL five seconds after SIGTERM; after a time-out nobody hurries us, but a job that does not stop
# must not hold the worker for ever.
STOP_GRACE_S = 60.0

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class JobRunner:
    """One run of one job.

    :param provenance: plain facts for the run's record in the repository.
    :param log: the task's logger.
    :param interval_s: between two progress lines.
    """

    def __init__(self, *, provenance: Mapping[str, str], log: logging.Logger, interval_s: float = 10.0) -> None:
        self._log = log
        self._interval_s = interval_s
        self._latest: Progress | None = None
        self._done = threading.Event()
        self._outcome: Report | None = None
        self._error: BaseException | None = None
        self.context = JobContext(provenance=provenance, on_progress=self._note, log=self._say)

    def cancel(self) -> None:
        """Ask the job to stop; it raises ``Cancelled`` at its next checkpoint and leaves nothing behind."""
        self.context.cancel.set()

    def run(self, job: Callable[[JobContext], Report]) -> Report:
        """Call *job* and return its report, or raise what it raised."""
        surroundings = contextvars.copy_context()
        # A daemon, so that a job which ignores its cancel event cannot keep the process alive after a time-out.
        thread = threading.Thread(target=surroundings.run, args=(self._work, job), name="mingus-job", daemon=True)
        meter = _Meter()
        thread.start()
        try:
            while not self._done.wait(self._interval_s):
                self._log.info("%s", meter.line(self._latest))
        finally:
            if not self._done.is_set():
                self.cancel()
                self._done.wait(STOP_GRACE_S)
        thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome  # type: ignore[return-value]  # set whenever there is no error

    def _work(self, job: Callable[[JobContext], Report]) -> None:
        try:
            self._outcome = job(self.context)
        except BaseException as error:  # noqa: BLE001 - handed over to the main thread, which raises it
            self._error = error
        finally:
            self._done.set()

    def _say(self, line: str) -> None:
        self._log.info("%s", redacted(line))

    def _note(self, progress: Progress) -> None:
        self._latest = progress


class _Meter:
    """Turns progress into lines with rate and remaining time; one per run."""

    def __init__(self) -> None:
        self._start = self._since = time.monotonic()
        self._phase = ""
        self._base = 0

    def line(self, progress: Progress | None) -> str:
        now = time.monotonic()
        if progress is None:
            return f"progress: starting, {now - self._start:.0f} s so far"
        if progress.phase != self._phase:
            # The rate is the phase's own; what it did before this line is counted from the first line on.
            self._phase, self._since, self._base = progress.phase, now, progress.done_bytes
        parts = [f"progress: {progress.phase} {size(progress.done_bytes)}"]
        if progress.total_bytes:
            share = min(100.0, 100 * progress.done_bytes / progress.total_bytes)
            parts.append(f"of {size(progress.total_bytes)} ({share:.0f} %)")
        rate = (progress.done_bytes - self._base) / (now - self._since) if now > self._since else 0.0
        if rate > 0:
            parts.append(f"{size(rate)}/s")
            if progress.total_bytes > progress.done_bytes:
                parts.append(f"{(progress.total_bytes - progress.done_bytes) / rate:.0f} s left")
        if progress.detail:
            parts.append(progress.detail)
        return ", ".join([" ".join(parts[:2]), *parts[2:]])


def size(count: float) -> str:
    """*count* bytes for people: ``1.5 GiB``."""
    for unit in _UNITS[:-1]:
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def provenance_of(context: Mapping[str, Any], hostname: str) -> dict[str, str]:
    """Who asked: which DAG run, task and try, on which host, triggered by whom. Texts only, no secrets."""
    ti, run = context["ti"], context.get("dag_run")
    facts = {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index,
        "try_number": ti.try_number,
        "run_type": getattr(getattr(run, "run_type", None), "value", None),
        "triggered_by": getattr(run, "triggering_user_name", None),
        "hostname": hostname,
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
