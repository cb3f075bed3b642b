"""The upper rungs of the verification ladder for Redis (DESIGN §7): restore, compare every file (L3), start a server of
the same major version on it and ask it (L4).

"The server starts" is not a test: one that looks for another file starts empty and says nothing. So L4 counts every
key of every database by type and expiry, on the server and in the RDB, and compares what was recorded at the backup.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from mingus_engine import bounds
from mingus_engine.checks import Check
from mingus_engine.errors import ComponentMissing, Damaged, SourceError, VerificationFailed
from mingus_engine.jobs.comparing import compare_files
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.redis import census, invariants
from mingus_engine.jobs.redis.census import Census
from mingus_engine.jobs.redis.contents import StoredServer, shard_facts
from mingus_engine.jobs.redis.recovery import RedisRecovery
from mingus_engine.jobs.redis.restore import RedisRestore
from mingus_engine.jobs.scratch import scratch_directory
from mingus_engine.programs import accounts
from mingus_engine.programs.accounts import Account
from mingus_engine.redis import programs, sample
from mingus_engine.redis.programs import Programs
from mingus_engine.redis.rdb_check import RdbFacts
from mingus_engine.redis.rdb_statistics import statistics
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import SourceSettings
from mingus_engine.targets.redis import layout, memory
from mingus_engine.targets.redis.layout import ServerFiles
from mingus_engine.targets.redis.server import ThrowAwayRedis

_TOOL_TIMEOUT_S = 3600.0
# Of the numbers of keys of a busy server: a tenth, or half up to so many, or so few.
_LIVE_SHARE, _LIVE_KEYS, _LIVE_LEAST = 0.1, 1000, 10
_OUTPUT_LINES = 3


@dataclass(frozen=True)
class RestoredServer:
    """One server that was restored, in *root*."""

    job: RedisRestore
    stored: StoredServer
    placed: ServerFiles
    root: Path

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was recorded of it."""
        return shard_facts(self.job.facts, self.stored.shard)

    @property
    def recovery(self) -> RedisRecovery | None:
        """How its moment is reached."""
        return self.job.recoveries.get(self.stored.shard)

    @property
    def base(self) -> Path:
        """The RDB that a start begins with."""
        return self.path(self.placed.base)

    @property
    def is_rdb_alone(self) -> bool:
        """Whether the server has what the RDB has, nothing of commands."""
        return bool(self.placed.base) and self.stored.manifest is None and self.recovery is None

    def path(self, name: bytes) -> Path:
        """Of a file of the restore."""
        return self.root / os.fsdecode(name)

    def named(self, check: Check) -> Check:
        """*check*, said of this server."""
        return Check(f"{check.name} {self.stored.shard}".rstrip(), check.ok, check.detail, check.data)


