"""An RDB of what no RDB holds: a moment, or an append-only file. A throw-away server loads it and saves one.

The scratch directory, which holds all that was restored, is wiped in every outcome.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import redis

from mingus_engine.errors import TargetError, TargetTooSmall
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis.into import StoredRdb
from mingus_engine.jobs.redis.recovery import RedisRecovery
from mingus_engine.jobs.redis.restore import RedisRestore
from mingus_engine.jobs.redis.restore_test import RestoredServer, chunks_of, databases_of, used_bytes
from mingus_engine.jobs.scratch import scratch_directory
from mingus_engine.programs import accounts
from mingus_engine.programs.accounts import Account
from mingus_engine.redis import programs, versions
from mingus_engine.redis.programs import Programs
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.targets.redis import memory
from mingus_engine.targets.redis.server import ThrowAwayRedis


@contextmanager
def saved(
    settings: Settings,
    source: SourceSettings,
    reader: SnapshotReader,
    recoveries: Mapping[str, RedisRecovery],
    context: JobContext,
) -> Iterator[tuple[list[StoredRdb], str]]:
    """The RDBs, one of each server, and who wrote them; they are gone at the end of the block.

    :param recoveries: shard → how its moment is reached; empty: the snapshot itself.
    :raises TargetError: no room, in memory or on the disk. :raises VerificationFailed: what is stored does not load.
    :raises ComponentMissing: no server of a fitting version is installed here. :raises Damaged:
    """
    account = accounts.account(source.run_as)
    owner = account.owner if account else None
    with scratch_directory(settings.scratch_path(source), owner) as scratch:
        job = RedisRestore(reader, scratch / "data", context, recoveries=recoveries)
        newest = max(job.contents.rdb_version(stored) for stored in job.stored)
        found = programs.find(job.engine, job.version, newest, source.bin_directory)
        job.run(owner=owner, durable=False)
        rdbs = []
        for stored, placed in zip(job.stored, job.servers, strict=True):
            one = RestoredServer(job, stored, placed, scratch / "data")
            path = _save(one, found, account, source, context)
            rdbs.append(StoredRdb(path.name, path.stat().st_size, partial(chunks_of, path)))
        yield rdbs, versions.shown(found.engine, found.version)


def _save(
    one: RestoredServer, found: Programs, account: Account | None, source: SourceSettings, context: JobContext
) -> Path:
    """Load *one* and save it. :returns: where the RDB is."""
    context.progress("load", 0, 0, f"start a server {one.stored.shard}".rstrip())
    try:
        memory.require(used_bytes(one), memory.available_bytes())
    except TargetTooSmall as error:
        raise TargetTooSmall(error.message, hint="run it on a machine with more memory") from None
    timeout_s = source.verify.start_timeout_s
    server = ThrowAwayRedis(
        one.root, one.placed, found, account=account, work_dir=one.root.parent, databases=databases_of(one.stored),
        start_timeout_s=timeout_s, checkpoint=context.checkpoint,
    )  # fmt: skip
    with server, closing(server.client(timeout_s=timeout_s)) as client:
        try:
            client.save()
        except redis.RedisError as error:
            raise TargetError(f"the server on {one.root} cannot save: {' '.join(str(error).split())[:300]}") from None
    return server.directory / os.fsdecode(one.placed.names.dbfilename)
