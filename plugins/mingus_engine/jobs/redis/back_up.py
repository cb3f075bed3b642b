"""The backup of a Redis source: the RDB of every primary, and what explains it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.jobs.backing_up import BackUpReport, BackUpRun
from mingus_engine.jobs.context import Stopwatch
from mingus_engine.repository.writer import UNUSABLE
from mingus_engine.sources.redis.backup import open_backup


@dataclass(frozen=True, kw_only=True)
class RedisBackUpReport(BackUpReport):
    """Adds what only Redis has.

    :param engine: ``redis`` or ``valkey``, with its version. :param keys: in all databases of all shards.
    :param shards: of each its ``name``, ``read_from``, ``role``, ``replid``, ``offset`` and ``keys``.
    """

    engine: str
    rdb_version: int
    keys: int
    shards: list[dict[str, Any]]


def back_up_redis(job: BackUpRun, clock: Stopwatch) -> RedisBackUpReport:
    """Find the servers, read and store their RDBs side by side, let the source finish, commit.

    :raises MingusError: nothing was committed.
    """
    context = job.context
    context.progress("back up", 0, 0, "asking the servers")
    backup = open_backup(job.source, cancel=context.cancel)
    try:
        for note in backup.notes:
            context.log(note)
        job.store(backup.items(), backup.expected_bytes())
        finished = backup.finish()
        finished = replace(finished, checks=[*finished.checks, _size(job, finished.facts["shards"])])
        job.store_made(finished.files)
        for check in finished.checks:
            if check.data.get("warning"):
                context.log(f"{check.name}: {check.detail}")
        shards = finished.facts["shards"]
        manifest = job.commit(finished, position=shards[0]["offset"])
    finally:
        backup.close()
    told = [
        {**{name: shard[name] for name in ("name", "read_from", "role", "replid", "offset")}, "keys": _keys(shard)}
        for shard in shards
    ]
    return RedisBackUpReport(
        **job.figures(manifest, finished, clock.seconds),
        engine=f"{finished.facts['engine']} {finished.facts['version']}",
        rdb_version=int(finished.facts["rdb_version"]),
        keys=sum(shard["keys"] for shard in told),
        shards=told,
    )


def _size(job: BackUpRun, shards: list[dict[str, Any]]) -> Check:
    """Whether somebody may have flushed the server: the flag keeps the older snapshots (DESIGN §4 "Proofs")."""
    keys = sum(map(_keys, shards))
    for manifest in reversed(job.run.state.manifests):
        if manifest.kind != "redis full":
            continue
        try:
            before = sum(map(_keys, job.run.repository.manifest_body(manifest).facts["shards"]))
        except UNUSABLE:
            continue
        data = {"keys": keys, "before": before}
        ok = keys >= job.source.redis.shrink_alarm_share * before
        return Check("size", ok, f"{keys} keys, {before} in the snapshot before", data)
    return Check("size", True, f"{keys} keys", {"keys": keys})


def _keys(shard: dict[str, Any]) -> int:
    return sum(of["keys"] for of in shard["databases"].values())