@dataclass
class RestoreTest:
    """One restore test of one snapshot. ``rto_s``: from the first byte fetched to a server that has loaded everything;
    of a cluster the slowest one's.

    :param recoveries: shard → how its moment is reached; empty: the snapshot itself.
    """

    source: SourceSettings
    reader: SnapshotReader
    scratch_parent: Path
    context: JobContext
    recoveries: Mapping[str, RedisRecovery] = field(default_factory=dict)
    bytes_read: int = 0
    rto_s: float | None = None
    found: list[Check] = field(default_factory=list)

    def run(self, *, start_server: bool) -> list[Check]:
        """Restore and check; the scratch directory is gone afterwards, whatever happened.

        :raises MingusError: the restore itself failed (Damaged, TargetError, …). Failed checks are returned.
        """
        account = accounts.account(self.source.run_as)
        owner = account.owner if account else None
        with scratch_directory(self.scratch_parent, owner) as scratch:
            clock = Stopwatch()
            job = RedisRestore(self.reader, scratch / "data", self.context, recoveries=self.recoveries)
            newest = max(job.contents.rdb_version(stored) for stored in job.stored)
            found = None
            if start_server:
                found = programs.find(job.engine, job.version, newest, self.source.bin_directory)
            job.run(owner=owner, durable=False)
            restored_s = clock.seconds
            self.bytes_read = job.bytes + job.command_bytes
            self.found.append(Check("L3 restore", True, f"{job.files} files, {job.bytes} bytes in {restored_s} s"))
            places = {path: scratch / "data" / os.fsdecode(to) for s in job.servers for path, to in s.files.items()}
            self.found.append(compare_files(self.reader, places.get, self.context))
            for stored, placed in zip(job.stored, job.servers, strict=True):
                one = RestoredServer(job, stored, placed, scratch / "data")
                if found is None:
                    self.found.extend(map(one.named, _counted(one, self.context)))
                else:
                    self._ask_server(one, found, account, restored_s)
        return self.found

    def _ask_server(self, one: RestoredServer, found: Programs, account: Account | None, restored_s: float) -> None:
        """Level 4 of one server: programs, server, keys, sample, invariants."""
        self._progress("check programs", one)
        self.found.extend(map(one.named, _tools(one, found, account, self.context)))
        memory.require(used_bytes(one), memory.available_bytes())
        server = ThrowAwayRedis(
            one.root, one.placed, found, account=account, work_dir=one.root.parent, databases=databases_of(one.stored),
            start_timeout_s=self.source.verify.start_timeout_s, checkpoint=self.context.checkpoint,
        )  # fmt: skip
        first_ms = _now_ms()
        self._progress("start the server", one)
        try:
            started = server.start()
        except VerificationFailed as error:
            self._require_modules(one)
            self.found.append(one.named(Check("L4 start", False, error.message)))
            return
        with closing(server):
            self.rto_s = max(self.rto_s or 0.0, round(restored_s + started.loaded_s, 3))
            self.found.append(one.named(Check("L4 start", True, f"loaded after {started.loaded_s} s")))
            try:
                self.found.extend(map(one.named, self._questions(one, server, first_ms)))
            except (redis.RedisError, SourceError) as error:
                said = " ".join(str(error).split())[:300]
                self.found.append(one.named(Check("L4 questions", False, f"the restored server: {said}")))
            clean = server.stop()
            self.found.append(one.named(Check("L4 stop", clean, "" if clean else "the server did not end by itself")))

    def _require_modules(self, one: RestoredServer) -> None:
        """A server without the modules of an RDB does not load it, which says nothing about the RDB.

        :raises ComponentMissing: it has values of modules.
        """
        if not one.placed.base:
            return
        found = statistics(chunks_of(one.base), one.base.name, checkpoint=self.context.checkpoint)
        if found.modules:
            raise ComponentMissing(
                f"the RDB has values of modules that the throw-away server does not load: {', '.join(found.modules)}",
                hint="prove it at level L3, which starts no server; restore it where the modules are installed",
            )

    def _questions(self, one: RestoredServer, server: ThrowAwayRedis, first_ms: int) -> Iterator[Check]:
        self._progress("count keys", one)
        measured = _measured(server, first_ms, self.context)
        last_ms = _now_ms() + 1
        if one.is_rdb_alone:
            path = one.base
            expected = census.of_rdb(chunks_of(path), path.name, first_ms, last_ms, self.context.checkpoint)
            yield from census.compare(expected, measured)
            yield from recorded_keys(one.facts, expected.databases)
            with closing(server.client()) as client:
                libraries = len(sample.functions(client) or {})
            yield Check(
                "L4 function libraries", libraries == expected.functions,
                f"{libraries} libraries, {expected.functions} in the RDB",
            )  # fmt: skip
        else:
            there, moment = sum(counts.total() for counts in measured.values()), one.recovery is not None
            yield not_empty(one.facts, there, 0 if there else _gone(server, moment=moment))
            if not moment:
                yield from recorded_persistent(one.facts, measured)
        self._progress("compare the sample", one)
        yield from self._sampled(one, server)
        self._progress("invariants", one)
        yield from invariants.evaluate(server.client, self.source.redis.invariants, self.context.checkpoint)

    def _sampled(self, one: RestoredServer, server: ThrowAwayRedis) -> Iterator[Check]:
        """What was sampled at the backup; at another moment it need not be so."""
        path = one.stored.prefix + sample.SAMPLE_PATH
        raw = one.job.contents.read(path)
        if raw is None or one.recovery is not None:
            return
        recorded = sample.decode(raw, f"snapshot {self.reader.manifest.ulid}: {path.decode()}")
        with closing(server.client()) as client:
            again = sample.again(client, recorded)
        for check in sample.compare(recorded, again, _now_ms()):
            yield Check(f"L4 {check.name}", check.ok, check.detail, check.data)

    def _progress(self, what: str, one: RestoredServer) -> None:
        self.context.checkpoint()
        self.context.progress("verify L4", 0, 0, f"{what} {one.stored.shard}".rstrip())


