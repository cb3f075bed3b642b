"""Which node of a shard is read: a replica that is as good as its primary, else the primary, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mingus_engine.bounds import MIB
from mingus_engine.errors import SourceError, SourceUnreachable
from mingus_engine.redis.client import COMMAND_TIMEOUT_S, connected, node_of, place
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis.discovery import Shard
from mingus_engine.sources.redis.server import Info, read_info, refuse_unusable

#: A replica that is further behind than this is not read: some seconds of a busy server.
LAG_MAX_BYTES = 16 * MIB
#: A replica is pinged by its primary every ten seconds.
SILENT_MAX_S = 30
_REPLICA = re.compile(r"ip=([^,]+),port=(\d+),state=([a-z_]+)")
# Asking a node that is not there must not hold up the others for long.
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Chosen:
    """The node to read and what it says. ``primary``: the shard's; ``primary_info``: ``None`` = not reachable.

    :param notes: why not a better node.
    """

    conn: RedisConnection
    info: Info
    primary: RedisConnection
    primary_info: Info | None
    notes: Sequence[str] = ()

    @property
    def role(self) -> str:
        """``primary`` or ``replica``."""
        return "replica" if self.info.is_replica else "primary"


def choose(shard: Shard, *, prefer_replica: bool) -> Chosen:
    """Ask the nodes of *shard* and choose one.

    :raises SourceUnreachable, SourceDenied, SourceUnsupported: there is none that could be read.
    """
    info = _asked(shard.primary)
    if info.is_replica:
        return _named_replica(shard.primary, info)
    refuse_unusable(info, shard.primary)
    if not prefer_replica:
        return Chosen(shard.primary, info, shard.primary, info)
    notes = []
    best: tuple[int, RedisConnection, Info] | None = None
    for replica in shard.replicas or _replicas_of(shard.primary, info):
        try:
            found = _asked(replica, probe=True)
            reason = unhealthy(found, info)
        except SourceError as error:
            reason, found = error.message, None
        if found is None or reason:
            notes.append(f"replica {address(replica)} was not read: {reason}")
        elif best is None or found.number("slave_repl_offset") > best[0]:
            best = (found.number("slave_repl_offset"), replica, found)
    if best is not None:
        return Chosen(best[1], best[2], shard.primary, info, notes)
    return Chosen(shard.primary, info, shard.primary, info, notes)


def unhealthy(replica: Info, primary: Info | None) -> str:
    """Why *replica* should not be read; empty = it is as good as its primary.

    :param primary: ``None`` = not known.
    """
    lag = primary.number("master_repl_offset") - replica.number("slave_repl_offset") if primary is not None else 0
    problems = (
        (not replica.is_replica, "it is no replica"),
        (replica.get("loading") == "1", "it is loading its data"),
        (replica.get("master_sync_in_progress") == "1", "it is being filled from its primary"),
        (replica.get("master_link_status") != "up", "its link to the primary is down"),
        (replica.number("master_last_io_seconds_ago") > SILENT_MAX_S, "it has not heard from its primary"),
        (lag > LAG_MAX_BYTES, f"it is {lag} bytes behind"),
        (
            primary is not None and (replica.engine, replica.version) != (primary.engine, primary.version),
            f"it runs {replica.engine} {replica.version}, not the primary's version",
        ),
        (
            primary is not None and replica.get("master_replid") != primary.get("master_replid"),
            "it follows another server",
        ),
    )
    return next((reason for wrong, reason in problems if wrong), "")


def address(conn: RedisConnection) -> str:
    """``host:port``, or the path of the socket."""
    return conn.socket or f"{conn.host}:{conn.port}"


def _named_replica(conn: RedisConnection, info: Info) -> Chosen:
    """The settings name a replica: read it if it is healthy, else its primary."""
    primary = node_of(conn, info.get("master_host"), info.number("master_port"))
    primary_info: Info | None = None
    trouble = ""
    try:
        primary_info = _asked(primary, probe=True)
    except SourceError as error:
        trouble = error.message
    reason = unhealthy(info, primary_info)
    if not reason:
        refuse_unusable(info, conn)
        notes = [f"the primary could not be asked: {trouble}"] if trouble else []
        return Chosen(conn, info, primary, primary_info, notes)
    if primary_info is None:
        raise SourceUnreachable(
            f"{place(conn)}: this replica cannot be read: {reason}; nor can its primary: {trouble}",
            hint="bring the replica's link up, or name another server",
        )
    refuse_unusable(primary_info, primary)
    return Chosen(primary, primary_info, primary, primary_info, [f"replica {address(conn)} was not read: {reason}"])


def _asked(conn: RedisConnection, *, probe: bool = False) -> Info:
    with connected(conn, raw=True, timeout_s=_PROBE_TIMEOUT_S if probe else COMMAND_TIMEOUT_S) as client:
        return read_info(client, conn)


def _replicas_of(primary: RedisConnection, info: Info) -> Iterator[RedisConnection]:
    for name, text in info.sections.get("replication", {}).items():
        match = _REPLICA.match(text) if re.fullmatch(r"slave\d+", name) else None
        # Without a port it is a reader of the stream, not a server.
        if match and match[2] != "0":
            yield node_of(primary, match[1], int(match[2]))
