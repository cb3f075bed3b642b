"""How a moment of a whole source is reached: of one server, or of every shard of a cluster from one snapshot."""

from __future__ import annotations

from mingus_engine.errors import NotRestorable, SettingsError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.redis import recovery
from mingus_engine.jobs.redis.contents import shard_named
from mingus_engine.jobs.redis.recovery import RedisRecovery
from mingus_engine.jobs.redis.windows import look
from mingus_engine.jobs.surveying import known_times, second_between
from mingus_engine.repository import state
from mingus_engine.repository.repository import Repository


def recoveries(
    place: Repository,
    source_id: str,
    to: str,
    *,
    context: JobContext,
    snapshot: str | None = None,
    shard: str | None = None,
) -> dict[str, RedisRecovery]:
    """Shard (``""`` of a server that is no cluster) → how *to* is reached from what *place* holds.

    :param snapshot: ULID or its beginning; default: the newest that leads there. :param shard: only this one.
    :raises NotRestorable: it is outside what can be restored, of one shard at least. :raises SettingsError: it is no
        target, or an offset of a whole cluster: each shard counts its own. :raises NoSuchSnapshot: :raises Damaged:
    """
    target = recovery.parse(to)
    seen = state.look(place, source_id)
    chosen = seen.find(snapshot) if snapshot else seen.newest()
    facts = place.manifest_body(chosen).facts
    names = [str(one.get("name", "")) for one in facts.get("shards", ())] or [""]
    if shard is not None:
        names = [shard_named(names, shard)]
    if target.kind == "offset" and len(names) > 1:
        raise SettingsError("each shard has offsets of its own", hint="name one by --shard, or a time")
    first, *others = names
    found = recovery.plan(place, source_id, to, context=context, snapshot=snapshot, shard=first)
    result = {first: found}
    for name in others:
        context.checkpoint()
        # The shards of a cluster belong together: what is in no other snapshot's shard is not mixed in.
        result[name] = recovery.plan(place, source_id, to, context=context, snapshot=found.snapshot.ulid, shard=name)
    if len({one.snapshot.ulid for one in result.values()}) > 1:
        raise NotRestorable(f"the shards reach {target.text} from different snapshots")
    return result


def random_time(place: Repository, source_id: str, seed: int) -> str:
    """A target: a second of the newest window whose times are known, of a cluster one that is in each shard's.

    :raises NotRestorable: there is none.
    """
    newest = {window.shard: times for window in look(place, source_id).windows if (times := known_times(window))}
    start = max((times[0] for times in newest.values()), default=None)
    end = min((times[1] for times in newest.values()), default=None)
    if start is None or end is None or start >= end:
        raise NotRestorable("there is no window whose first and last moment are known")
    return f"time:{second_between(start, end, seed).isoformat()}"
