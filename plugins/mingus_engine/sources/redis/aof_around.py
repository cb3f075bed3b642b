"""What a backup of an append-only file holds besides its files: the same as one of an RDB.

Keys are sampled before the moment up to which the file must reach, and again once it is open: what was equal both times
is in it exactly so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import redis

from mingus_engine.checks import Check
from mingus_engine.errors import BackupBroken, SourceEmpty, SourceUnreachable
from mingus_engine.redis import sample
from mingus_engine.redis.client import connected, place
from mingus_engine.redis.sample import SAMPLE_PATH, Sample
from mingus_engine.settings import RedisConnection, RedisSettings
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.redis.choosing import address
from mingus_engine.sources.redis.findings import persistence_warning
from mingus_engine.sources.redis.server import Info, read_info, read_surroundings, refuse_unusable


@dataclass
class Around:
    """See the module: ``before`` and ``after`` the files are opened, then the rest; ``close`` in every outcome."""

    settings: RedisSettings
    conn: RedisConnection
    checks: list[Check] = field(default_factory=list)
    _closing: ExitStack = field(default_factory=ExitStack)
    _first: Sample | None = None
    _sample: Sample | None = None

    def before(self) -> None:
        """:raises SourceUnsupported: too old a server. :raises SourceError: it cannot be asked."""
        self._client = self._closing.enter_context(connected(self.conn, raw=True))
        self._before = read_info(self._client, self.conn)
        refuse_unusable(self._before, self.conn)
        keys = {number: count for number, (count, _) in self._before.databases.items()}
        self._first = self._sampled(lambda: sample.take(self._client, keys, self.settings.sample_keys))

    def after(self) -> None:
        """:raises SourceEmpty: there is no key. :raises BackupBroken: another process answers.

        :raises SourceError: it cannot be asked.
        """
        self._after: Info = read_info(self._client, self.conn)
        if self._after.get("run_id") != self._before.get("run_id"):
            raise BackupBroken(f"{place(self.conn)}: was restarted meanwhile; nothing was committed")
        if not self.settings.may_be_empty and not any(keys for keys, _ in self._after.databases.values()):
            raise SourceEmpty(f"{place(self.conn)}: holds no key; nothing was committed")
        if (first := self._first) is not None:
            again = self._sampled(lambda: sample.again(self._client, first))
            self._sample = sample.steady(first, again) if again is not None else None
        self._surroundings = read_surroundings(
            self._client, self.conn, self._after, config_file=self.settings.config_file
        )
        if lacking := self._surroundings.lacking:
            self.checks.append(
                Check(
                    "what is stored beside the file",
                    True,
                    f"not stored: {'; '.join(lacking)}",
                    {"lacking": len(lacking)},
                )
            )
        if warning := persistence_warning(self._after, self._surroundings.config):
            self.checks.append(Check("persistence", True, f"WARNING: {warning}", {"warning": True}))

    def files(self) -> list[tuple[SourceFile, bytes]]:
        """Configuration, users, functions, ``INFO``, the sample."""
        found = list(self._surroundings.files)
        if self._sample is not None:
            content = self._sample.encode()
            found.append((SourceFile(SAMPLE_PATH, FileKind.FILE, 0o600, size=len(content)), content))
        return found

    def facts(self) -> dict[str, Any]:
        """``engine``, ``version`` and ``shards`` (docs/FORMAT.md)."""
        info, taken = self._after, self._sample
        where = address(self.conn)
        shard: dict[str, Any] = {
            "name": "",
            "address": where,
            "read_from": where,
            "role": "replica" if info.is_replica else "primary",
            "run_id": info.get("run_id"),
            "replid": info.get("master_replid"),
            "offset": self._before.number("master_repl_offset"),
            "slots": [],
            "databases": {str(n): {"keys": k, "expires": e} for n, (k, e) in sorted(info.databases.items())},
            "databases_by": "info",
            "quiet": self._before.same_data(info),
            "sample": {
                "keys": len(taken.keys) if taken is not None else 0,
                "unsteady": taken.unsteady if taken is not None else 0,
                "types": taken.types if taken is not None else {},
            },
            "settings": self._surroundings.told,
        }
        return {"engine": info.engine, "version": info.version, "shards": [shard]}

    def forget_sample(self) -> None:
        """The file does not reach the moment of the sample."""
        self._first = self._sample = None

    def close(self) -> None:
        """Idempotent."""
        self._closing.close()

    def _sampled(self, take: Callable[[], Sample]) -> Sample | None:
        try:
            return take()
        except redis.ResponseError as error:
            self.checks.append(Check("sample", True, f"none: {' '.join(str(error).split())[:200]}", {"keys": 0}))
            return None
        except redis.RedisError as error:
            raise SourceUnreachable(f"{place(self.conn)}: sampling keys: {error}") from None
