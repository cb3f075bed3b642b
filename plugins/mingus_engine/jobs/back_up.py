"""``back_up``: read a source once, seal it, store it, commit it.

The phases, in this order: open the repository → begin the run → take in what dead runs left → wait for the group, run
hooks → open the source, which asks for the parent of an incremental → read and store → what the kind of source needs →
run the hooks after it, wait for the group → cut and store shards → flush packs → manifest → end of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta

from mingus_engine.errors import ParentDamaged, SettingsError
from mingus_engine.jobs import places
from mingus_engine.jobs.backing_up import BackUpReport, BackUpRun
from mingus_engine.jobs.choosing import MakeRules, ParentChooser
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.hooks import AtRest, Gate, Hooks
from mingus_engine.jobs.postgres.parent_rules import PostgresRules, declared_gaps
from mingus_engine.repository import runs, writer
from mingus_engine.settings import Settings


def back_up(
    settings: Settings,
    source_id: str,
    *,
    context: JobContext,
    incremental: bool = False,
    gate: Gate | None = None,
) -> BackUpReport:
    """Back up *source_id* into the first reachable repository of its chain.

    :param incremental: build on the newest snapshot that may be built on; when there is none, a full backup is taken
        and the report says why. Either restores by itself, in one pass.
    :param gate: of a group that it is part of.
    :raises MingusError: nothing was committed; what was stored is used by the next try.
    """
    clock = Stopwatch()
    avoid: list[str] = []
    while True:
        try:
            return _attempt(settings, source_id, context, clock, incremental=incremental, avoid=avoid, gate=gate)
        except ParentDamaged as error:
            # The next run takes in what this one stored, so nothing is stored twice.
            context.log(f"{error.message}; begins again without it")
            if not error.snapshot or error.snapshot in avoid:
                raise
            avoid.append(error.snapshot)


def _attempt(
    settings: Settings,
    source_id: str,
    context: JobContext,
    clock: Stopwatch,
    *,
    incremental: bool,
    avoid: list[str],
    gate: Gate | None,
) -> BackUpReport:
    source = settings.source(source_id)
    back_up_kind = _KINDS[source.kind](incremental)
    with ExitStack() as stack:
        repository = stack.enter_context(places.first_reachable(settings, source_id, context))
        run = writer.begin(
            repository, source_id, kind=runs.WRITE, spool_path=settings.spool_path, level=source.zstd_level,
            provenance=context.provenance, workers=source.workers,
        )  # fmt: skip
        stack.callback(run.close)
        for damaged in run.state.damaged.values():
            context.log(f"not built upon: {damaged}")
        generation = timedelta(days=source.generation_days)
        chooser = (
            ParentChooser(run, context, _rules(source.kind, context), generation=generation, avoid=avoid)
            if incremental
            else None
        )
        hooks = Hooks(source.hooks, source_id, settings.state_path, context) if source.hooks else None
        at_rest = AtRest(hooks, gate)
        by_blocks = source.kind != "files"
        job = stack.enter_context(
            BackUpRun(settings, source, run, context, chooser, by_blocks=by_blocks, at_rest=at_rest)
        )
        stack.enter_context(at_rest)
        return back_up_kind(job, clock)


#: Reads, stores and commits what there is of a kind of source.
BackUpKind = Callable[[BackUpRun, Stopwatch], BackUpReport]


# Imported when used: a backup of one kind loads the drivers of no other.
def _postgres(incremental: bool) -> BackUpKind:  # noqa: ARG001 - either way
    from mingus_engine.jobs.postgres.back_up import back_up_postgres

    return back_up_postgres


def _redis(incremental: bool) -> BackUpKind:
    from mingus_engine.jobs.redis.back_up import back_up_redis

    if incremental:
        raise SettingsError(
            "a snapshot of Redis is always a full one: an RDB is written anew each time",
            hint="leave --incremental out; `mingus redis` and the append-only file store what changed",
        )
    return back_up_redis


def _files(incremental: bool) -> BackUpKind:  # noqa: ARG001 - either way
    from mingus_engine.jobs.files.back_up import back_up_files

    return back_up_files


_KINDS: Mapping[str, Callable[[bool], BackUpKind]] = {"postgres": _postgres, "redis": _redis, "files": _files}


def _rules(kind: str, context: JobContext) -> MakeRules:
    if kind == "files":
        from mingus_engine.jobs.files.parent_rules import FilesRules

        return lambda _: FilesRules()
    return lambda audits: PostgresRules(declared_gaps(audits, context))
