"""Letting the server write its RDB to its own disk, and reading it there.

The file is opened once it is ours: a later save puts another file in its place, which leaves the open one as it was.
Source: ``rdb.c`` of Redis 7.0 (``bgsaveCommand``, ``rdbSaveBackground``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import redis

from mingus_engine.errors import BackupBroken, Cancelled, SourceDenied, SourceUnsupported
from mingus_engine.redis.client import ask, mapped, place
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis.server import Info, read_info

_POLL_S = 0.2
_FORK_HINT = "the server's log says why; a full disk and too little memory to fork (vm.overcommit_memory) are usual"


def save(
    client: redis.Redis, conn: RedisConnection, directory: Path, *, timeout_s: float, cancel: threading.Event
) -> tuple[BinaryIO, int]:
    """Have the server save, and open what it wrote: the file, and the server's clock (s) before it forked.

    A save that is under way was begun before; it is waited for, and another one asked for.

    :raises BackupBroken: the save failed, or took too long. :raises SourceDenied: the file, or BGSAVE, is forbidden.
    :raises SourceUnsupported: *directory* is not the server's. :raises Cancelled:
    """
    deadline = time.monotonic() + timeout_s

    def wait(what: str, done: Callable[[Info], bool]) -> Info:
        while not done(info := read_info(client, conn)):
            if cancel.wait(_POLL_S):
                raise Cancelled("the backup was cancelled")
            if time.monotonic() > deadline:
                raise BackupBroken(
                    f"{place(conn)}: {what} within save_timeout_s = {timeout_s:g} s", hint="raise redis.save_timeout_s"
                )
        return info

    name = _dbfilename(client, conn)
    before, began = wait("another save did not end", _idle), 0
    while not began:
        began = _begin(client, conn)
        if not began:
            before = wait("another save did not end", _idle)
    saved, forks = before.number("rdb_saves"), before.number("total_forks")

    def ended(info: Info) -> bool:
        # It may be put off, so an earlier failure must not be taken for its own.
        failed = info.get("rdb_last_bgsave_status") != "ok" and info.number("total_forks") > forks
        return _idle(info) and (info.number("rdb_saves") > saved or failed)

    after = wait("the save did not end", ended)
    if after.get("run_id") != before.get("run_id"):
        raise BackupBroken(f"{place(conn)}: the server was restarted while it saved")
    if after.get("rdb_last_bgsave_status") != "ok":
        raise BackupBroken(
            f"{place(conn)}: BGSAVE failed, says the server; {_space(directory)}",
            hint=_FORK_HINT,
        )
    return _open(conn, directory / name), began


def _begin(client: redis.Redis, conn: RedisConnection) -> int:
    """Ask for a save; the server's clock (s) right before, or 0 = somebody else's is under way."""
    with mapped(conn, "BGSAVE"):
        seconds, _ = ask(client, "TIME")
        try:
            # While the append-only file is rewritten it is put off until that has ended.
            ask(client, "BGSAVE", "SCHEDULE")
        except redis.ResponseError as error:
            if "in progress" in str(error):
                return 0
            if "fork" not in str(error):
                raise
            raise BackupBroken(f"{place(conn)}: BGSAVE: {error}", hint=_FORK_HINT) from None
    return int(seconds)


def _idle(info: Info) -> bool:
    return info.get("rdb_bgsave_in_progress") != "1"


def _dbfilename(client: redis.Redis, conn: RedisConnection) -> str:
    with mapped(conn, "CONFIG GET dbfilename"):
        found = ask(client, "CONFIG", "GET", "dbfilename")
    name = found[1].decode("utf-8", "surrogateescape") if len(found) == 2 else "dump.rdb"
    if not name or "/" in name:
        raise SourceUnsupported(f"{place(conn)}: dbfilename {name!r} is not a file's name")
    return str(name)


def _open(conn: RedisConnection, path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except PermissionError:
        raise SourceDenied(f"{place(conn)}: cannot read {path}: permission denied") from None
    except OSError as error:
        raise SourceUnsupported(
            f"{place(conn)}: cannot read {path}: {error.strerror}",
            hint="redis.data_directory is where this machine sees the server's directory (CONFIG GET dir)",
        ) from None


def _space(directory: Path) -> str:
    try:
        status = os.statvfs(directory)
    except OSError:
        return f"{directory} cannot be looked at"
    return f"{status.f_bavail * status.f_frsize} bytes are free in {directory}"
