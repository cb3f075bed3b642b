"""What a finished backup says of one shard: plain facts for the manifest, and checks. No secret is among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.errors import BackupBroken
from mingus_engine.redis.rdb_check import RdbFacts
from mingus_engine.sources.redis.choosing import Chosen, address
from mingus_engine.sources.redis.discovery import Shard
from mingus_engine.sources.redis.rdb_stream import RdbStream
from mingus_engine.sources.redis.server import Info, Surroundings
from mingus_engine.sources.redis.transfer import Transfer

_FORK = ("rdb_last_cow_size", "latest_fork_usec", "rdb_last_bgsave_time_sec")


def shard_facts(shard: Shard, chosen: Chosen, surroundings: Surroundings, transfer: Transfer) -> dict[str, Any]:
    """One of ``facts.shards`` (docs/FORMAT.md).

    :raises BackupBroken: the transfer has not ended.
    """
    stream, rdb, after = _ended(transfer)
    counted = stream.counted
    databases: dict[str, dict[str, Any]] = (
        {str(n): found.as_dict() for n, found in sorted(counted.databases.items())}
        if counted is not None
        else {str(n): {"keys": keys, "expires": expires} for n, (keys, expires) in sorted(after.databases.items())}
    )
    sample = transfer.sample
    return {
        "name": shard.name,
        "address": address(chosen.primary),
        "read_from": address(chosen.conn),
        "role": chosen.role,
        "run_id": chosen.info.get("run_id"),
        "replid": transfer.replid,
        "offset": transfer.offset,
        "slots": [list(pair) for pair in shard.slots],
        "rdb": {"bytes": rdb.bytes, "checksum": rdb.checksum, "aux": dict(rdb.aux)},
        "databases": databases,
        "databases_by": "info" if counted is None else "rdb",
        "quiet": _quiet(transfer),
        "sample": {
            "keys": len(sample.keys) if sample is not None else 0,
            "unsteady": sample.unsteady if sample is not None else 0,
            "types": sample.types if sample is not None else {},
        },
        "fork": {name: after.number(name) for name in _FORK},
        "reader": {"seconds": round(transfer.seconds, 3), "waited_s": round(stream.waited_s, 3)},
        "settings": surroundings.told,
    }


def shard_checks(
    shard: Shard,
    chosen: Chosen,
    surroundings: Surroundings,
    transfer: Transfer,
    primary_config: Mapping[str, str] | None,
) -> list[Check]:
    """Of one shard, its name before each. *primary_config*: of its primary, ``None`` = not known."""
    stream, rdb, after = _ended(transfer)
    found = [
        _rdb(chosen, rdb, walked=stream.counted is not None),
        _read_from(chosen),
        _sampled(transfer),
        *_counted(transfer, stream, after),
        *_not_had(surroundings),
        *_persistence(chosen, primary_config),
    ]
    name = f"{shard.name}: " if shard.name else ""
    return [Check(name + check.name, check.ok, check.detail, check.data) for check in found]


def persistence_warning(info: Info, config: Mapping[str, str] | None) -> str:
    """Why a primary that restarts by itself would wipe its data; empty = it would not, or nobody may ask."""
    if config is None or info.is_replica or config.get("appendonly") != "no" or config.get("save"):
        return ""
    replicas = info.number("connected_slaves")
    wiped = f", and its {replicas} replicas are emptied after it" if replicas else ""
    return f'persistence is off (save "", appendonly no): if this primary restarts by itself, it is empty{wiped}'


def _ended(transfer: Transfer) -> tuple[RdbStream, RdbFacts, Info]:
    stream, after = transfer.stream, transfer.after
    if stream is None or stream.facts is None or after is None:
        raise BackupBroken("the transfer of an RDB has not ended")
    return stream, stream.facts, after


def _quiet(transfer: Transfer) -> bool:
    before, after = transfer.before, transfer.after
    return before is not None and after is not None and before.same_data(after)


def _rdb(chosen: Chosen, rdb: RdbFacts, *, walked: bool) -> Check:
    how = "its CRC-64 is right" if rdb.checksum else "without checksum (rdbchecksum no), walked from end to end"
    if rdb.checksum and walked:
        how += ", its keys were counted"
    server = f"{chosen.info.engine} {chosen.info.version}"
    return Check("RDB", True, f"version {rdb.version} of {server}, {rdb.bytes} bytes, {how}", {"version": rdb.version})


def _read_from(chosen: Chosen) -> Check:
    lag = ""
    if chosen.role == "replica" and chosen.primary_info is not None:
        behind = chosen.primary_info.number("master_repl_offset") - chosen.info.number("slave_repl_offset")
        lag = f" of {address(chosen.primary)}, {max(behind, 0)} bytes behind"
    return Check("read from", True, "; ".join((f"{chosen.role} {address(chosen.conn)}{lag}", *chosen.notes)))


def _sampled(transfer: Transfer) -> Check:
    sample = transfer.sample
    if sample is None:
        detail = f"none: {transfer.sample_trouble}" if transfer.sample_trouble else "none"
        return Check("sample", True, detail, {"keys": 0})
    detail = f"{len(sample.keys)} keys"
    if sample.unsteady:
        detail += f", {sample.unsteady} more changed while the server forked"
    return Check("sample", True, detail, {"keys": len(sample.keys), "unsteady": sample.unsteady})


def _counted(transfer: Transfer, stream: RdbStream, after: Info) -> Iterator[Check]:
    """Nothing was written around the fork: then the RDB holds exactly what the server counted."""
    if stream.counted is None or not _quiet(transfer):
        return
    ours = {n: (found.keys, found.expires) for n, found in stream.counted.databases.items()}
    theirs = after.databases
    detail = f"{sum(keys for keys, _ in ours.values())} keys"
    if ours != theirs:
        detail += f" in the RDB, {sum(keys for keys, _ in theirs.values())} on the server, and nothing was written"
    yield Check("keys as the server counts them", ours == theirs, detail)


def _not_had(surroundings: Surroundings) -> Iterator[Check]:
    if surroundings.lacking:
        detail = f"not stored: {'; '.join(surroundings.lacking)}"
        yield Check("what is stored beside the RDB", True, detail, {"lacking": len(surroundings.lacking)})


def _persistence(chosen: Chosen, config: Mapping[str, str] | None) -> Iterator[Check]:
    if chosen.primary_info is not None and (warning := persistence_warning(chosen.primary_info, config)):
        yield Check("persistence of the primary", True, f"WARNING: {warning}", {"warning": True})
