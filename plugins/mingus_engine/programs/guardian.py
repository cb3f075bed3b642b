"""The process between the engine and a server's program: whatever happens to the engine, the program ends.

Run as a script of its own (``python -I -S guardian.py UID GID ORPHAN_SIGNAL GRACE_S INPUT PROGRAM ARGUMENT…``), with
the standard library only; INPUT is the descriptor of the program's standard input, -1 = none. ``PR_SET_PDEATHSIG`` in
the program itself would follow the *thread* that started it and needs code between fork and exec of a threaded process;
this process is single-threaded, and the kernel closes the pipe on its standard input when the engine dies in whatever
way. It reads one letter per order:

* ``f`` SIGINT to the program (a server's fast shutdown), ``i`` SIGQUIT (immediate), ``t`` SIGTERM, ``k`` SIGKILL;
* end of input: ORPHAN_SIGNAL, and SIGKILL after GRACE_S seconds.

It is a subreaper: a server's backends are process groups of their own and outlive a killed postmaster, but they become
children of this process, which kills them. It ends with the program's exit status (128 + signal).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORDERS = {b"f": signal.SIGINT, b"i": signal.SIGQUIT, b"t": signal.SIGTERM, b"k": signal.SIGKILL}
_POLL_S = 0.5


def main(arguments: list[str]) -> int:
    """Start the program and see it off; returns its exit status."""
    uid, gid, orphan_signal, grace_s, given = (int(text) for text in arguments[:5])
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C and a supervisor's SIGTERM are for the engine, which tells us what to do.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    me = os.getpid()

    def die_with_guardian() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, orphan_signal)
        if os.getppid() != me:
            os._exit(125)

    try:
        program = subprocess.Popen(
            arguments[5:],
            stdin=given if given >= 0 else subprocess.DEVNULL,
            user=uid if uid >= 0 else None,
            group=gid if gid >= 0 else None,
            extra_groups=[] if uid >= 0 else None,
            preexec_fn=die_with_guardian,  # noqa: PLW1509 - this process has one thread
            start_new_session=True,
        )
    except OSError as error:
        os.write(2, f"{arguments[5]}: {error.strerror}\n".encode())
        return 127
    if given >= 0:
        os.close(given)  # who writes to the program learns at once that it has ended
    _obey(program, wake_read, orphan_signal, grace_s)
    _end_orphans()
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


def _obey(program: subprocess.Popen[bytes], wake: int, orphan_signal: int, grace_s: int) -> None:
    inputs = [0, wake]
    kill_at = None
    while program.poll() is None:
        ready, _, _ = select.select(inputs, [], [], _POLL_S if kill_at else None)
        if wake in ready:
            os.read(wake, 512)
        if 0 in ready:
            orders = os.read(0, 64)
            if not orders:
                inputs.remove(0)
                kill_at = time.monotonic() + grace_s
                _signal(program, orphan_signal)
            for order in orders:
                _signal(program, _ORDERS[bytes((order,))])
        if kill_at and time.monotonic() > kill_at:
            _signal(program, signal.SIGKILL)


def _signal(program: subprocess.Popen[bytes], number: int) -> None:
    if number == signal.SIGKILL:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, number)
    with suppress(ProcessLookupError):
        program.send_signal(number)


def _end_orphans() -> None:
    """Kill what the program left; it was adopted by this process."""
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = _children()
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    me = str(os.getpid()).encode()
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - this script starts with every program: no pathlib
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                # pid (name, which may hold blanks and brackets) state ppid …
                if stat.read().rpartition(b")")[2].split()[1] == me:
                    found.append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
