"""What a repository holds of a source, as moments and numbers, for gauges; remembered while the listing is the same.

Objects never change, so the same names mean the same facts: a probe every five minutes opens manifests, proofs and logs
only of a source of which something was stored or deleted since. What is remembered is safe to lose.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mingus_engine import ulids
from mingus_engine.errors import Damaged, FormatTooNew, KeyUnavailable
from mingus_engine.jobs.refuted import usable
from mingus_engine.repository import log_index, names, records, state
from mingus_engine.repository.log_index import LogIndex, StoredLog
from mingus_engine.repository.repository import Repository
from mingus_engine.store.base import ObjectInfo

#: From this level on a verification restores.
RESTORED_FROM = 3
# Of the form of what is remembered: another number, and it is made anew.
_VERSION = 3


@dataclass(frozen=True)
class Facts:
    """What does not change while the listing does not. Times: Unix; ``None`` = not known.

    :param last: operation → when the newest backup of that kind was written. :param restored_bytes: of all snapshots
        together. :param proofs: of the newest verification per level: [level, ok, when], newest last.
    """

    snapshots: int = 0
    flagged: int = 0
    window_start: float | None = None
    window_end: float | None = None
    gaps: int = 0
    last: Mapping[str, float] = field(default_factory=dict)
    restored_bytes: int = 0
    proofs: Sequence[Sequence[Any]] = ()
    damaged: Sequence[str] = ()


@dataclass(frozen=True)
class Copy:
    """Facts, and what the listing itself says.

    :param stored_bytes: of everything listed. :param ulids: of the snapshots. :param logs: what is archived.
    """

    facts: Facts
    stored_bytes: int
    ulids: frozenset[str]
    logs: LogIndex

    def archived_to(self, system_id: int, timeline: int) -> int:
        """The end of the newest log of a timeline; 0 = there is none."""
        return max((log.name.end for log in self.logs.timeline(system_id, timeline).logs), default=0)


def look(repository: Repository, source: str, kind: str, cache: Path) -> Copy:
    """:raises MingusError: it cannot be read. :param cache: directory of what is remembered."""
    listed = {
        part: list(repository.store.list(f"{part}/{source}/")) for part in ("packs", "logs", "snapshots", "records")
    }
    digest = hashlib.sha256(f"{_VERSION} {repository.id} {kind}\n".encode())
    for part in ("logs", "snapshots", "records"):
        for info in listed[part]:
            digest.update(f"{info.name} {info.size}\n".encode())
    file = cache / repository.id / f"{source}.json"
    facts = _remembered(file, digest.hexdigest())
    if facts is None:
        facts = _facts(repository, source, kind, listed["records"])
        _remember(file, digest.hexdigest(), facts)
    named = ((names.log(info.name), info.size) for info in listed["logs"])
    return Copy(
        facts,
        sum(info.size for infos in listed.values() for info in infos),
        frozenset(s.ulid for info in listed["snapshots"] if (s := names.snapshot(info.name))),
        log_index.index(StoredLog(name, size) for name, size in named if name is not None),
    )


def lag(repository: Repository, source: str, first: Copy, here: Copy) -> tuple[int, int]:
    """Bytes and objects that the first repository has and another does not yet; *repository*: the first one, open.

    Snapshots since the newest one that both have, and log beyond what is there: what lies before may have been dropped
    by the other's own retention.
    """
    both = max(first.ulids & here.ulids, default="")
    missing = {ulid for ulid in first.ulids - here.ulids if ulid > both}
    wanted: dict[str, int] = {}
    if missing:
        have = {ulid for ulid in here.ulids if ulid in first.ulids}
        seen = state.look(repository, source)
        there = {name for m in seen.manifests if m.ulid in have for name, _ in m.stored_names()}
        for manifest in seen.manifests:
            if manifest.ulid in missing:
                wanted |= {name: size for name, size in manifest.stored_names() if name not in there}
                wanted[str(manifest.name)] = 0
    for (system_id, timeline), logs in first.logs.timelines.items():
        end = here.archived_to(system_id, timeline)
        wanted |= {str(log.name): log.size for log in logs.needed() if log.name.end > end}
    return sum(wanted.values()), len(wanted)


def _facts(repository: Repository, source: str, kind: str, listed: Iterable[ObjectInfo]) -> Facts:
    seen = state.look(repository, source)
    last: dict[str, float] = {}
    for manifest in seen.manifests:
        operation = _operation(manifest.kind)
        # A full backup holds what the increment that was due would have held.
        for done in (operation, "incremental") if operation == "full" else (operation,):
            last[done] = max(last.get(done, 0.0), manifest.written_at.timestamp())
    start, end, gaps, damaged = _window(repository, source, kind, seen)
    return Facts(
        snapshots=len(seen.manifests),
        flagged=sum(m.flagged for m in seen.manifests),
        window_start=start,
        window_end=end,
        gaps=gaps,
        last=last,
        restored_bytes=_restored(repository, seen),
        proofs=_proofs(repository, listed),
        damaged=[*seen.damaged.values(), *damaged][:20],
    )


def _operation(kind: str) -> str:
    """Of a manifest's kind: ``postgres full``, ``redis rdb full``, ``redis aof incremental``, ``files incremental``."""
    words = kind.split()
    if words[:1] == ["redis"]:
        return "aof" if "aof" in words else "snapshot"
    return words[-1] if words else ""


