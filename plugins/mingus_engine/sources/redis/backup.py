"""A running backup of all primaries at the same time: a thread for each, one sequence of items for the pipeline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mingus_engine.errors import BackupBroken, Cancelled, SourceEmpty, SourceUnsupported
from mingus_engine.redis.client import connected
from mingus_engine.redis.sample import SAMPLE_PATH
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import Check, FileKind, Finished, SourceFile
from mingus_engine.sources.redis import findings
from mingus_engine.sources.redis.choosing import Chosen, address, choose
from mingus_engine.sources.redis.discovery import Shard, discover
from mingus_engine.sources.redis.server import PERSISTENCE, Surroundings, directives, read_surroundings
from mingus_engine.sources.redis.transfer import Transfer
from mingus_engine.sources.slabs import SlabItem, SlabPool

RDB_PATH = b"dump.rdb"
# Slabs besides those that workers hold: in the pipeline's hands, and per shard one being filled and one held back.
_SPARE_SLABS = 2
_SLABS_OF_SHARD = 2
_POLL_S = 0.25


@dataclass
class _Reading:
    """One shard while it is read."""

    shard: Shard
    chosen: Chosen
    surroundings: Surroundings
    transfer: Transfer
    primary_config: Mapping[str, str] | None
    thread: threading.Thread | None = None


class RedisBackup:
    """See ``sources.base.Backup``; made by :func:`open_backup`.

    :raises SourceError: nothing was asked of the servers that could be left behind.
    """

    def __init__(self, settings: SourceSettings, cancel: threading.Event) -> None:
        self.settings = settings
        self._redis = settings.redis
        self._cancel = cancel
        self._stop = threading.Event()
        self._queue: queue.Queue[SlabItem | BaseException | None] = queue.Queue(1)
        self.started_at = datetime.now(UTC).isoformat()
        shards = discover(self._redis.connection)
        if self._redis.transport == "bgsave":
            _refuse_unreadable(settings, shards)
        self._pool = SlabPool(settings.workers + _SPARE_SLABS + _SLABS_OF_SHARD * len(shards), self._stop)
        self._readings = [self._opened(shard) for shard in shards]
        self._refuse_empty(sum(sum(k for k, _ in r.chosen.info.databases.values()) for r in self._readings))

    @property
    def notes(self) -> list[str]:
        """Why not better nodes were read."""
        return [note for reading in self._readings for note in reading.chosen.notes]

    def items(self) -> Iterator[SlabItem]:
        """The RDBs of all shards, each in order, as they come."""
        for reading in self._readings:
            thread = reading.thread = threading.Thread(
                target=self._read, args=(reading.transfer,), name=f"mingus-rdb-{reading.shard.name or 'redis'}"
            )
            thread.start()
        running = len(self._readings)
        while running:
            try:
                found = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if self._cancel.is_set():
                    raise Cancelled("the backup was cancelled; nothing was committed") from None
                continue
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found

    def expected_bytes(self) -> int:
        """What the data take in the servers' memory: an RDB is smaller, often half of it."""
        return sum(reading.chosen.info.number("used_memory_dataset") for reading in self._readings)

    def finish(self) -> Finished:
        """What was learnt; the nodes must still be what they were.

        :raises BackupBroken: a failover, or another owner of slots, meanwhile. :raises SourceEmpty: no key was in it.
        """
        files: list[tuple[SourceFile, bytes]] = []
        shards: list[dict[str, Any]] = []
        checks: list[Check] = []
        self._refuse_moved()
        for reading in self._readings:
            prefix = _prefix(reading.shard)
            files += reading.surroundings.files
            if reading.transfer.sample is not None:
                content = reading.transfer.sample.encode()
                files.append((_file(prefix + SAMPLE_PATH, content), content))
            learnt = (reading.shard, reading.chosen, reading.surroundings, reading.transfer)
            shards.append(findings.shard_facts(*learnt))
            checks += findings.shard_checks(*learnt, reading.primary_config)
        keys = sum(of["keys"] for shard in shards for of in shard["databases"].values())
        self._refuse_empty(keys)
        checks.append(Check("keys", True, f"{keys} keys" if keys else "none, which the settings allow", {"keys": keys}))
        first = self._readings[0]
        rdb = first.transfer.stream.facts if first.transfer.stream is not None else None
        return Finished(
            files=files,
            facts={
                "engine": first.chosen.info.engine,
                "version": first.chosen.info.version,
                "rdb_version": rdb.version if rdb is not None else 0,
                "form": "rdb",
                "transport": self._redis.transport,
                "started_at": self.started_at,
                "stopped_at": datetime.now(UTC).isoformat(),
                "shards": shards,
            },
            checks=checks,
        )

    def close(self) -> None:
        """End the threads and connections; idempotent."""
        self._stop.set()
        for reading in self._readings:
            while reading.thread is not None and reading.thread.is_alive():
                self._drain()
                reading.thread.join(_POLL_S)
        self._drain()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _opened(self, shard: Shard) -> _Reading:
        chosen = choose(shard, prefer_replica=self._redis.prefer_replica and self._redis.transport != "bgsave")
        prefix = _prefix(shard)
        with connected(chosen.conn, raw=True) as client:
            config_file = self._redis.config_file if not shard.name else ""
            surroundings = read_surroundings(client, chosen.conn, chosen.info, prefix=prefix, config_file=config_file)
        transfer = Transfer(
            chosen.conn,
            self._redis,
            prefix + RDB_PATH,
            self._pool,
            config=surroundings.config,
            of_cluster=bool(shard.name),
            stop=self._stop,
        )
        config = surroundings.config if chosen.role == "primary" else directives(chosen.primary, *PERSISTENCE)
        return _Reading(shard, chosen, surroundings, transfer, config)

    def _read(self, transfer: Transfer) -> None:
        """Of a thread: everything of one shard into the queue."""
        try:
            with closing(transfer.items()) as items:
                for item in items:
                    if not self._put(item):
                        item.release()
                        return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the iterator
            self._put(error)

    def _put(self, found: SlabItem | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(found, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def _drain(self) -> None:
        while True:
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                return
            if isinstance(found, SlabItem):
                found.release()

    def _refuse_empty(self, keys: int) -> None:
        if not keys and not self._redis.may_be_empty:
            where = ", ".join(address(reading.chosen.conn) for reading in self._readings)
            raise SourceEmpty(f"Redis at {where}: holds no key; nothing was committed")

    def _refuse_moved(self) -> None:
        """A cluster's slots must have the owners they had; a server that was read must not have changed its role."""
        if self._redis.connection.cluster:
            now = {address(s.primary): tuple(s.slots) for s in discover(self._redis.connection)}
            then = {address(r.shard.primary): tuple(r.shard.slots) for r in self._readings}
            if now != then:
                raise BackupBroken("the cluster's slots changed their owners during the backup; nothing was committed")
        for reading in self._readings:
            before, after = reading.transfer.before, reading.transfer.after
            if (
                before is None
                or after is None
                or (before.get("run_id"), before.get("role"))
                != (
                    after.get("run_id"),
                    after.get("role"),
                )
            ):
                where = address(reading.chosen.conn)
                raise BackupBroken(f"{where} was restarted, promoted or demoted meanwhile; nothing was committed")


def open_backup(settings: SourceSettings, *, cancel: threading.Event) -> RedisBackup:
    """Find the servers and ask them for what explains them; the RDBs begin with ``items``.

    :raises SourceUnreachable, SourceDenied, SourceUnsupported, SourceEmpty, BackupBroken: there is nothing to close.
    """
    return RedisBackup(settings, cancel)


def _refuse_unreadable(settings: SourceSettings, shards: Sequence[Shard]) -> None:
    if not settings.redis.data_directory:
        raise SourceUnsupported(
            f"source {settings.id!r}: transport bgsave reads the RDB from redis.data_directory, which is not set",
            hint="set it to where the server's directory can be read here, or use transport replication",
        )
    if shards[0].name:
        raise SourceUnsupported(
            f"source {settings.id!r}: transport bgsave reads one directory, a cluster has {len(shards)}",
            hint="use transport replication for a cluster",
        )


def _prefix(shard: Shard) -> bytes:
    return f"{shard.name}/".encode() if shard.name else b""


def _file(path: bytes, content: bytes) -> SourceFile:
    return SourceFile(path, FileKind.FILE, 0o600, size=len(content))
