"""Progress on stderr: a bar on a terminal, a plain line every ten seconds elsewhere.

Jobs report from their worker threads, many times a second; ``update`` only keeps the newest report. One thread of its
own draws. On a terminal a phase that is over leaves a line behind.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from types import TracebackType
from typing import TextIO

from mingus_engine.cli import output
from mingus_engine.jobs.context import Progress

_DRAW_S = 0.1
_LINE_S = 10.0
# The rate is of the last seconds: a mean over the whole phase hides that a job has come to a stand.
_RATE_WINDOW_S = 8.0
_BAR_CELLS = 20


class StatusLine:
    """The last line of a terminal, kept below everything else that is written to the stream. Thread-safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the status line by *text*, cut to the terminal's width."""
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            self._shown = text[:width]
            self._write(f"\r\x1b[K{self._shown}")

    def line(self, text: str) -> None:
        """Write a line that stays, above the status line."""
        with self._lock:
            self._write(f"\r\x1b[K{text}\n{self._shown}" if self._shown else f"{text}\n")

    def clear(self) -> None:
        """Remove the status line."""
        with self._lock:
            if self._shown:
                self._shown = ""
                self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads stderr any more: no reason to end a backup.
            return


def draws_bars(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


class ProgressDisplay:
    """Shows one job's progress between ``__enter__`` and ``__exit__``.

    :param bar: draw a bar; else plain lines. :param interval_s: between two plain lines.
    """

    def __init__(self, status: StatusLine, *, bar: bool, interval_s: float = _LINE_S, unicode: bool = True) -> None:
        self._status, self._bar, self._unicode = status, bar, unicode
        self._interval_s = _DRAW_S if bar else interval_s
        self._newest: Progress | None = None
        self._meter: Meter | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="mingus-progress", daemon=True)

    def update(self, progress: Progress) -> None:
        """What a job calls (``JobContext.on_progress``)."""
        self._newest = progress

    def __enter__(self) -> ProgressDisplay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._bar:
            self._status.clear()
            self._finish_phase()

    def _draw(self) -> None:
        while not self._done.wait(self._interval_s):
            self._tick()
        if self._bar:
            self._tick()

    def _tick(self) -> None:
        progress = self._newest
        if progress is None:
            return
        if self._meter is None or self._meter.phase != progress.phase:
            if self._bar:
                self._finish_phase()
            self._meter = Meter(progress.phase)
        self._meter.update(progress)
        if self._bar:
            self._status.show(self._meter.bar(self._unicode))
        else:
            self._status.line(self._meter.line())

    def _finish_phase(self) -> None:
        if self._meter is not None:
            self._status.line(self._meter.summary())
            self._meter = None


class Meter:
    """Turns the reports of one phase into text with rate and remaining time."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._start = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque()
        self._newest = Progress(phase, 0, 0)

    def update(self, progress: Progress) -> None:
        """Take in a report of this phase."""
        now = time.monotonic()
        self._newest = progress
        self._samples.append((now, progress.done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second of late."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (now - then)) if now > then else 0.0

    def bar(self, unicode: bool = True) -> str:
        """``back up  [████████░░░░░░░░░░░░]  43 %  1.2 GiB of 2.8 GiB  212.0 MiB/s  ETA 0:08``."""
        p = self._newest
        if not p.total_bytes:
            return "  ".join([output.safe(p.phase), *self._figures()])
        share = min(1.0, p.done_bytes / p.total_bytes)
        full, empty = ("█", "░") if unicode else ("#", ".")
        cells = round(share * _BAR_CELLS)
        drawn = full * cells + empty * (_BAR_CELLS - cells)
        return "  ".join([output.safe(p.phase), f"[{drawn}] {share:4.0%}".replace("%", " %"), *self._figures()])

    def line(self) -> str:
        """The same without a bar."""
        p = self._newest
        share = [f"{min(1.0, p.done_bytes / p.total_bytes):.0%}".replace("%", " %")] if p.total_bytes else []
        return f"{output.safe(p.phase)}: " + (", ".join([*share, *self._figures()]) or "under way")

    def summary(self) -> str:
        """What stays on the terminal when the phase is over."""
        done = [output.size(self._newest.done_bytes)] if self._newest.done_bytes else []
        return "  ".join([output.safe(self.phase), *done, output.duration(time.monotonic() - self._start)])

    def _figures(self) -> list[str]:
        p, rate = self._newest, self.rate
        figures = []
        if p.total_bytes:
            figures.append(f"{output.size(p.done_bytes)} of {output.size(p.total_bytes)}")
        elif p.done_bytes:
            figures.append(output.size(p.done_bytes))
        elif p.detail:
            figures.append(output.safe(p.detail))
        if rate > 0:
            figures.append(f"{output.size(rate)}/s")
            if p.total_bytes > p.done_bytes:
                figures.append(f"ETA {output.clock((p.total_bytes - p.done_bytes) / rate)}")
        return figures
