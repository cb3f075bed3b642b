"""Where the recovery of a Redis shall end, and what that takes: a snapshot and the commands that came after it.

The result is a data directory with a multi-part append-only file: the snapshot's RDB (or base file) as its base, the
commands as its only increment. It ends with a whole command and a whole transaction; a server loads it by itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mingus_engine.errors import Damaged, NotRestorable, SettingsError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.windows import BasePoint, Recoverable, Window
from mingus_engine.jobs.stored_logs import EPOCH_2000
from mingus_engine.redis.aof import BASE, INCREMENT, AofManifest, restored
from mingus_engine.redis.aof_commands import Scanner, replayable
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.wal_path import Piece

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


def plan(
    repository: Repository,
    source_id: str,
    target: str,
    *,
    context: JobContext,
    snapshot: str | None = None,
    shard: str = "",
) -> RedisRecovery:
    """How *target* is reached with what *repository* holds; nothing is written.

    :param snapshot: ULID to begin with; default: the newest that leads there. :param shard: of a cluster.
    :raises NotRestorable: it lies outside what can be restored; the message has the windows.
    :raises SettingsError: it is no target. :raises Damaged: stored commands are not whole.
    """
    wanted = parse(target)
    seen = state.look(repository, source_id)
    begin = seen.find(snapshot).ulid if snapshot else ""
    found = Recoverable(repository, source_id, seen, trusted=begin)
    return _Resolution(found, wanted, context, begin, shard).run()


class _Resolution:
    def __init__(self, found: Recoverable, target: Target, context: JobContext, snapshot: str, shard: str) -> None:
        self._found, self._target, self._context = found, target, context
        self._snapshot, self._shard = snapshot, shard
        self._windows = [window for window in found.found().windows if window.shard == shard]

    def run(self) -> RedisRecovery:
        """The newest window that holds the target, in it the newest snapshot.

        Of several that hold a moment the one that comes nearest: a server that was set back has two pasts.
        """
        ways = (way for window in reversed(self._windows) if (way := self._in_window(window)) is not None)
        found = list(ways) if self._target.kind == "time" else list(itertools.islice(ways, 1))
        if found and self._target.kind == "time":
            return max(found, key=lambda way: way.moment or EPOCH_2000)
        if found:
            return found[0]
        shown = "; ".join(window.shown() for window in self._windows) or "none"
        which = f" from snapshot {self._snapshot}" if self._snapshot else ""
        raise NotRestorable(
            f"cannot restore to {self._target.text}{which}: it lies outside what is stored, or in a gap;"
            f" windows: {shown}",
            hint="`mingus windows` shows what each repository can restore",
        )

    def _in_window(self, window: Window) -> RedisRecovery | None:
        ways = {"latest": self._latest, "time": self._time, "offset": self._offset}
        points = [p for p in self._found.points if p.shard == self._shard and p.snapshot in window.snapshots]
        chosen = [p for p in points if self._snapshot in ("", p.snapshot)]
        for point in sorted(chosen, key=lambda p: p.offset, reverse=True):
            self._context.checkpoint()
            if (way := ways[self._target.kind](window, point)) is not None:
                return way
        return None

    # -- kinds --------------------------------------------------------------------------------------------------------

    def _latest(self, window: Window, point: BasePoint) -> RedisRecovery:
        note = "to the last whole command that is stored"
        if window.form == "aof":
            return self._of_file(point, point.offset, point.reaches, note)
        return self._of_stream(window, point, window.end, window.end_time, note)

    def _offset(self, window: Window, point: BasePoint) -> RedisRecovery | None:
        offset = self._target.offset
        if window.form == "aof" or not point.offset <= offset <= window.end:
            return None
        return self._of_stream(window, point, offset, None, "to the last whole command before that offset")

    def _time(self, window: Window, point: BasePoint) -> RedisRecovery | None:
        moment = self._target.moment or EPOCH_2000
        if window.end_time is None or moment > window.end_time:
            return None
        if window.form == "aof":
            return self._time_in_file(point, moment) if point.at is not None and moment >= point.at else None
        clock_us = (moment - EPOCH_2000) // timedelta(microseconds=1)
        pieces = self._pieces(window, point, window.end)
        before, after = self._found.stream.sample_before(pieces, clock_us)
        if before is None:
            if point.at is None or moment < point.at:
                return None
            # Between the snapshot and the first sample behind it.
            return self._of_stream(
                window, point, point.offset, point.at, "the snapshot itself: nothing nearer is known"
            )
        note = f"to what was executed before {before.at:%Y-%m-%d %H:%M:%S.%f}Z"
        if after is not None:
            apart = (after.at - before.at).total_seconds()
            note += f"; the next moment that is known is {apart:.1f} s later"
        return self._of_stream(window, point, before.flush, before.at, note)

    # -- the command stream -------------------------------------------------------------------------------------------

    def _pieces(self, window: Window, point: BasePoint, end: int) -> list[Piece]:
        return self._found.path(window.replid).pieces(point.offset, end)

    def _of_stream(
        self, window: Window, point: BasePoint, limit: int, moment: datetime | None, note: str
    ) -> RedisRecovery:
        stream = self._found.stream
        pieces = self._pieces(window, point, limit)
        end = self._boundary(pieces, point.offset, limit)
        facts = self._found.facts[point.snapshot]
        aux = next(s for s in facts["shards"] if s.get("name", "") == self._shard).get("rdb", {}).get("aux", {})
        database = str(aux.get("repl-stream-db", "0"))
        what = f"command stream of {window.replid[:8]}…"

        def chunks() -> Iterator[bytes]:
            if end > point.offset:
                # The database that the stream had last selected when the RDB was begun.
                yield _select(database)
                scanner = Scanner(what, point.offset)
                yield from replayable(stream.chunks(self._pieces(window, point, end)), scanner, end)

        prefix = f"{self._shard}/".encode() if self._shard else b""
        return RedisRecovery(
            target=self._target, snapshot=self._found.manifests[point.snapshot], shard=self._shard,
            base=prefix + b"dump.rdb", manifest=restored(), start=point.offset, end=end, moment=moment, note=note,
            chunks=chunks,
        )  # fmt: skip

    def _boundary(self, pieces: Sequence[Piece], start: int, limit: int) -> int:
        """The end of the last whole command and transaction up to *limit*."""
        stream = self._found.stream
        known = [offset for piece in pieces[-1:] for offset, _ in stream.samples(piece) if start <= offset <= limit]
        # A sample is taken between two commands.
        at = max(known, default=start)
        rest = [Piece(p.log, max(p.start, at), p.end) for p in pieces if p.end > at]
        scanner = Scanner("command stream", at)
        for chunk in stream.chunks(rest):
            self._context.checkpoint()
            scanner.feed(chunk)
        return scanner.boundary

    # -- an append-only file ------------------------------------------------------------------------------------------

    def _time_in_file(self, point: BasePoint, moment: datetime) -> RedisRecovery | None:
        if point.reaches is not None and moment >= point.reaches:
            return self._of_file(point, point.offset, point.reaches, "to the end of the file")
        if not point.exact:
            return None
        second = int(moment.timestamp())
        at, scanner = 0, Scanner("append-only file")
        for chunk in _File(self._found, point).commands():
            self._context.checkpoint()
            scanner.feed(chunk)
            if later := next((stamp for stamp in scanner.stamps if stamp.seconds >= second), None):
                at = later.boundary
                break
        else:
            at = scanner.boundary
        note = "annotations have whole seconds: to what was executed before that second"
        return self._of_file(point, at, datetime.fromtimestamp(second, UTC), note, counted=True)

    def _of_file(
        self, point: BasePoint, end: int, moment: datetime | None, note: str, *, counted: bool = False
    ) -> RedisRecovery:
        file = _File(self._found, point)
        end = end if counted else file.command_bytes
        base = file.base
        return RedisRecovery(
            target=self._target, snapshot=self._found.manifests[point.snapshot], shard=self._shard,
            base=base, manifest=restored(base_suffix=".rdb" if base.endswith(b".rdb") else ".aof"), start=0, end=end,
            moment=moment, note=note, chunks=lambda: _first(file.commands(), end),
        )  # fmt: skip


class _File:
    """The append-only file of a snapshot: its incremental files as one sequence of commands."""

    def __init__(self, found: Recoverable, point: BasePoint) -> None:
        self._found, self._point = found, point
        facts: Mapping[str, Any] = found.facts[point.snapshot]["aof"]
        directory = str(facts["directory"])
        self._increments = {
            f"{directory}/{f['name']}".encode(): int(f["bytes"]) for f in facts["files"] if f["type"] == INCREMENT
        }
        self.command_bytes = sum(self._increments.values())
        self.base = next(f"{directory}/{f['name']}".encode() for f in facts["files"] if f["type"] == BASE)

    def commands(self) -> Iterator[bytes]:
        """In order. :raises Damaged: a file is missing or not whole."""
        reader = SnapshotReader(self._found.repository, self._found.manifests[self._point.snapshot])
        files = {f.entry.path: f for f in reader.files() if f.entry.path in self._increments}
        for path, size in self._increments.items():
            if path not in files or files[path].entry.size != size:
                raise Damaged(f"snapshot {self._point.snapshot}: {path.decode('utf-8', 'replace')} is not as recorded")
            for _, data, length in reader.data(files[path]):
                yield bytes(length) if data is None else bytes(data)


def _first(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        if size <= 0:
            return
        yield chunk[:size]
        size -= len(chunk)


def _select(database: str) -> bytes:
    number = database.encode() if database.isdigit() else b"0"
    return b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n" % (len(number), number)
