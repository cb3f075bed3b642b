"""``restore_into``: keys out of a snapshot's RDB into a server that runs, chosen by pattern and database.

The phases: what is asked for → the server (reachable, no replica, new enough for the RDB) → choose the snapshot → what
is there already, where that may be in the way → restore, key by key. Nothing is written before all that could be known
before was looked at. The RDB is streamed out of the repository and walked; it never lies on a disk.

What goes wrong half-way leaves the keys that are in: the error says how many. The same call with ``skip`` or
``replace`` completes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from mingus_engine import bounds
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import (
    NoSuchSnapshot,
    SettingsError,
    SourceError,
    SourceUnreachable,
    TargetError,
    TargetUnreachable,
)  # fmt: skip
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.redis import into_destination, into_scratch
from mingus_engine.jobs.redis.into import Chunks, Into, Plan, StoredRdb
from mingus_engine.jobs.redis.recovering import recoveries
from mingus_engine.redis import versions
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import DestinationSettings, Settings
from mingus_engine.sources.redis import discovery
from mingus_engine.store.throttled import Bucket
from mingus_engine.targets.redis.running import RunningRedis
from mingus_engine.targets.redis.writer import Conflict

_RDB_PATH = re.compile(rb"(?:shard-\d+/)?dump\.rdb")
#: ``manifest.kind`` of snapshots that hold an RDB.
RDB_KIND = "redis full"


@dataclass(frozen=True, kw_only=True)
class RedisRestoreIntoReport(Report):
    """What was restored; with a dry run what would be.

    :param destination: where to, as people read it. :param selected: keys of the snapshot that were asked for and had
        not expired: ``restored`` (new there), ``replaced`` or ``skipped`` (were there, and were kept).
    :param expired: keys that were asked for whose time is over; they are left out. :param other: not asked for.
    :param conflicts: how many were there already, as far as that was looked at before; ``None`` = it was not.
    :param databases: per database of the snapshot how many keys were selected. :param functions: libraries loaded.
    :param bytes_sent: to the server. :param keys_per_s: written, on average.
    """

    repository: str
    snapshot: str
    target: str | None = None
    destination: str
    conflict: str
    selected: int = 0
    restored: int = 0
    replaced: int = 0
    skipped: int = 0
    expired: int = 0
    other: int = 0
    conflicts: int | None = None
    functions: int = 0
    databases: dict[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_sent: int = 0
    keys_per_s: int = 0
    dry_run: bool = False


def restore_into(
    settings: Settings,
    source_id: str,
    *,
    into: str,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    to: str | None = None,
    keys: Sequence[str] = (),
    databases: Sequence[int] = (),
    database_map: Mapping[int, int] | None = None,
    conflict: Conflict = "fail",
    rate_keys_per_s: int = 0,
    rate_bytes_per_s: int = 0,
    functions: bool = False,
    dry_run: bool = False,
) -> RedisRestoreIntoReport:
    """Restore keys of *source_id* into the running server *into*.

    :param into: a destination or source of the settings, or an address, see ``into_destination``.
    :param snapshot: beginning of its ULID; ``None`` = the newest that holds an RDB, with *to* that leads there.
    :param to: recovery target (``recovery.FORMS``); default: the snapshot itself. A moment, and a snapshot of an
        append-only file, are loaded by a throw-away server in the scratch directory first.
    :param keys: patterns as of ``KEYS``, one of which must match; none = every key.
    :param databases: only these of the snapshot; none = all. :param database_map: which goes into another one there.
    :param conflict: ``fail`` writes nothing when a key is there already, nor everything into a server that holds keys;
        ``skip`` keeps what is there, ``replace`` does not.
    :param rate_keys_per_s, rate_bytes_per_s: limits, 0 = none. :param functions: load the libraries of functions, too.
    :param dry_run: only count.
    :raises SettingsError: :raises NoSuchSnapshot: :raises NotRestorable: the target is outside what can be restored.
    :raises TargetNotEmpty: nothing was written, unless the message says so. :raises TargetError: :raises Damaged:
    :raises Cancelled:
    """
    clock = Stopwatch()
    source = settings.stored_source(source_id, "redis")
    plan = Plan(
        patterns=tuple(key.encode() for key in keys),
        databases=frozenset(databases),
        database_map=dict(database_map or {}),
        conflict=conflict,
        functions=functions,
        keys_rate=_bucket(rate_keys_per_s, context, "keys"),
        bytes_rate=_bucket(rate_bytes_per_s, context, "bytes"),
        batch_keys=max(1, rate_keys_per_s // 4) if rate_keys_per_s else bounds.GIB,
    )
    chosen = into_destination.destination(settings, into)
    with ExitStack() as stack:
        target = stack.enter_context(opened_target(chosen, context))
        place = stack.enter_context(places.chosen(settings, source_id, repository, context))
        found = recoveries(place, source_id, to, context=context, snapshot=snapshot) if to is not None else {}
        manifest = next((one.snapshot for one in found.values()), None) or _choose(place, source_id, snapshot)
        stack.enter_context(reading.announced(place, manifest, context))
        reader = SnapshotReader(place, manifest, settings.spool_path)
        facts, rdbs = reader.body.facts, stored_rdbs(reader)
        if found or not rdbs:
            rdbs, origin = stack.enter_context(into_scratch.saved(settings, source, reader, found, context))
            # A connection that was idle all the while may have been cut.
            target.close()
            target = stack.enter_context(opened_target(chosen, context))
            job = Into(target, rdbs, plan, context, origin=origin)
        else:
            origin = versions.shown(str(facts.get("engine", "")), str(facts.get("version", "")))
            known = {int(number) for shard in facts.get("shards") or () for number in shard.get("databases") or ()}
            job = Into(target, rdbs, plan, context, origin=origin, databases=sorted(known))
        numbers = job.look() if dry_run else job.run()
        seconds = clock.seconds
        return RedisRestoreIntoReport(
            job="restore_into",
            source=source_id,
            duration_s=seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            destination=str(target),
            conflict=conflict,
            keys_per_s=round((numbers["restored"] + numbers["replaced"]) / seconds) if seconds else 0,
            dry_run=dry_run,
            target=next((one.target.text for one in found.values()), None),
            **numbers,
        )


def opened_target(chosen: DestinationSettings, context: JobContext) -> RunningRedis:
    """The server or cluster that *chosen* names, by Sentinels where it has such; the caller closes it.

    :raises TargetError: it is not usable.
    """
    connection = chosen.redis.connection
    try:
        if connection.sentinels:
            connection = discovery.discover(connection)[0].primary
    except SourceUnreachable as error:
        raise TargetUnreachable(f"destination {chosen.name}: {error.message}") from None
    except SourceError as error:
        raise TargetError(f"destination {chosen.name}: {error.message}", hint=error.hint) from None
    return RunningRedis(connection, chosen.name, context.cancel)


def stored_rdbs(reader: SnapshotReader) -> list[StoredRdb]:
    """The RDBs of a snapshot, one of each shard; of a snapshot of append-only files, none."""
    found = []
    for file in reader.files():
        if _RDB_PATH.fullmatch(file.entry.path):

            def chunks(file: TabledEntry = file) -> Chunks:
                for _, data, length in reader.data(file):
                    yield bytes(length) if data is None else data

            found.append(StoredRdb(file.entry.path.decode(), file.entry.size, chunks))
    return found


def _choose(place: Repository, source_id: str, snapshot: str | None) -> Manifest:
    if snapshot:
        return reading.choose(place, source_id, snapshot)
    seen = state.look(place, source_id)
    seen.newest()  # a damaged one may be newer than all others
    found = [manifest for manifest in seen.manifests if manifest.kind == RDB_KIND]
    if not found:
        raise NoSuchSnapshot(f"source {source_id} has no snapshot with an RDB in {place.name}")
    return found[-1]


def _bucket(rate: int, context: JobContext, what: str) -> Bucket | None:
    if rate < 0:
        raise SettingsError(f"a rate of {rate} {what} per second cannot be")
    return Bucket(rate, sleep=context.cancel.wait) if rate else None
