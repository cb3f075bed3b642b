"""Finds the demo's processes without having started them: after a ``kill -9`` of ``up`` and whatever survived it.

Three traces, for none alone would do: the mark in the environment (lost when a process writes its title over it, as
Airflow's workers do), the session (those begun here are noted in a file; but numbers are used again), and the working
directory (unreadable for processes that refuse to be dumped, as Airflow's tasks do).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demo.errors import DemoError

# Never read from the environment, only set for children: a shell that exports it would mark the user's own processes.
MARK = "MINGUS_DEMO_MARK"
_SESSIONS = "sessions"
# Working in the demo's directory, they are its own, whoever started them.
_SERVERS = ("postgres", "redis-server")


@dataclass(frozen=True)
class _Stat:
    """What ``/proc/<pid>/stat`` says; everybody may read it."""

    pid: int
    name: str
    state: str
    session: int
    begin: int


def note(mark: Path, pid: int) -> None:
    """Note the session that *pid*, its leader, has begun, in the directory *mark*."""
    if (found := _stat(pid)) is not None:
        with (mark / _SESSIONS).open("a", encoding="ascii") as out:
            out.write(f"{_boot()} {pid} {found.begin}\n")


def find(mark: Path, *directories: Path) -> list[int]:
    """The processes of the demo in *mark*, whoever started them.

    :param directories: where else its processes work; a database server with its data there is the demo's.
    """
    sessions = _sessions(mark)
    roots = (mark, *directories)
    return [stat.pid for stat in _all() if _is_ours(stat, mark, roots, sessions)]


def end(mark: Path, *directories: Path, timeout_s: float = 15) -> int:
    """End every process of the demo: asked first, killed after *timeout_s*. Returns how many there were.

    :raises DemoError: some do not even end when killed.
    """
    deadline = time.monotonic() + timeout_s
    asked: set[int] = set()
    while left := find(mark, *directories):
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + 10:
            raise DemoError(f"processes {left} do not end")
        for pid in left:
            # Asked twice, Airflow's components leave without tidying up.
            if late or pid not in asked:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.1)
    return len(asked)


def _is_ours(stat: _Stat, mark: Path, roots: tuple[Path, ...], sessions: dict[int, int]) -> bool:
    if stat.pid == os.getpid() or stat.state in "ZX":
        return False
    folder = Path("/proc") / str(stat.pid)
    with suppress(OSError):
        if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
            return True
    try:
        here: Path | None = (folder / "cwd").readlink()
    except OSError:
        here = None
    inside = here is not None and any(here.is_relative_to(root) for root in roots)
    # A number is not given to another process while a session bears it, so an older member is proof of reuse.
    in_session = stat.session in sessions and stat.begin >= sessions[stat.session]
    return (in_session and (inside or here is None)) or (inside and stat.name in _SERVERS)


def _sessions(mark: Path) -> dict[int, int]:
    """Noted sessions of this boot whose number was not given to another leader since → when they began."""
    try:
        lines = (mark / _SESSIONS).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    sessions = {}
    for line in lines:
        boot, pid, begin = line.split()
        leader = _stat(int(pid))
        if boot == _boot() and (leader is None or leader.begin == int(begin)):
            sessions[int(pid)] = int(begin)
    return sessions


def _all() -> Iterator[_Stat]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            yield stat


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # pid (name, which may hold blanks and brackets) state ppid pgrp session …; the 22nd is the time it began.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return _Stat(pid, head.partition("(")[2], fields[0], int(fields[3]), int(fields[19]))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
