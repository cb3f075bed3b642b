"""Where the recovery of a Redis shall end, and what that takes: a snapshot and the commands that came after it.

The result is a data directory with a multi-part append-only file: the snapshot's RDB (or base file) as its base, the
commands as its only increment. It ends with a whole command and a whole transaction; a server loads it by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mingus_engine.errors import SettingsError
from mingus_engine.redis.aof import BASE, INCREMENT, AofManifest
from mingus_engine.repository.manifests import Manifest

FORMS = "latest, time:2026-11-23T14:29:59+01:00 or offset:123456789"


@dataclass(frozen=True)
class Target:
    """Where to end. ``text`` as it was asked for; ``moment`` or ``offset`` (of replication) as its kind needs."""

    kind: Literal["latest", "time", "offset"]
    text: str
    moment: datetime | None = None
    offset: int = 0


@dataclass(frozen=True)
class RedisRecovery:
    """How a target is reached, of one server (one shard of a cluster).

    Who restores writes the snapshot's file ``base`` as ``base_name``, :meth:`commands` as ``increment_name`` and
    ``manifest.encode()`` as ``<filename>.manifest``, all into the server's ``appenddirname``.

    :param shard: ``""`` or ``shard-<n>``. :param base: path of the base file in the snapshot.
    :param start, end: of the commands: replication offsets, or bytes of the snapshot's own append-only file.
    :param moment: everything written before is contained, nothing written later by the server's clock than the
        resolution allows; ``None`` = unknown. :param note: how the end was found and how exact it is, for people.
    :param chunks: the content of the increment; see :meth:`commands`.
    """

    target: Target
    snapshot: Manifest
    shard: str
    base: bytes
    manifest: AofManifest
    start: int
    end: int
    moment: datetime | None
    note: str
    chunks: Callable[[], Iterator[bytes]]

    @property
    def base_name(self) -> str:
        """The base file's name in the restored directory."""
        return self.manifest.of_kind(BASE)[0].name

    @property
    def increment_name(self) -> str:
        """The incremental file's name in the restored directory."""
        return self.manifest.of_kind(INCREMENT)[0].name

    def commands(self) -> Iterator[bytes]:
        """The content of the incremental file, in pieces; may be asked for more than once.

        :raises Damaged: what is stored is not whole: nothing of what was given may be used.
        """
        return self.chunks()

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "target": self.target.text,
            "snapshot": self.snapshot.ulid,
            "shard": self.shard,
            "base": self.base.decode("utf-8", "replace"),
            "start_offset": self.start,
            "end_offset": self.end,
            "moment": self.moment.isoformat() if self.moment else None,
            "note": self.note,
        }


def parse(text: str) -> Target:
    """``latest``, ``time:…`` or ``offset:…``. A time without offset is UTC.

    :raises SettingsError: none of these.
    """
    kind, _, value = text.strip().partition(":")
    value = value.strip()
    try:
        if kind == "latest" and not value:
            return Target("latest", kind)
        if kind == "time":
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            return Target("time", f"time:{moment.isoformat()}", moment=moment)
        if kind == "offset" and re.fullmatch(r"[0-9]{1,18}", value):
            return Target("offset", f"offset:{int(value)}", offset=int(value))
    except (ValueError, OverflowError):
        pass
    raise SettingsError(f"{text!r} is not a recovery target of Redis", hint=f"one of: {FORMS}")
