"""Values as people read them: sizes, durations, times, aligned tables. Pure functions from values to text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime

# Rows of a long table that are waited for before its columns are as wide as they shall be.
_AHEAD = 1000
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """*count* bytes: ``512 B``, ``1.5 GiB``."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in _UNITS:
        count /= 1024
        # 1023.95 would read as 1024.0 of the unit that it is not.
        if abs(count) < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 03 min``, ``3 d 04 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def clock(seconds: float) -> str:
    """A remaining time for a progress bar: ``0:08``, ``1:02:03``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def when(moment: datetime | None) -> str:
    """A time as ISO 8601 in UTC, to the second; ``-`` for none."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(count: int) -> str:
    """``1,234,567``."""
    return f"{count:,}"


def yes_no(value: bool) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def safe(text: str) -> str:
    """*text* on one line, without anything that a terminal would obey: names of files and servers are not trusted."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Lines of an aligned table. *right*: numbers of the columns that are aligned to the right."""
    cells = [list(headers), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    return lines


class Columns:
    """A table of any length, written while its rows come: the first of them decide how wide its columns are.

    :param write: is given each line. :param right: as of :func:`table`.
    """

    def __init__(self, headers: Sequence[str], write: Callable[[str], None], *, right: Collection[int] = ()) -> None:
        self._headers, self._write, self._right = headers, write, right
        self._waiting: list[list[str]] = []
        self._widths: list[int] = []

    def add(self, row: Sequence[str]) -> None:
        """One more row."""
        cells = [safe(cell) for cell in row]
        if self._widths:
            self._line(cells)
            return
        self._waiting.append(cells)
        if len(self._waiting) >= _AHEAD:
            self.end()

    def end(self) -> None:
        """No more come: write what waits; nothing where there was none at all."""
        if self._waiting:
            rows, self._waiting = [list(self._headers), *self._waiting], []
            self._widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                self._line(row)

    def _line(self, row: Sequence[str]) -> None:
        cells = enumerate(zip(row, self._widths, strict=True))
        self._write("  ".join(c.rjust(w) if i in self._right else c.ljust(w) for i, (c, w) in cells).rstrip())


def fields(pairs: Iterable[tuple[str, str]], *, indent: str = "") -> list[str]:
    """Lines of labels and values, the values aligned."""
    known = [(label, safe(value)) for label, value in pairs]
    width = max((len(label) for label, _ in known), default=0)
    return [f"{indent}{label.ljust(width)}  {value}".rstrip() for label, value in known]


def framed(lines: Sequence[str]) -> list[str]:
    """*lines* in a box, which nobody overlooks."""
    width = max(map(len, lines))
    edge = "+" + "-" * (width + 4) + "+"
    return [edge, *(f"|  {line.ljust(width)}  |" for line in lines), edge]
