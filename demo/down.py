"""``python -m demo down`` and ``status``."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress

from demo import places, traces
from demo.console import Console
from demo.errors import DemoError

_UP_ENDS_WITHIN_S = 60.0


def down(console: Console) -> int:
    """End every process of the demo and remove its files, whatever state ``up`` left; returns the exit code."""
    root = places.chosen_directory()
    places.refuse_foreign(root)
    here = places.find(root)
    if here is None:
        console.plain(f"there is no demo in {root}")
        return 0
    if (pid := places.runner(root)) is not None:
        console.plain(f"ending the demo (process {pid})")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _UP_ENDS_WITHIN_S
        while places.runner(root) == pid:
            if time.monotonic() > deadline:
                raise DemoError(f"process {pid} does not end; `kill -9 {pid}` and run this again")
            time.sleep(0.1)
    ended = traces.end(root, here.servers, timeout_s=6)
    places.remove(here)
    console.plain(f"removed {root}" + (f" and {ended} processes" if ended else ""))
    return 0


def status(console: Console) -> int:
    """Say whether the demo runs and where; returns 0 when it does, else 3 (as ``systemctl status`` does)."""
    root = places.chosen_directory()
    pid = places.runner(root) if places.find(root) else None
    if pid is None:
        left = " (its files are there: `make demo-down` removes them)" if places.find(root) else ""
        console.plain(f"no demo is running in {root}{left}")
        return 3
    console.plain(f"the demo runs as process {pid} in {root}")
    with suppress(FileNotFoundError):
        noted = json.loads((root / "status.json").read_text(encoding="utf-8"))
        console.plain(f"Airflow: {noted['url']}   login: {noted['user']} / {noted['password']}")
    return 0
