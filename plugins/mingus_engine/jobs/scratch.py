"""Scratch directories of restore tests: made, locked while in use, and wiped in every outcome.

The lock dies with its process, so the next test also wipes what a killed one left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mingus_engine import ulids
from mingus_engine.errors import TargetError


@contextmanager
def scratch_directory(parent: Path, owner: tuple[int, int] | None) -> Iterator[Path]:
    """A fresh directory below *parent*, removed afterwards with all that is in it.

    :param owner: uid and gid it is given to.
    :raises TargetError: it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        wipe_abandoned(parent)
        made = parent / ulids.new()
        lock = os.open(made.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        made.mkdir(mode=0o711)
        if owner is not None:
            os.chown(made, *owner)
    except OSError as error:
        raise TargetError(f"cannot make a scratch directory in {parent}: {error.strerror}") from None
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        made.with_suffix(".lock").unlink(missing_ok=True)
        os.close(lock)
        if made.exists():
            raise TargetError(
                f"scratch directory {made} could not be removed", hint="it holds decrypted data: remove it"
            )


def wipe_abandoned(parent: Path) -> list[Path]:
    """Remove what tests left whose process is gone; what was removed."""
    removed = []
    for path in parent.iterdir():
        if not (path.is_dir() and ulids.is_ulid(path.name)):
            continue
        lock_path = path.with_suffix(".lock")
        lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(FileNotFoundError):
                lock_path.unlink()
            removed.append(path)
        finally:
            os.close(lock)
    return removed
