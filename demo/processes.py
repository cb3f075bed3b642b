"""Processes that do not outlive the demo, and finding those that tried to.

``setpriv`` (util-linux, on every Debian) changes the user and asks the kernel to signal the process when its parent
dies: a ``kill -9`` of the demo leaves nothing behind. That signal follows the *thread* that started the process: start
what is to stay from the main thread. ``demo.traces`` finds what outlived its parent nevertheless.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from demo import traces
from demo.errors import DemoError
from demo.places import Account

_asked: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def start(
    command: Sequence[str | Path],
    *,
    mark: Path,
    log: Path,
    env: Mapping[str, str | None] | None = None,
    account: Account | None = None,
    cwd: Path | None = None,
    death_signal: str = "TERM",
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own (Ctrl-C is ours to pass on), its output appended to *log*.

    :param mark: the demo's directory. :param env: changes to this process's environment, ``None`` = without it.
    :param death_signal: what it gets when this thread ends (without ``SIG``).
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            _as(command, account, death_signal),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(env, mark),
            cwd=cwd,
            start_new_session=True,
        )
    traces.note(mark, process.pid)
    return process


def run(
    command: Sequence[str | Path],
    *,
    mark: Path,
    env: Mapping[str, str | None] | None = None,
    account: Account | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120,
) -> str:
    """Run a command to its end and return what it wrote.

    :raises DemoError: it failed; the text holds what it wrote.
    """
    result = subprocess.run(
        _as(command, account, "KILL"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(env, mark),
        cwd=cwd,
        timeout=timeout_s,
        start_new_session=True,
        check=False,
    )
    if result.returncode != 0:
        raise DemoError(f"{Path(command[0]).name} ended with {result.returncode}:\n{result.stdout[-3000:].strip()}")
    return result.stdout


def stop(
    processes: Iterable[subprocess.Popen[bytes]], *, first: signal.Signals = signal.SIGTERM, timeout_s: float = 20
) -> None:
    """End processes made by :func:`start`, all at once, and what they left in their process groups."""
    processes = list(processes)
    for process in processes:
        ask(process, first)
    deadline = time.monotonic() + timeout_s
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        # Also the children of one that ended well: a group is empty then, or holds what must not stay.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to a process made by :func:`start`; one that has ended is fine. Not twice: that means "at once"."""
    if process.poll() is None and process not in _asked:
        _asked.add(process)
        process.send_signal(number)


def log_tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _environment(changes: Mapping[str, str | None] | None, mark: Path) -> dict[str, str]:
    merged = {**os.environ, **(changes or {}), traces.MARK: str(mark)}
    return {name: value for name, value in merged.items() if value is not None}


def _as(command: Sequence[str | Path], account: Account | None, death_signal: str) -> list[str]:
    options = ["--pdeathsig", death_signal]
    if account is not None:
        options += ["--reuid", str(account.uid), "--regid", str(account.gid), "--init-groups"]
    # The parent may have died before the kernel was asked: whoever has another one by then must not begin.
    begin = ("sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()))
    return ["setpriv", *options, "--", *begin, *(str(part) for part in command)]
