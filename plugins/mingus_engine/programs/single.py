"""Running one program by its path: for a bounded time, with a bounded output, nothing of it left running."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.programs.accounts import Account
from mingus_engine.programs.running import Done, InstalledPrograms

__all__ = ["Done", "TimedOut", "run"]

# What is kept of the output: its end, which says how it ended.
OUTPUT_KEPT_BYTES = 16 * 1024
_POLL_S = 0.05


class TimedOut(Exception):
    """The program did not end in time, and was killed with all that it had started."""


@dataclass(frozen=True)
class _Folder(InstalledPrograms):
    directory: Path


def run(
    argv: Sequence[str],
    *,
    account: Account | None,
    timeout_s: float,
    environment: Mapping[str, str],
    checkpoint: Callable[[], None] = lambda: None,
    kept_bytes: int = OUTPUT_KEPT_BYTES,
) -> Done:
    """Run the program *argv*, its path first, with no environment but PATH, HOME, LC_ALL, TZ and *environment*.

    :param checkpoint: called some times a second; what it raises ends the program and is passed on.
    :returns: its exit status, and the last *kept_bytes* of both its streams.
    :raises ComponentMissing: it is not there or may not be run. :raises TimedOut:
    """
    path, started = Path(argv[0]), time.monotonic()
    receive, send = os.pipe()
    kept = bytearray()
    reader = threading.Thread(target=_keep_end, args=(receive, kept, kept_bytes), daemon=True)
    try:
        try:
            running = _Folder(path.parent).start(
                path.name, argv[1:], account=account, output=send, environment=environment
            )
        finally:
            os.close(send)
        reader.start()
        try:
            while not running.wait(_POLL_S):
                checkpoint()
                if time.monotonic() - started > timeout_s:
                    raise TimedOut
        finally:
            running.kill()
            reader.join()
    finally:
        os.close(receive)
    code = running.code
    text = kept[-kept_bytes:].decode(errors="replace")
    return Done(-1 if code is None else code, text, round(time.monotonic() - started, 3))


def _keep_end(descriptor: int, kept: bytearray, most: int) -> None:
    while piece := os.read(descriptor, 65536):
        kept += piece
        del kept[:-most]
