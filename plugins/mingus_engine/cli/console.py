"""What the command line writes, and where: results to stdout, the rest to stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TextIO

from mingus_engine.cli import output
from mingus_engine.cli.progress import ProgressDisplay, StatusLine, draws_bars
from mingus_engine.errors import MingusError

_POLL_S = 0.5


class OutputClosed(Exception):
    """Whoever reads stdout has gone (``mingus cat … | head``): the command ends without a word, as `cat` would."""

    #: What a shell reports for a program that ended by SIGPIPE.
    exit_code = 141


class Console:
    """The two streams of one command.

    :param as_json: stdout gets one JSON document and nothing else. :param quiet: no progress, no notes.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        if sys.stdout is None or sys.stderr is None:
            raise SystemExit(2)  # closed by the caller: there is nowhere to show anything, an escrow key least of all
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self._out: TextIO = sys.stdout
        self._status = StatusLine(sys.stderr)
        self._listed: tuple[str, int] | None = None

    def lines(self, lines: Iterable[str]) -> None:
        """Part of the human result."""
        for line in lines:
            self.line(line)

    def line(self, text: str = "") -> None:
        """One line of the human result."""
        if not self.as_json:
            self._write(text + "\n")

    def document(self, value: Mapping[str, Any]) -> None:
        """The JSON result; nothing without ``--json``."""
        if not self.as_json:
            return
        text = json.dumps(value, default=_plain, ensure_ascii=False, indent=2)
        if self._listed is not None:
            key, count = self._listed
            self._listed = None
            if not count:
                self._write(f"{{\n  {json.dumps(key)}: [")
            self._write("\n  ]" + (f",{text[1:]}" if value else "\n}") + "\n")
        else:
            self._write(text + "\n")

    def begin_list(self, key: str) -> None:
        """The JSON result begins with the list *key*, whose members :meth:`item` writes as they come; ``document`` adds
        what else there is.
        """
        self._listed = key, 0

    def item(self, value: Mapping[str, Any]) -> None:
        """The next member of the list; nothing without ``--json``."""
        if not self.as_json or self._listed is None:
            return
        key, count = self._listed
        self._listed = key, count + 1
        self._write(f"{{\n  {json.dumps(key)}: [\n    " if not count else ",\n    ")
        self._write(json.dumps(value, default=_plain, ensure_ascii=False))

    def json_line(self, value: Mapping[str, Any]) -> None:
        """One JSON document of several, on a line of its own; nothing without ``--json``."""
        if self.as_json:
            self._write(json.dumps(value, default=_plain, ensure_ascii=False) + "\n")

    def write_bytes(self, data: memoryview, checkpoint: Callable[[], None]) -> None:
        """Raw bytes to stdout (``cat``). *checkpoint* is called while a slow reader is waited for, too.

        A write begins only where there is room, so a signal during it ends it with a part written instead of being
        lost in a retry inside the interpreter.
        """
        out = self._out.fileno()
        try:
            while data:
                checkpoint()
                if select.select([], [out], [], _POLL_S)[1]:
                    data = data[os.write(out, data) :]
        except OSError as error:
            raise self._lost(error) from None

    def flush(self) -> None:
        """Make sure that the result has left the process.

        :raises OutputClosed: :raises MingusError: stdout takes no more.
        """
        try:
            self._out.flush()
        except OSError as error:
            raise self._lost(error) from None

    def note(self, text: str) -> None:
        """Something worth knowing, on stderr."""
        if not self.quiet:
            self._status.line(f"mingus: {output.safe(text)}")

    def warn(self, text: str) -> None:
        """Something that must be known, on stderr, also when quiet."""
        self._status.line(f"mingus: warning: {output.safe(text)}")

    def error(self, text: str, hint: str) -> None:
        """Why the command failed, and what to do."""
        self._status.line(f"mingus: error: {output.safe(text)}")
        if hint:
            self._status.line(f"hint: {output.safe(hint)}")

    def trace(self, text: str) -> None:
        """Lines as they are (a traceback)."""
        self._status.line(text.rstrip("\n"))

    def progress(self) -> ProgressDisplay | None:
        """A display of a job's progress; ``None`` when quiet."""
        if self.quiet:
            return None
        unicode = (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
        return ProgressDisplay(self._status, bar=draws_bars(sys.stderr), unicode=unicode)

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
        except UnicodeEncodeError:
            # A terminal of another encoding: escapes instead of an error.
            encoding = self._out.encoding or "ascii"
            self._out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError) -> Exception:
        # Python flushes stdout once more at its end and would report the same error again.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if isinstance(error, BrokenPipeError):
            return OutputClosed()
        return MingusError(f"cannot write the result to stdout: {error.strerror}")


def error_document(error: MingusError) -> dict[str, Any]:
    """The member ``error`` of a JSON result."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "transient": error.transient,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return output.when(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)
