"""Asking a server for its RDB as a replica does.

Source: ``replication.c`` of Redis 7.0 (``syncCommand``, ``replicationSetupSlaveForFullResync``,
``updateSlavesWaitingBgsave``), ``redis-cli.c`` (``sendSync``).

``REPLCONF rdb-only`` (7.0) says that the commands after the RDB are not wanted: the server keeps no output buffer for
this reader, so ``client-output-buffer-limit replica`` cannot cut off one that is slow, does not count it as a replica
that acknowledges writes, and closes the connection itself.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from mingus_engine.errors import BackupBroken, SourceError, SourceUnreachable, SourceUnsupported
from mingus_engine.redis.client import place, reply_error
from mingus_engine.redis.link import Link
from mingus_engine.sources.redis.rdb_stream import MARK_BYTES, Framing, TransferCut

#: Who forks sends a newline each second; who is at it for longer than this without any is frozen.
SILENCE_S = 120.0
#: Who names no port is listed by the primary as a replica at port 0, which Sentinels remember for ever as one that is
#: down. No port at all makes them pass over it.
NO_PORT = -1
_FULLRESYNC = re.compile(r"FULLRESYNC ([0-9a-f]{40}) ([0-9]{1,19})")
_LENGTH = re.compile(rb"\$([0-9]{1,19})")
_MARK = re.compile(rb"\$EOF:([0-9a-f]{%d})" % MARK_BYTES)


@dataclass(frozen=True)
class FullSync:
    """What the server said before it sends: its history, where in it the RDB is, how the RDB ends.

    :param rdb_only: whether it closes the connection behind the RDB; else the commands follow.
    """

    replid: str
    offset: int
    framing: Framing
    rdb_only: bool


def full_sync(link: Link, timeout_s: float, *, rdb_only: bool = True) -> FullSync:
    """Make the server fork; returns when the next byte of *link* is the first of the RDB.

    :param timeout_s: for the server to load, to wait for another save, to fork, and without diskless replication to
        write the RDB to its disk.
    :raises SourceDenied: the user may not. :raises SourceUnsupported: the server does not replicate.
    :raises SourceUnreachable: it cannot now. :raises BackupBroken: it did not in time. :raises Cancelled:
    :raises TransferCut: it closed the connection while it forked, as it does with a reader whose buffer is full.
    """
    deadline = time.monotonic() + timeout_s
    introduce(link)
    rdb_only = rdb_only and knows_rdb_only(link)
    link.send("PSYNC", "?", -1)
    text = _next_line(link, deadline, timeout_s).decode("utf-8", "replace")
    if text.startswith("-"):
        raise _refused(link, text[1:])
    match = _FULLRESYNC.fullmatch(text[1:])
    if match is None:
        raise SourceUnsupported(f"{place(link.conn)}: PSYNC: answered {text[:200]!r}")
    try:
        begin = _next_line(link, deadline, timeout_s)
    except SourceUnreachable as error:
        raise TransferCut(error.message) from None
    return FullSync(match[1], int(match[2]), _framing(link, begin), rdb_only)


def introduce(link: Link) -> None:
    """Say what every reader of the stream must say before ``PSYNC``: that it takes an RDB of unknown length, and has no
    port that others could connect to.

    :raises SourceDenied: the user may not. :raises SourceUnsupported: the server does not replicate.
    """
    # Without "eof" the server would write an RDB to its directory first, which it might load some day.
    link.command("REPLCONF", "capa", "eof", "capa", "psync2")
    _optional(link, "listening-port", NO_PORT)


def knows_rdb_only(link: Link) -> bool:
    """Ask for the RDB alone; whether the server knows that."""
    return _optional(link, "rdb-only", 1)


def _optional(link: Link, option: str, value: int) -> bool:
    """Whether the server knows *option*."""
    try:
        link.command("REPLCONF", option, value)
    except SourceUnsupported:
        return False
    return True


def _framing(link: Link, line: bytes) -> Framing:
    if match := _LENGTH.fullmatch(line):
        return Framing(length=int(match[1]))
    if match := _MARK.fullmatch(line):
        return Framing(mark=match[1])
    if line.startswith(b"-"):
        raise BackupBroken(f"{place(link.conn)}: the server could not save: {line[1:].decode('utf-8', 'replace')}")
    raise SourceUnsupported(f"{place(link.conn)}: sends {line[:100]!r} where an RDB begins")


def _next_line(link: Link, deadline: float, timeout_s: float) -> bytes:
    """The next line that is not empty; an empty one says that the server is at work."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise BackupBroken(
                f"{place(link.conn)}: did not begin to send within save_timeout_s = {timeout_s:g} s",
                hint="raise redis.save_timeout_s, or find out what keeps the server from forking",
            )
        try:
            line = link.line(min(left, SILENCE_S))
        except SourceUnreachable:
            if left > SILENCE_S or time.monotonic() < deadline:
                raise
            continue
        if line:
            return line


def _refused(link: Link, text: str) -> SourceError:
    if text.startswith("NOMASTERLINK"):
        return SourceUnreachable(f"{place(link.conn)}: PSYNC: {text}", hint="this replica has lost its primary")
    if "BGSAVE failed" in text or text.startswith("MISCONF"):
        return BackupBroken(
            f"{place(link.conn)}: PSYNC: {text}",
            hint="the server could not fork or write: see its log, free memory (vm.overcommit_memory = 1) and disk",
        )
    return reply_error(link.conn, text, "PSYNC")
