"""A cheap look at a Redis source for the probe: ``INFO``, ``TIME`` and two directives of each primary."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.redis.client import ask, connected, mapped
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.redis import aof_setting
from mingus_engine.sources.redis.discovery import discover
from mingus_engine.sources.redis.server import directives, read_info


@dataclass(frozen=True)
class RedisHealth:
    """What one primary says.

    :param offset_s: its clock minus ours. :param saving: the last save succeeded. :param rewrite_percentage: of the
        append-only file, ``None`` = there is none, or it may not be asked for. :param configured: what it is after a
        restart; ``None`` = not known.
    """

    name: str
    offset_s: float
    saving: bool
    rewrite_percentage: int | None
    configured: int | None


def look(settings: SourceSettings) -> list[RedisHealth]:
    """:raises SourceError: one of the primaries cannot be asked."""
    found = []
    for shard in discover(settings.redis.connection):
        conn = shard.primary
        with connected(conn, raw=True, timeout_s=float(conn.connect_timeout_s)) as client:
            info = read_info(client, conn)
            with mapped(conn, "asking for the time"):
                before = time.time()
                seconds, micros = ask(client, "TIME")
            offset = int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2
        known = directives(conn, "appendonly", aof_setting.NAME) or {}
        text = known.get(aof_setting.NAME, "")
        live = int(text) if known.get("appendonly") == "yes" and text.isdigit() else None
        file = settings.redis.config_file or info.get("config_file")
        configured = aof_setting.configured_value(Path(file)) if file and live == 0 else None
        found.append(
            RedisHealth(shard.name, offset, info.get("rdb_last_bgsave_status", "ok") == "ok", live, configured)
        )
    return found
