"""Running the programs of a server: unprivileged, with a clean environment, and never outliving the engine.

The environment of a program is made from nothing: no variable of the engine's redirects it and no secret of it reaches
it. Nothing secret is ever an argument, since arguments are public on a machine. Programs are children of
:mod:`mingus_engine.programs.guardian`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.errors import ComponentMissing, MingusError
from mingus_engine.programs.accounts import Account

_GUARDIAN = Path(__file__).with_name("guardian.py")
# What is kept of a program's output: enough for a report, whatever the program says.
OUTPUT_MAX_BYTES = 256 * 1024
# After the engine died, a program has this long to end by itself.
ORPHAN_GRACE_S = 10
_POLL_S = 0.1


@dataclass(frozen=True)
class Done:
    """How a program ended. ``code`` is negative for a signal; ``output`` (both streams) is cut to OUTPUT_MAX_BYTES."""

    code: int
    output: str
    seconds: float

    def first_lines(self, count: int) -> str:
        """The first lines of the output, in one line."""
        return "; ".join(self.output.strip().splitlines()[:count])


class Guarded:
    """A running program under its guardian. ``order`` and ``wait`` may be called in any state."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def code(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code > 128 else code

    def order(self, letter: bytes) -> None:
        """Pass an order to the guardian (see there)."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(letter)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the program and of all it started; ``False`` when it takes longer."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def kill(self) -> None:
        """SIGKILL to the program; returns when it and all that it started is gone. Idempotent."""
        self.order(b"k")
        self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()


class InstalledPrograms:
    """The programs in one directory; subclasses, frozen dataclasses, say what they are of."""

    directory: Path

    @property
    def package(self) -> str:
        """What they are of and where they come from, for messages."""
        return self.directory.name

    def has(self, name: str) -> bool:
        """Whether the program is installed."""
        return os.access(self.directory / name, os.X_OK)

    def path(self, name: str) -> Path:
        """Path of a program.

        :raises ComponentMissing: it is not installed; the message names the package.
        """
        if not self.has(name):
            raise ComponentMissing(f"program {name} of {self.package} is not in {self.directory}")
        return self.directory / name

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        account: Account | None,
        output: int,
        environment: Mapping[str, str] | None = None,
        errors: int | None = None,
        given: int = -1,
        orphan_signal: signal.Signals = signal.SIGKILL,
        group: int = -1,
    ) -> Guarded:
        """Start a program in the background, its output to the descriptor *output*.

        :param errors: descriptor of its standard error; default: *output*. :param given: of its standard input; -1 =
            none.
        :param orphan_signal: what it gets when the engine dies.
        :raises ComponentMissing: it is not installed.
        """
        uid, gid = account.owner if account else (-1, group)
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(_GUARDIAN)),
                *(str(uid), str(gid), str(int(orphan_signal)), str(ORPHAN_GRACE_S), str(given)),
                *(str(self.path(name)), *arguments),
            ],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output if errors is None else errors,
            pass_fds=() if given < 0 else (given,),
            cwd="/",
            env={**self._environment(), **(environment or {})},
            umask=0o077,
            start_new_session=True,
        )
        return Guarded(process)

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        account: Account | None,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> Done:
        """Run a program to its end.

        :param checkpoint: called some times a second; what it raises ends the program and is passed on.
        :raises ComponentMissing: it is not installed.
        :raises MingusError: it did not end in time (and was killed).
        """
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            running = self.start(name, arguments, account=account, output=output.fileno(), environment=environment)
            try:
                while not running.wait(_POLL_S):
                    checkpoint()
                    if time.monotonic() - started > timeout_s:
                        raise MingusError(f"program {name} did not end within {timeout_s:g} s")
            finally:
                running.kill()
            output.seek(0)
            text = output.read(OUTPUT_MAX_BYTES).decode(errors="replace")
        code = running.code
        return Done(-1 if code is None else code, text, round(time.monotonic() - started, 3))

    def _environment(self) -> dict[str, str]:
        # A home that does not exist: no .pgpass, no service file, no client certificate is picked up.
        path = f"{self.directory}:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "HOME": "/nonexistent", "LC_ALL": "C", "TZ": "UTC"}
