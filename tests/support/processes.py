"""Processes, ports, waiting and the unprivileged user.

PostgreSQL refuses to run as root, and CI runs as root, so servers run as ``unprivileged_user()``. ``setpriv``
(util-linux, on every Debian) changes the user and asks the kernel to signal the server when its parent dies: a ``kill
-9`` of pytest leaves no server behind. That signal follows the *thread* that started the process: start servers from
the main thread.
"""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")
Argument = str | Path
POLL_INTERVAL_S = 0.02


class DeadlineExceededError(AssertionError):
    """A condition did not come true in time; an AssertionError, so that the test fails instead of erring."""


@dataclass(frozen=True)
class User:
    """An account of this machine, by number as well as by name."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> User | None:
    """The account that servers run under: ``postgres`` or ``nobody`` if this process is root, else None (yourself)."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def as_user(command: Sequence[Argument], user: User | None, parent_death_signal: str | None = None) -> list[str]:
    """The command line that runs ``command`` as ``user`` (None: unchanged), optionally signalled when its parent dies.

    ``parent_death_signal`` is a name without SIG, e.g. ``KILL``. The process keeps its pid: setpriv replaces itself.
    """
    options = ["--pdeathsig", parent_death_signal] if parent_death_signal else []
    if user is not None:
        # With its named groups: Debian's postgres reads the machine's TLS key through the group ssl-cert.
        options += ["--reuid", str(user.uid), "--regid", str(user.gid), "--init-groups"]
    line = [str(part) for part in command]
    return ["setpriv", *options, "--", *line] if options else line


def start(
    command: Sequence[Argument],
    *,
    log: IO[bytes] | int = subprocess.DEVNULL,
    user: User | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    parent_death_signal: str = "KILL",
) -> subprocess.Popen[bytes]:
    """Start a long-lived process in a session of its own, its output in ``log``; it gets the signal when this one dies.

    ``env`` is added to this process's environment. The caller ends it with ``stop``.
    """
    return subprocess.Popen(
        as_user(command, user, parent_death_signal),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )


def run(
    command: Sequence[Argument],
    *,
    user: User | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120,
    check: bool = True,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it with its output as text.

    Raises AssertionError with the command's output if it fails and ``check`` is true, ``subprocess.TimeoutExpired``
    if it takes longer than ``timeout_s``.
    """
    result = subprocess.run(
        as_user(command, user, "KILL"),
        input="" if stdin is None else stdin,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )
    if check and result.returncode != 0:
        line = " ".join(str(part) for part in command)
        raise AssertionError(f"{line}\nended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def stop(process: subprocess.Popen[bytes], *, first: signal.Signals = signal.SIGTERM, timeout_s: float = 10) -> int:
    """End a process made by ``start`` and everything in its process group; returns its exit status (negative: signal).

    Sends ``first`` to the group and, ``timeout_s`` later, SIGKILL. Does nothing to a process that has ended.
    """
    if process.poll() is None:
        kill_group(process.pid, first)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process.pid, signal.SIGKILL)
    status = process.wait(timeout_s)
    kill_group(process.pid, signal.SIGKILL)  # children that outlived their parent
    return status


def kill_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal the process group led by ``pid``; a group that is gone is fine."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def children(pid: int) -> list[int]:
    """The pids of a process's direct children (PostgreSQL's leave the process group: ``kill_group`` misses them)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # pid (name, which may hold blanks and brackets) state ppid ...
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """True if a process with this pid exists and is not a zombie."""
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def wait_until(condition: Callable[[], T], what: str, *, timeout_s: float = 30) -> T:
    """Poll until ``condition()`` is true and return its value, or raise DeadlineExceededError naming ``what``."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise DeadlineExceededError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_INTERVAL_S)


def free_port() -> int:
    """A loopback TCP port that nothing listens on at this moment (another process may take it first: retry)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    """True if something on the loopback address accepts TCP connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
