"""One RDB from a node, by either transport, with the samples before and after the fork."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import redis

from mingus_engine.errors import BackupBroken, SourceUnreachable
from mingus_engine.redis import sample
from mingus_engine.redis.client import ask, connected, mapped, place
from mingus_engine.redis.link import Link
from mingus_engine.redis.sample import Sample
from mingus_engine.settings import RedisConnection, RedisSettings
from mingus_engine.sources.base import FileKind, SourceFile
from mingus_engine.sources.redis import bgsave, psync
from mingus_engine.sources.redis.rdb_stream import Framing, RdbStream, TransferCut
from mingus_engine.sources.redis.server import Info, read_info
from mingus_engine.sources.slabs import SlabItem, SlabPool

# Each attempt waits for a save that another replica asked for.
_FORKS_MOST = 3
# A server that is written to may have so many keys more or fewer when it forks.
_BUSY_KEYS, _BUSY_SHARE = 1000, 0.1
_BUFFER_LIMIT = "client-output-buffer-limit"


class Transfer:
    """See the module. Used by one thread after the other.

    :param config: the server's directives, ``None`` = not known. :param of_cluster: it is a node of a cluster.
    :param stop: ends whatever waits; closing the iterator of ``items`` closes the connections.
    :ivar stream: the RDB and what was learnt of it. :ivar after: INFO right after the fork. :ivar sample: what was the
        same before and after it. :ivar replid, offset: where in the stream of replication the RDB is; ``""``, 0 = not
        said. :ivar seconds: of the transfer, from its first byte.
    """

    def __init__(
        self,
        conn: RedisConnection,
        settings: RedisSettings,
        path: bytes,
        pool: SlabPool,
        *,
        config: Mapping[str, str] | None,
        of_cluster: bool,
        stop: threading.Event,
    ) -> None:
        self.conn, self._settings, self._pool, self._stop = conn, settings, pool, stop
        self._config = config
        self._of_cluster = of_cluster
        self._file = SourceFile(path, FileKind.FILE, 0o640, mtime_ns=time.time_ns())
        self._walk = (config or {}).get("rdbchecksum") == "no"
        self.stream: RdbStream | None = None
        self.sample: Sample | None = None
        self.sample_trouble = ""
        self.replid, self.offset = "", 0
        self.seconds = 0.0
        self.before: Info | None = None
        self.after: Info | None = None

    def items(self) -> Generator[SlabItem, None, None]:
        """Sample, fork, sample again, receive.

        :raises MingusError: nothing of it is of use.
        """
        with self._asking() as client:
            self.before = read_info(client, self.conn)
            first = self._sampled(client)
        if self._settings.transport == "bgsave":
            yield from self._saved(first)
        else:
            yield from self._streamed(first)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[redis.Redis]:
        """A connection for some questions: one that is idle while the server forks may be cut by then."""
        with connected(self.conn, raw=True) as client:
            if self._of_cluster:
                with mapped(self.conn, "READONLY"):  # else a replica of a cluster sends who asks to its primary
                    ask(client, "READONLY")
            yield client

    def _streamed(self, first: Sample | None) -> Iterator[SlabItem]:
        with contextlib.ExitStack() as stack:
            link, sync = self._fork(stack)
            self.replid, self.offset = sync.replid, sync.offset
            self._forked(first)
            silence_s = min(psync.SILENCE_S, self._settings.save_timeout_s)
            stream = self.stream = RdbStream(
                self._file, place(self.conn), self._pool, lambda target: link.fill(target, silence_s), walk=self._walk
            )
            began = time.monotonic()
            try:
                yield from stream.items(sync.framing)
            except (TransferCut, SourceUnreachable) as error:
                raise self._cut(error.message, time.monotonic() - began, stream, rdb_only=sync.rdb_only) from None
            self.seconds = time.monotonic() - began

    def _fork(self, stack: contextlib.ExitStack) -> tuple[Link, psync.FullSync]:
        """Have the server fork now, by a link that *stack* closes.

        A server that saves for another replica would send that RDB again: begun before we asked, so it need not hold
        what was acknowledged by then, and what was sampled says nothing of it.
        """
        asked_at = self.before.number("master_repl_offset") if self.before is not None else 0
        for _ in range(_FORKS_MOST):
            with contextlib.ExitStack() as attempt:
                link = attempt.enter_context(Link(self.conn, self._stop))
                began = time.monotonic()
                try:
                    sync = psync.full_sync(link, self._settings.save_timeout_s)
                except TransferCut as error:
                    raise self._cut(error.message, time.monotonic() - began) from None
                if sync.offset >= asked_at:
                    stack.push(attempt.pop_all())
                    return link, sync
        raise BackupBroken(
            f"{place(self.conn)}: sent {_FORKS_MOST} times what it had begun to save for other replicas before",
            hint="try again when fewer replicas are being filled",
        )

    def _saved(self, first: Sample | None) -> Iterator[SlabItem]:
        with self._asking() as client:
            file, began_s = bgsave.save(
                client, self.conn, Path(self._settings.data_directory),
                timeout_s=self._settings.save_timeout_s, cancel=self._stop,
            )  # fmt: skip
        with file:
            self._forked(first)
            what = f"{place(self.conn)}: {file.name}"
            stream = self.stream = RdbStream(
                self._file, what, self._pool, lambda target: os.readv(file.fileno(), [target]), walk=self._walk
            )
            began = time.monotonic()
            yield from stream.items(Framing(length=_size(file)))
            self.seconds = time.monotonic() - began
        self._refuse_older(stream, began_s)

    def _refuse_older(self, stream: RdbStream, began_s: int) -> None:
        """An RDB says when it was begun: not before the save that was asked for, or it is what another one left."""
        aux = stream.facts.aux if stream.facts is not None else {}
        made = aux.get("ctime", "")
        if not made.isdigit() or int(made) < began_s:
            raise BackupBroken(
                f"{place(self.conn)}: the RDB in {self._settings.data_directory} was begun at {made or 'no time'}"
                f" (s since 1970), before the save of {began_s}",
                hint="is redis.data_directory the directory of this server?",
            )
        self.replid, self.offset = aux.get("repl-id", ""), int(aux.get("repl-offset", "0") or 0)
        if trouble := self._foreign(stream):
            raise BackupBroken(
                f"{place(self.conn)}: the RDB in {self._settings.data_directory} is not this server's: {trouble}",
                hint="is redis.data_directory the directory of this server?",
            )

    def _foreign(self, stream: RdbStream) -> str:
        """Why the RDB is another server's, which saved just then, too; empty = nothing speaks for that."""
        before, after = self.before, self.after
        if before is None or after is None:
            return ""
        known = {before.get("master_replid"), after.get("master_replid"), after.get("master_replid2")}
        if self.replid and self.replid not in known:
            return f"it is of the history {self.replid[:8]}…, the server has {after.get('master_replid')[:8]}…"
        if stream.counted is None:
            return ""
        held = [sum(keys for keys, _ in info.databases.values()) for info in (before, after)]
        slack = max(_BUSY_KEYS, int(_BUSY_SHARE * max(held)))
        if not min(held) - slack <= stream.counted.keys <= max(held) + slack:
            return f"it has {stream.counted.keys} keys, the server had {held[0]} before and {held[1]} after the save"
        return ""

    def _sampled(self, client: redis.Redis) -> Sample | None:
        if self.before is None:
            return None
        keys = {number: keys for number, (keys, _) in self.before.databases.items()}
        try:
            return sample.take(client, keys, self._settings.sample_keys)
        except redis.ResponseError as error:
            self.sample_trouble = " ".join(str(error).split())[:200]
            return None
        except redis.RedisError as error:
            raise SourceUnreachable(f"{place(self.conn)}: sampling keys: {error}") from None

    def _forked(self, first: Sample | None) -> None:
        with self._asking() as client:
            self.after = read_info(client, self.conn)
            if first is None:
                return
            try:
                self.sample = sample.steady(first, sample.again(client, first))
            except redis.ResponseError as error:
                self.sample_trouble = " ".join(str(error).split())[:200]
            except redis.RedisError as error:
                raise SourceUnreachable(f"{place(self.conn)}: sampling keys: {error}") from None

    def _cut(
        self, message: str, seconds: float, stream: RdbStream | None = None, *, rdb_only: bool = False
    ) -> BackupBroken:
        """The connection is gone; the likely reasons, with the numbers that tell them apart."""
        config = self._config or {}
        waited_s, received = (stream.waited_s, stream.received_bytes) if stream is not None else (0.0, 0)
        hint = f"the server's log says why; the reader waited {waited_s:.0f} s of it for the repository"
        if waited_s > seconds / 2:
            hint += f", which is slower than the server: repl-timeout is {config.get('repl-timeout', 'not known')} s"
        if not rdb_only:
            hint += (
                f"; a server without REPLCONF rdb-only drops readers slower than its writers: {_BUFFER_LIMIT} is"
                f" {config.get(_BUFFER_LIMIT, 'not known')}, raise its part 'replica'"
            )
        return BackupBroken(
            f"{message} (cut after {received} bytes and {seconds:.1f} s); nothing was committed", hint=hint
        )


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