def recorded_keys(facts: Mapping[str, Any], counted: Mapping[int, Census]) -> Iterator[Check]:
    """L3: keys per database as recorded at the backup, against the RDB.

    Exactly, where they were counted in the RDB. By the server's own count exactly where nothing was written meanwhile,
    apart from keys that expire: those go at any time.
    """
    recorded = {int(n): (int(one["keys"]), int(one["expires"])) for n, one in (facts.get("databases") or {}).items()}
    if not recorded and not counted:
        return
    by_rdb, quiet = facts.get("databases_by") == "rdb", bool(facts.get("quiet"))
    wrong = []
    for database in sorted(recorded.keys() | counted.keys()):
        one = counted.get(database, Census())
        (then, then_expires), (now, now_expires) = recorded.get(database, (0, 0)), (one.keys, one.expires)
        slack = _slack(then, now)
        differ = [(now - now_expires) - (then - then_expires), now_expires - then_expires]
        allowed = [0 if by_rdb or quiet else slack, 0 if by_rdb else slack]
        if any(abs(n) > most for n, most in zip(differ, allowed, strict=True)):
            wrong.append(
                f"database {database}: {now} keys, {now_expires} that expire; {then} and {then_expires} were recorded"
            )
    how = ", those that expire about" if quiet else " about: it was written to meanwhile"
    total = sum(one.keys for one in counted.values())
    yield Check(
        "L3 recorded keys", not wrong, "; ".join(wrong[:5]) or f"{total} keys as recorded{'' if by_rdb else how}"
    )


