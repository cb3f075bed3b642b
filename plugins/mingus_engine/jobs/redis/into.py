"""Restoring keys of RDBs into a running server: which of them, in what order, and what is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from mingus_engine import bounds
from mingus_engine.errors import Cancelled, MingusError, SettingsError, TargetError, TargetNotEmpty
from mingus_engine.jobs.ahead import ahead
from mingus_engine.jobs.context import JobContext
from mingus_engine.redis import glob
from mingus_engine.redis.rdb import Function, Item, Key, RdbWalk
from mingus_engine.redis.rdb_format import HEADER_BYTES, version_of
from mingus_engine.store.throttled import Bucket
from mingus_engine.targets.redis.running import RunningRedis
from mingus_engine.targets.redis.writer import CONFLICT_HINT, Conflict, ConflictFinder, Counts, KeyWriter, shown

# What RESTORE takes: `proto-max-bulk-len` of a server that was not told otherwise.
_VALUE_MAX_BYTES: Final = 512 * bounds.MIB
_AHEAD_CHUNKS: Final = 32
# Between two looks at the clock, the caller's wish to stop, and whether the server refuses.
_STEP_KEYS: Final = 256


Chunks = Generator[bytes, None, None] | Generator[bytes | memoryview, None, None]


@dataclass(frozen=True)
class StoredRdb:
    """An RDB of *size* bytes. :param chunks: gives its bytes in order, as often as it is called."""

    name: str
    size: int
    chunks: Callable[[], Chunks]


@dataclass(frozen=True)
class Plan:
    """What a caller chose; see ``restore_into``."""

    patterns: tuple[bytes, ...] = ()
    databases: frozenset[int] = frozenset()
    database_map: Mapping[int, int] = field(default_factory=dict)
    conflict: Conflict = "fail"
    functions: bool = False
    keys_rate: Bucket | None = None
    bytes_rate: Bucket | None = None
    batch_keys: int = bounds.GIB

    def __post_init__(self) -> None:
        if self.conflict not in {"fail", "skip", "replace"}:
            raise SettingsError(f"{self.conflict!r} is not one of fail, skip, replace")
        numbers = {*self.databases, *self.database_map, *self.database_map.values()}
        if numbers and min(numbers) < 0:
            raise SettingsError(f"there is no database {min(numbers)}")
        into: dict[int, int] = {}
        for number in sorted(self.databases):
            into_one(into, number, self.database_map.get(number, number))
        if self.databases and (without := sorted(set(self.database_map) - self.databases)):
            raise SettingsError(f"database {without[0]} is mapped, but not among those that are asked for")


def into_one(known: dict[int, int], database: int, into: int) -> None:
    """Note in *known* that *into* is where *database* goes.

    :raises SettingsError: another one goes there: of two keys of one name one would be lost.
    """
    if (other := known.setdefault(into, database)) != database:
        raise SettingsError(
            f"databases {min(other, database)} and {max(other, database)} of the snapshot both go into {into}",
            hint="restore one after the other: of keys that are in both --conflict decides then",
        )


class _Selection:
    """Which keys are asked for and alive, and the numbers of those that are not."""

    def __init__(self, plan: Plan, now_ms: Callable[[], int]) -> None:
        self._plan, self._now_ms = plan, now_ms
        self._matches = glob.matcher(plan.patterns)
        self.databases: Counter[int] = Counter()
        self.expired = self.other = self.seen = 0
        self.turn()

    def turn(self) -> None:
        """Look at the clock again."""
        self.now = self._now_ms()

    def takes(self, key: Key) -> bool:
        """Whether *key* is to be restored."""
        self.seen += 1
        asked_for = not self._plan.databases or key.database in self._plan.databases
        if not (asked_for and self._matches(key.name)):
            self.other += 1
            return False
        if 0 <= key.expire_ms < self.now:
            self.expired += 1
            return False
        self.databases[key.database] += 1
        return True

    def as_dict(self) -> dict[str, Any]:
        """Fields of the report."""
        return {
            "selected": self.databases.total(),
            "expired": self.expired,
            "other": self.other,
            "databases": {str(number): count for number, count in sorted(self.databases.items())},
        }


class Into:
    """One restore of *rdbs* into *target*.

    :param origin: who wrote them, for errors. :param databases: which are known to hold keys.
    """

    def __init__(
        self,
        target: RunningRedis,
        rdbs: Sequence[StoredRdb],
        plan: Plan,
        context: JobContext,
        *,
        origin: str = "",
        databases: Iterable[int] = (),
    ) -> None:
        self._target, self._rdbs, self._plan, self._context = target, rdbs, plan, context
        self._origin, self._databases = origin, tuple(databases)
        self._goes: dict[int, int] = {}
        self._total = sum(rdb.size for rdb in rdbs)
        self._version = 0
        self._done = 0
        self._functions = 0

    def look(self) -> dict[str, Any]:
        """Only count, and look for keys that are there already.

        :raises TargetError: the server is too old, or there is no such database.
        """
        self._require_version()
        with self._target.translated("looking for keys that are there"):
            self._require_databases()
            selection, conflicts = self._look("count")
        return {**selection.as_dict(), **self._numbers(Counts()), "conflicts": conflicts.found}

    def run(self) -> dict[str, Any]:
        """Restore. :returns: numbers of the report.

        :raises TargetNotEmpty: nothing was written, unless the message says so. :raises TargetError: :raises Damaged:
        :raises Cancelled:
        """
        self._require_version()
        with self._target.translated("looking for keys that are there"):
            self._require_databases()
            conflicts = self._require_free()
        selection = _Selection(self._plan, self._target.now_ms)
        writer = KeyWriter(
            self._target, version=self._version, conflict=self._plan.conflict, keys_rate=self._plan.keys_rate,
            bytes_rate=self._plan.bytes_rate, batch_keys=self._plan.batch_keys,
        )  # fmt: skip
        before = sum(facts.evicted for facts in self._target.facts)
        try:
            with self._target.translated("restoring"):
                for rdb in self._rdbs:
                    if writer.trouble is None:
                        self._restore(rdb, selection, writer)
                writer.finish()
        except MingusError as error:
            raise self._told(error, writer) from None
        self._require_kept(before, writer)
        return {**selection.as_dict(), **self._numbers(writer.counts), "conflicts": conflicts}

    # -- before anything is written -----------------------------------------------------------------------------------

    def _require_version(self) -> None:
        """Every RDB must be one that the server reads, and of one version."""
        for rdb in self._rdbs:
            with closing(rdb.chunks()) as chunks:
                head = b""
                for chunk in chunks:
                    head += bytes(chunk[: HEADER_BYTES - len(head)])
                    if len(head) >= HEADER_BYTES:
                        break
            version = version_of(head, rdb.name)
            self._target.require_reads(version, self._origin)
            if self._version not in {0, version}:
                raise TargetError(f"{rdb.name} is an RDB {version}, those before are RDB {self._version}")
            self._version = version

    def _require_databases(self) -> None:
        for number in self._databases:
            if not self._plan.databases or number in self._plan.databases:
                for node in self._target.nodes:
                    self._target.select(node, self._into(number))

    def _require_free(self) -> int | None:
        """Refuse keys that are there, where they are in the way. :returns: how many are, if that was looked at."""
        if self._plan.conflict != "fail":
            return None
        there = {number: count for facts in self._target.facts for number, count in facts.keys.items() if count}
        if not there:
            return 0
        targets = {self._into(number) for number in self._plan.databases}
        if not self._plan.patterns:
            for number, count in sorted(there.items()):
                if not targets or number in targets:
                    raise TargetNotEmpty(
                        f"database {number} of {self._target} has {count:,} keys; nothing was written",
                        hint=CONFLICT_HINT,
                    )
        _, conflicts = self._look("look for conflicts")
        self._functions = 0
        if conflicts.found:
            some = ", ".join(shown(name) for name in conflicts.some)
            raise TargetNotEmpty(
                f"{self._target} has {conflicts.found:,} of the keys already, {some} among them; nothing was written",
                hint=CONFLICT_HINT,
            )
        return 0

    def _look(self, phase: str) -> tuple[_Selection, ConflictFinder]:
        target = self._target
        selection = _Selection(self._plan, target.now_ms)
        finder = ConflictFinder(target)
        for rdb in self._rdbs:
            with closing(self._walk(rdb, phase, values=False, turn=selection.turn)) as items:
                for item in items:
                    if isinstance(item, Function):
                        self._functions += self._plan.functions
                    elif isinstance(item, Key) and selection.takes(item):
                        self._require_module(item)
                        if target.keys(into := self._into(item.database)):
                            finder.look(item.name, into)
        finder.finish()
        self._done = 0
        return selection, finder

    # -- writing ------------------------------------------------------------------------------------------------------

    def _restore(self, rdb: StoredRdb, selection: _Selection, writer: KeyWriter) -> None:
        put, takes, into = writer.put, selection.takes, self._into
        with closing(self._walk(rdb, "restore", values=True, turn=selection.turn)) as items:
            for item in items:
                if isinstance(item, Key):
                    if takes(item):
                        put(item, self._value(item), into(item.database))
                        if writer.trouble is not None:
                            break
                elif isinstance(item, Function) and self._plan.functions:
                    self._functions += self._target.load_function(item.code, self._plan.conflict)

    def _value(self, key: Key) -> bytes:
        """:raises TargetError: RESTORE would not take it there."""
        if key.value is None:
            raise TargetError(
                f"the value of {shown(key.name)} has {key.size:,} bytes; RESTORE takes {_VALUE_MAX_BYTES:,} at most"
            )
        if key.module:
            self._require_module(key)
        return key.value

    def _walk(
        self, rdb: StoredRdb, phase: str, *, values: bool, turn: Callable[[], None]
    ) -> Generator[Item, None, None]:
        with closing(ahead(rdb.chunks, _AHEAD_CHUNKS)) as chunks:
            walk = RdbWalk(chunks, rdb.name, value_max_bytes=_VALUE_MAX_BYTES if values else 0)
            for seen, item in enumerate(walk):
                yield item
                if not seen % _STEP_KEYS:
                    turn()
                    self._context.checkpoint()
                    self._context.progress(phase, self._done + walk.walked_bytes, self._total, rdb.name)
        self._done += rdb.size
        self._context.progress(phase, self._done, self._total, rdb.name)

    def _into(self, database: int) -> int:
        into = self._plan.database_map.get(database, database)
        if self._goes.get(into) != database:
            into_one(self._goes, database, into)
        if into and self._target.cluster:
            raise TargetError(
                f"{self._target} is a cluster, which has database 0 alone; the snapshot has keys in {database}",
                hint=f"choose --database 0, or --database {database}=0",
            )
        return into

    def _require_module(self, key: Key) -> None:
        if self._target.lacks_module(key.module):
            raise TargetError(
                f"the value of {shown(key.name)} is of a module's type {key.module!r}; {self._target} has no module",
                hint="load the module there, or choose keys by --keys",
            )

    def _require_kept(self, before: int, writer: KeyWriter) -> None:
        """:raises TargetError: the server threw keys away to make room."""
        now = self._target.measure()
        if evicted := sum(facts.evicted for facts in now) - before:
            raise TargetError(
                f"{self._target} evicted {evicted:,} keys while {writer.counts.written:,} were restored: of these some"
                " may be gone",
                hint="its maxmemory is too small for what it holds; raise it, then restore by --conflict skip",
            )

    # -- what is told -------------------------------------------------------------------------------------------------

    def _numbers(self, counts: Counts) -> dict[str, Any]:
        return {
            "restored": counts.restored,
            "replaced": counts.replaced,
            "skipped": counts.skipped,
            "functions": self._functions,
            "bytes_read": self._total,
            "bytes_sent": counts.bytes,
        }

    def _told(self, error: MingusError, writer: KeyWriter) -> MingusError:
        """*error* with what had been done by then, and what to do about it."""
        exact = True
        if writer.trouble is None:
            try:
                with self._target.translated("restoring"):
                    writer.settle()
            except MingusError:
                exact = False  # what was sent and not answered may be in, too
        written = writer.counts.written
        told = f"{'' if exact else 'at least '}{written:,} keys were restored before"
        if isinstance(error, Cancelled):
            return Cancelled(f"the job was cancelled; {told}", hint=_COMPLETE)
        if error.transient and self._plan.conflict == "fail" and writer.counts.bytes:
            # A retry would only find its own keys.
            return TargetError(f"{error.message}; {told}", hint=_COMPLETE)
        return type(error)(f"{error.message}; {told}", hint=error.hint)


_COMPLETE: Final = "the same call with --conflict skip (or replace) completes it"
