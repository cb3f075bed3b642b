"""``mingus check SOURCE`` of Redis: would a snapshot succeed, and would it be of use?

Nothing is changed on a server and none is made to fork. What costs a right that a snapshot does not need is said as not
checked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import redis

from mingus_engine.bounds import MIB
from mingus_engine.errors import SourceError
from mingus_engine.redis import sample
from mingus_engine.redis.client import ask, connected, mapped
from mingus_engine.redis.link import Link
from mingus_engine.settings import RedisConnection, SourceSettings
from mingus_engine.sources.base import Check
from mingus_engine.sources.redis import psync
from mingus_engine.sources.redis.choosing import Chosen, address, choose
from mingus_engine.sources.redis.discovery import Shard, discover
from mingus_engine.sources.redis.findings import persistence_warning
from mingus_engine.sources.redis.server import PERSISTENCE, Info, Surroundings, directives, read_surroundings

#: What a user must be allowed, by transport; the rest of docs/OPERATIONS.md is for what is stored beside the RDB.
_NEEDED = {
    "replication": (("PSYNC", "?", "-1"), ("REPLCONF", "capa", "eof")),
    "bgsave": (("BGSAVE", "SCHEDULE"), ("TIME",), ("CONFIG", "GET", "dbfilename")),
}
# Redis' own default for replicas; below it a large RDB and a busy writer end a backup.
_BUFFER_LEAST_BYTES = 256 * MIB
# A process that takes this much of the machine cannot be sure to fork: what is written meanwhile is copied.
_MEMORY_MOST = 0.9


def check_source(settings: SourceSettings, cancel: threading.Event) -> Iterator[Check]:
    """Check after check, as they are made, of one shard after the other.

    :raises SourceError: no server can be asked.
    """
    shards = discover(settings.redis.connection)
    keys = 0
    for shard in shards:
        for check in _of_shard(settings, shard, cancel):
            keys += int(check.data.get("keys", 0)) if check.name == "connection" else 0
            name = f"{shard.name}: {check.name}" if shard.name else check.name
            yield Check(name, check.ok, check.detail, check.data)
    allowed = settings.redis.may_be_empty
    detail = f"{keys} keys" if keys else "no key" + (", which the settings allow" if allowed else ": a snapshot fails")
    yield Check("keys", bool(keys) or allowed, detail, {"keys": keys})


def _of_shard(settings: SourceSettings, shard: Shard, cancel: threading.Event) -> Iterator[Check]:
    options = settings.redis
    bgsave = options.transport == "bgsave"
    chosen = choose(shard, prefer_replica=options.prefer_replica and not bgsave)
    info, conn = chosen.info, chosen.conn
    keys = sum(count for count, _ in info.databases.values())
    yield Check("connection", True, f"{info.engine} {info.version}, {chosen.role} {address(conn)}, {keys} keys",
                {"keys": keys})  # fmt: skip
    if chosen.notes:
        yield Check("replicas", True, "; ".join(chosen.notes))
    with connected(conn, raw=True) as client:
        yield _rights(client, settings, conn)
        config_file = options.config_file if not shard.name else ""
        surroundings = read_surroundings(client, conn, info, config_file=config_file)
        yield _beside(surroundings)
        yield _sampling(client, info, options.sample_keys)
    if bgsave:
        yield _directory(options.data_directory)
    else:
        yield _link(conn, surroundings, cancel)
    yield _last_save(info)
    yield _memory(info)
    yield _persistence(chosen, surroundings)
    if (surroundings.config or {}).get("rdbchecksum") == "no":
        yield Check("checksum", True, "rdbchecksum is no: the RDB is walked from end to end instead, which is slower")


def _rights(client: redis.Redis, settings: SourceSettings, conn: RedisConnection) -> Check:
    """By asking the server itself, which takes a right of its own."""
    needed = _NEEDED[settings.redis.transport]
    name = "right to back up"
    try:
        with mapped(conn, "asking for rights"):
            user = ask(client, "ACL", "WHOAMI")
            answers = [bytes(ask(client, "ACL", "DRYRUN", user, *command)) for command in needed]
    except SourceError as error:
        detail = f"not checked, which takes +acl|whoami +acl|dryrun: {error.message}"
        return Check(name, False, detail, {"available": False})
    missing = [command for command, answer in zip(needed, answers, strict=True) if answer != b"OK"]
    rights = " ".join(_rule(command) for command in missing or needed)
    shown = user.decode("utf-8", "replace") if isinstance(user, bytes) else str(user)
    return Check(name, not missing, f"missing: ACL SETUSER {shown} {rights}" if missing else rights)


def _rule(command: tuple[str, ...]) -> str:
    """What allows it in an ACL."""
    return f"+{command[0]}|{command[1]}".lower() if command[0] == "CONFIG" else f"+{command[0]}".lower()


def _beside(surroundings: Surroundings) -> Check:
    if surroundings.lacking:
        detail = f"not stored: {'; '.join(surroundings.lacking)}"
        return Check("what is stored beside the RDB", False, detail, {"available": False})
    return Check("what is stored beside the RDB", True, "configuration, users, functions, modules")


def _sampling(client: redis.Redis, info: Info, limit: int) -> Check:
    name = "sample of keys"
    if not limit:
        return Check(name, True, "none, as sample_keys is 0")
    try:
        taken = sample.take(client, {n: keys for n, (keys, _) in info.databases.items()}, min(limit, 10))
    except redis.RedisError as error:
        detail = f"none, so restore tests compare less: {' '.join(str(error).split())[:200]}"
        return Check(name, False, detail, {"available": False})
    return Check(name, True, "can be taken" if taken.keys else "there is no key to take")


def _directory(path: str) -> Check:
    if not path:
        return Check("data directory", False, "redis.data_directory is not set: transport bgsave reads the RDB there")
    readable = os.access(path, os.R_OK | os.X_OK)
    return Check("data directory", readable, f"{path} is {'readable' if readable else 'not readable here'}")


def _link(conn: RedisConnection, surroundings: Surroundings, cancel: threading.Event) -> Check:
    """The connection of the replication protocol, and what the server does with a reader that is slow."""
    name = "replication connection"
    try:
        with Link(conn, cancel) as link:
            psync.introduce(link)
            if psync.knows_rdb_only(link):
                return Check(name, True, "REPLCONF is answered; a slow reader is not dropped (rdb-only)")
    except SourceError as error:
        return Check(name, False, error.message)
    limit = (surroundings.config or {}).get("client-output-buffer-limit", "")
    hard = _hard_limit(limit)
    detail = f"a reader that is slower than the server's writers is dropped at client-output-buffer-limit {limit!r}"
    return Check(name, hard == 0 or hard >= _BUFFER_LEAST_BYTES, detail)


def _hard_limit(limits: str) -> int:
    """Of replicas, in bytes; 0 = none, or not known."""
    words = limits.split()
    for at, word in enumerate(words):
        if word in {"slave", "replica"} and at + 1 < len(words) and words[at + 1].isdigit():
            return int(words[at + 1])
    return 0


def _last_save(info: Info) -> Check:
    status = info.get("rdb_last_bgsave_status", "ok")
    detail = "the last one succeeded" if status == "ok" else "the last one failed: the server's log says why"
    return Check("saving", status == "ok", detail)


def _memory(info: Info) -> Check:
    used, total = info.number("used_memory_rss"), info.number("total_system_memory")
    took = f"; the last fork took {info.number('latest_fork_usec') / 1e6:.3f} s" if info.number("total_forks") else ""
    copied = f", {info.number('rdb_last_cow_size') // MIB} MiB were copied meanwhile" if took else ""
    detail = f"{used // MIB} of {total // MIB} MiB are in use by the server{took}{copied}"
    return Check("memory to fork", not total or used <= _MEMORY_MOST * total, detail)


def _persistence(chosen: Chosen, surroundings: Surroundings) -> Check:
    """Fails where replicas would be emptied after their primary; a mere cache is only told."""
    name = "persistence of the primary"
    config = surroundings.config if chosen.role == "primary" else directives(chosen.primary, *PERSISTENCE)
    if chosen.primary_info is None or config is None:
        return Check(name, False, "not known: CONFIG GET of the primary is not allowed", {"available": False})
    warning = persistence_warning(chosen.primary_info, config)
    if not warning:
        return Check(name, True, f"save {config.get('save') or 'none'!r}, appendonly {config.get('appendonly')}")
    return Check(name, not chosen.primary_info.number("connected_slaves"), f"WARNING: {warning}")