def _slack(then: int, now: int) -> int:
    """How far the number of keys that a busy server told may be from what its files have; never all of more than 20."""
    return max(_LIVE_LEAST, int(_LIVE_SHARE * max(then, now)), min(_LIVE_KEYS, then // 2))


def recorded_persistent(facts: Mapping[str, Any], measured: Mapping[int, Counter[tuple[str, str]]]) -> Iterator[Check]:
    """L4 of an append-only file, which nobody counts in its commands: keys that do not expire, per database, against
    the server's own count at the backup. Exactly, where nothing was written meanwhile.
    """
    recorded = {int(n): int(one["keys"]) - int(one["expires"]) for n, one in (facts.get("databases") or {}).items()}
    quiet, wrong, total = bool(facts.get("quiet")), [], 0
    for database in sorted(recorded.keys() | measured.keys()):
        then = recorded.get(database, 0)
        now = sum(n for (_, life), n in measured.get(database, Counter()).items() if life == census.NO_EXPIRY)
        total += now
        if abs(then - now) > (0 if quiet else _slack(then, now)):
            wrong.append(f"database {database}: {now} keys that do not expire, {then} were recorded")
    how = "" if quiet else ", about: it was written to meanwhile"
    yield Check("L4 recorded keys", not wrong, "; ".join(wrong[:5]) or f"{total} keys that do not expire{how}")


def not_empty(facts: Mapping[str, Any], there: int, gone: int) -> Check:
    """A server that has nothing where something was recorded was started on the wrong file.

    :param there: keys that it has. :param gone: that it loaded, or that expired in it: it was not empty then.
    """
    recorded = sum(int(one["keys"]) for one in (facts.get("databases") or {}).values())
    detail = f"{there} keys; {recorded} were recorded at the snapshot" + (f", {gone} have gone since" if gone else "")
    return Check("L4 keys", there > 0 or gone > 0 or recorded == 0, detail, {"keys": there, "gone": gone})


def _gone(server: ThrowAwayRedis, *, moment: bool) -> int:
    """Keys that expired in the server; of a *moment* also those that its base had: commands may have deleted them."""
    with closing(server.client()) as client:
        expired = int(client.info("stats").get("expired_keys", 0))
        loading = client.info("persistence")
    base = int(loading.get("rdb_last_load_keys_loaded", 0)) if moment else 0
    return expired + int(loading.get("rdb_last_load_keys_expired", 0)) + base


def _measured(server: ThrowAwayRedis, first_ms: int, context: JobContext) -> dict[int, Counter[tuple[str, str]]]:
    with closing(server.client()) as client:
        numbers = [int(name.removeprefix("db")) for name in client.info("keyspace")]
    found = {}
    for number in numbers:
        with closing(server.client(number)) as client:
            found[number] = census.of_server(client, first_ms, context.checkpoint)
    return found


def _counted(one: RestoredServer, context: JobContext) -> Iterator[Check]:
    """L3 without a server: the restored RDB, walked."""
    if not one.placed.base:
        return
    now = _now_ms()
    try:
        found = census.of_rdb(chunks_of(one.base), one.base.name, now, now, context.checkpoint)
    except Damaged as error:
        yield Check("L3 RDB", False, error.message)
        return
    yield Check("L3 RDB", True, f"{found.keys} keys in {len(found.databases)} databases")
    if one.is_rdb_alone:
        yield from recorded_keys(one.facts, found.databases)


def _tools(one: RestoredServer, found: Programs, account: Account | None, context: JobContext) -> Iterator[Check]:
    """What the server's own programs say. They accept what ours refuse (a stale tail), never the other way round."""
    placed = one.placed
    asked = []
    if placed.form == layout.AOF:
        asked.append(("check-aof", one.path(placed.manifest_path)))
    if placed.base:
        asked.append(("check-rdb", one.base))
    for name, path in asked:
        tool = found.tool(name)
        try:
            done = found.run(
                tool, [str(path)], account=account, timeout_s=_TOOL_TIMEOUT_S, checkpoint=context.checkpoint
            )
        except ComponentMissing as error:
            yield Check(f"L4 {tool}", False, f"not available: {error.message}", {"available": False})
            continue
        last = "; ".join(done.output.strip().splitlines()[-_OUTPUT_LINES:])
        yield Check(f"L4 {tool}", done.code == 0, f"{path.name}: {last}" if done.code else path.name)


def used_bytes(one: RestoredServer) -> int:
    """Memory that the server had in use, by the RDB; at least as much as there is to load."""
    facts: RdbFacts | None = one.job.rdbs.get(one.placed.base)
    used = (facts.aux if facts else {}).get("used-mem", "")
    size = sum(one.job.contents.files[path].entry.size for path in one.placed.files)
    commands = one.recovery.end - one.recovery.start if one.recovery else 0
    return max(int(used) if used.isdecimal() else 0, size) + commands


def databases_of(stored: StoredServer) -> int:
    """How many databases the server had: an RDB with more than a server has is refused by it."""
    said = str(stored.configuration.get("databases") or "16")
    return int(said) if said.isdecimal() and 0 < int(said) < 1 << 20 else 16


def chunks_of(path: Path) -> Generator[bytes, None, None]:
    """The content of a file, in pieces."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(bounds.MIB):
            yield chunk


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
