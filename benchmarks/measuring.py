"""What a command costs: wall time, CPU time of everybody who worked for it, memory, and what else the machine did.

CPU time of the *client* is what the kernel accounts to the command and to every descendant it waited for (``wait4``).
CPU time of the *server* is the growth, over the run, of the postmaster's own time, of the time of its children that
have ended (which the kernel adds to the postmaster: backends, walsenders) and of its children that still run. Both
together are compared: a backup through a connection costs most in the server. ``others`` is all other CPU time of the
machine in the meantime; on two cores it shows how far a wall time can be trusted.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.05


class CommandFailed(Exception):
    """A measured program failed; the message has the end of its output."""


@dataclass(frozen=True)
class Cost:
    """One run. Seconds and MiB; ``peak_mib`` is the sum over the command's processes that lived at one time."""

    wall_s: float
    client_s: float
    server_s: float
    others_s: float
    peak_mib: float

    @property
    def cpu_s(self) -> float:
        """Client and server."""
        return self.client_s + self.server_s


@dataclass(frozen=True)
class Outcome:
    """A measured command: its cost and what it wrote to standard output."""

    cost: Cost
    output: str


def measure(
    command: Sequence[str | Path],
    *,
    server_pid: int | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path,
) -> Outcome:
    """Run *command* as the unprivileged user and return what it cost.

    :param server_pid: the postmaster that works for it, if any.
    :raises CommandFailed: it did not end with 0.
    """
    user = processes.unprivileged_user()
    line = processes.as_user(command, user, "KILL")
    # Only what a program needs: another program's configuration in the environment would change what is measured.
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C.UTF-8", **(env or {})}
    busy, served = _machine_s(), server_s(server_pid)
    started = time.monotonic()
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=cwd, text=True
    )
    memory = _Memory(process.pid)
    try:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
        reader.start()
        if process.stdin is not None and process.stdout is not None:
            process.stdin.write(stdin)
            process.stdin.close()
            output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    finally:
        memory.stop()
        if process.returncode is None:
            process.kill()
            process.wait()
    if process.returncode:
        shown = " ".join(map(str, command))
        raise CommandFailed(f"{shown}\nended with {process.returncode}\n{output[-2000:]}\n{errors[0][-4000:]}")
    client, server = usage.ru_utime + usage.ru_stime, server_s(server_pid) - served
    others = _machine_s() - busy - client - server
    return Outcome(Cost(wall, client, server, max(0.0, others), memory.peak_kib / 1024), output)


class _Memory:
    """Samples the command's processes; the peak of the sum of their peaks so far, among those alive."""

    def __init__(self, pid: int) -> None:
        self.peak_kib = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        tick = 0
        tree = [self._pid]
        while not self._ended.wait(_SAMPLE_S):
            if tick % 4 == 0:  # looking through /proc costs more than looking at known processes
                tree = _tree(self._pid)
            tick += 1
            self.peak_kib = max(self.peak_kib, sum(map(_peak_kib, tree)))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += _tree(int(child))
        except OSError:
            continue
    return found


def _peak_kib(pid: int) -> int:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def server_s(pid: int | None) -> float:
    """CPU time so far of a postmaster and of all its children, ended or running."""
    if pid is None:
        return 0.0
    own = _times(pid)
    return sum(own) + sum(sum(_times(child)[:2]) for child in processes.children(pid))


def _times(pid: int) -> tuple[float, float, float, float]:
    """User and system time of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0, 0.0, 0.0
    user, system, ended_user, ended_system = (int(field) * _TICK_S for field in fields[11:15])
    return user, system, ended_user, ended_system


def _machine_s() -> float:
    """CPU time of the whole machine that was not idle."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) * _TICK_S
