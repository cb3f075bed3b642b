"""``back_up_aof``: the commands since the last hour: the server's own append-only file, or its command stream.

Where the data directory can be read: open the repository → put right what a dead run left → begin the run, with the
setting's value noted → open the files → choose a parent → read and store → commit. Elsewhere the command stream is
drained up to now (``jobs.redis.drain_stream``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis

from mingus_engine.errors import ParentDamaged, SourceUnsupported
from mingus_engine.jobs import places
from mingus_engine.jobs.backing_up import BackUpReport, BackUpRun
from mingus_engine.jobs.choosing import ParentChooser
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.redis.drain_stream import RedisStreamReport, drain_stream
from mingus_engine.redis.client import connected, mapped, place
from mingus_engine.repository import names, runs, writer
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.reusable import Candidate
from mingus_engine.repository.writer import UNUSABLE
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.redis import aof_setting
from mingus_engine.sources.redis.aof import AofBackup

#: Key of a run's ``.start``: settings of the server that the run changes for a while, with their old values.
SETTINGS_FACT = "redis_settings"
_FORM = "aof"


@dataclass(frozen=True, kw_only=True)
class RedisAofReport(BackUpReport):
    """Adds how far it reaches.

    :param reaches: everything executed before (ISO 8601, the server's clock) is contained.
    :param put_right: a setting that a dead run had left changed, and what it was put back to; empty = none.
    """

    form: str
    reaches: str
    position: int
    put_right: str


class AofRules:
    """Only another backup of the append-only file has the same files."""

    def foreign(self, then: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
        """See ``reusable.Rules``."""
        return "" if then.get("form") == facts.get("form") else f"it is of form {then.get('form')}"

    def begin_anew(self, parent: Candidate, facts: Mapping[str, Any]) -> list[str]:  # noqa: ARG002 - the protocol
        """See ``reusable.Rules``: blocks are compared, whatever else changed."""
        return []


def back_up_aof(settings: Settings, source_id: str, *, context: JobContext) -> RedisAofReport | RedisStreamReport:
    """Back up the append-only file of *source_id*, or record its command stream up to now, into the first reachable
    repository of its chain.

    :raises MingusError: nothing was committed; what was stored is used by the next try.
    """
    clock = Stopwatch()
    source = settings.source(source_id, "redis")
    if not source.redis.data_directory:
        return drain_stream(settings, source_id, context=context)
    avoid: list[str] = []
    while True:
        try:
            return _attempt(settings, source, context, clock, avoid)
        except ParentDamaged as error:
            context.log(f"{error.message}; begins again without it")
            if not error.snapshot or error.snapshot in avoid:
                raise
            avoid.append(error.snapshot)


def _attempt(
    settings: Settings, source: SourceSettings, context: JobContext, clock: Stopwatch, avoid: list[str]
) -> RedisAofReport:
    conn = source.redis.connection
    if conn.cluster:
        raise SourceUnsupported(
            f"{place(conn)}: one data directory is not a cluster's",
            hint="leave redis.data_directory empty: then the command streams are recorded",
        )
    with ExitStack() as stack:
        repository = stack.enter_context(places.first_reachable(settings, source.id, context))
        client = stack.enter_context(connected(conn))
        value, put_right = _ready_setting(client, source, repository, context)
        run = writer.begin(
            repository, source.id, kind=runs.WRITE, spool_path=settings.spool_path, level=source.zstd_level,
            provenance=context.provenance, workers=source.workers,
            facts={SETTINGS_FACT: {aof_setting.NAME: value}},
        )  # fmt: skip
        stack.callback(run.close)
        chooser = ParentChooser(
            run, context, lambda _: AofRules(), generation=timedelta(days=source.full_every_days), avoid=avoid
        )
        job = stack.enter_context(BackUpRun(settings, source, run, context, chooser))
        backup = AofBackup(
            source.redis, conn, client,
            value=value, cancel=context.cancel, log=context.log, choose_parent=job.choose_parent,
        )  # fmt: skip
        stack.callback(backup.close)
        backup.open()
        job.store(backup.items(), backup.expected_bytes())
        finished = backup.finish()
        job.store_made(finished.files)
        manifest = job.commit(finished, position=backup.position, form=_FORM, method="blocks")
    return RedisAofReport(
        **job.figures(manifest, finished, clock.seconds),
        form=_FORM,
        reaches=str(finished.facts["started_at"]),
        position=backup.position,
        put_right=put_right,
    )


# -- the setting ------------------------------------------------------------------------------------------------------


def _ready_setting(
    client: redis.Redis, source: SourceSettings, repository: Repository, context: JobContext
) -> tuple[int, str]:
    """The value that the setting shall have afterwards; and what was put right, in words.

    A left-over of a dead run is put right before anything else: this run may fail, too.
    """
    conn = source.redis.connection
    live = aof_setting.live_value(client, conn)
    value = live
    if not live:
        noted = recorded(repository, source.id, context)
        value = aof_setting.left_over(live, noted, _configured(client, source))
    if value == live:
        return value, ""
    aof_setting.put_right(conn, value, context.log)
    words = f"{aof_setting.NAME} was left at 0 and is {value} again"
    context.log(words)
    return value, words


def recorded(repository: Repository, source: str, context: JobContext) -> tuple[int, bool] | None:
    """The value that the newest run which changed the setting noted, and whether that run came to its end."""
    parts: dict[str, set[str]] = {}
    for info in repository.store.list(f"runs/{source}/"):
        if (name := names.run(info.name)) is not None:
            parts.setdefault(name.run, set()).add(name.part)
    for run in sorted(parts, reverse=True):
        if "start" not in parts[run]:
            continue
        context.checkpoint()
        try:
            header = repository.get_run(names.RunName(source, run, "start")).header
        except UNUSABLE:
            continue
        noted = header.get(SETTINGS_FACT)
        if isinstance(noted, dict) and isinstance(value := noted.get(aof_setting.NAME), int):
            return value, "end" in parts[run]
    return None


def _configured(client: redis.Redis, source: SourceSettings) -> int | None:
    file = source.redis.config_file
    if not file:
        with mapped(source.redis.connection, "reading INFO server"):
            file = str(client.info("server").get("config_file", ""))
    return aof_setting.configured_value(Path(file)) if file else None