def _window(
    repository: Repository, source: str, kind: str, seen: state.SourceState
) -> tuple[float | None, float | None, int, list[str]]:
    """First and last moment that can be restored, gaps, damaged logs. Of files: when the backup began."""
    if kind == "files":
        found, _ = usable(repository, source, seen)
        # What was changed after the walk began may not be in it.
        times = [datetime.fromisoformat(str(facts["started_at"])).timestamp() for _, facts in found]
        return min(times, default=None), max(times, default=None), 0, []
    if kind == "redis":
        return _redis_window(repository, source, seen)
    from mingus_engine.jobs.postgres.windows import Recoverable

    recoverable = Recoverable(repository, source, seen)
    windows = recoverable.found()
    newest = windows.newest()
    if newest is None:
        return None, None, len(windows.gaps), list(windows.damaged.values())
    # Where no sample says how far the log reaches, its newest snapshot does.
    end = newest.end_time or recoverable.point(newest.snapshots[-1]).stopped_at
    return _unix(newest.start_time), _unix(end), len(windows.gaps), list(windows.damaged.values())


def _redis_window(
    repository: Repository, source: str, seen: state.SourceState
) -> tuple[float | None, float | None, int, list[str]]:
    """Of a cluster, what all its shards can be brought to."""
    from mingus_engine.jobs.redis.windows import Recoverable

    windows = Recoverable(repository, source, seen).found()
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for window in windows.windows:
        if window.end_time is None:
            continue
        end = window.end_time.timestamp()
        if end >= ends.get(window.shard, 0.0):
            ends[window.shard] = end
            starts[window.shard] = (window.start_time or window.end_time).timestamp()
    damaged = list(windows.damaged.values())
    return max(starts.values(), default=None), min(ends.values(), default=None), len(windows.gaps), damaged


def _restored(repository: Repository, seen: state.SourceState) -> int:
    total = 0
    for manifest in seen.manifests:
        with suppress(Damaged, FormatTooNew, KeyUnavailable):
            total += int(repository.manifest_body(manifest).statistics.get("read_bytes", 0))
    return total


def _proofs(repository: Repository, listed: Iterable[ObjectInfo]) -> list[list[Any]]:
    newest: dict[tuple[int, bool], list[Any]] = {}
    proofs = [name for info in listed if (name := names.record(info.name)) and name.kind == records.PROOF]
    for name in sorted(proofs, key=lambda name: name.ulid):
        with suppress(Damaged, FormatTooNew):
            record = repository.get_record(name)
            level = re.fullmatch("L([0-4])", record.text("level"))
            if level:
                ok = record.facts.get("ok") is True
                newest[int(level[1]), ok] = [int(level[1]), ok, ulids.made_at(name.ulid).timestamp()]
    return sorted(newest.values(), key=lambda proof: proof[2])


def _unix(at: datetime | None) -> float | None:
    return at.timestamp() if at else None


def _remembered(file: Path, digest: str) -> Facts | None:
    """What is in the file, if it is of this listing and whole."""
    try:
        document = json.loads(file.read_bytes())
        return Facts(**document["facts"]) if document["digest"] == digest else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(file: Path, digest: str, facts: Facts) -> None:
    """Two probes at once write the same; a full disk only costs the next one its time."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_text(json.dumps({"digest": digest, "facts": dataclasses.asdict(facts)}), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
