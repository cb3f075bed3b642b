"""The servers and directories that are backed up: do they answer, and is what a backup needs of them in order?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mingus_engine import lsn as lsns
from mingus_engine.errors import SourceDenied, SourceUnreachable
from mingus_engine.jobs.health.findings import CRITICAL, WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.settings import Settings, SourceSettings


@dataclass(frozen=True)
class Seen:
    """What one look showed.

    :param flush: of PostgreSQL: (system identifier, timeline, LSN up to which there is log).
    :param rewrite: of Redis: the live and the configured ``auto-aof-rewrite-percentage``, where the live one is 0.
    """

    findings: list[Finding] = field(default_factory=list)
    gauges: list[Gauge] = field(default_factory=list)
    flush: tuple[int, int, int] | None = None
    rewrite: tuple[int, int | None] | None = None


def look(settings: Settings, source: SourceSettings) -> Seen:
    """One cheap look at *source*. :raises MingusError: it does not answer or does not let us in."""
    kinds: dict[str, Callable[[Settings, SourceSettings], Seen]] = {
        "postgres": _postgres, "redis": _redis, "files": _files,
    }  # fmt: skip
    return kinds[source.kind](settings, source)


def _postgres(settings: Settings, source: SourceSettings) -> Seen:
    from mingus_engine.sources.postgres.health import look as look_at

    found = look_at(source)
    labels = {"source": source.id, "kind": source.kind}
    seen = Seen(
        [Finding("connection", True, f"answers; log up to {lsns.text(found.flush)}", source.id)],
        [Gauge("source_ok", 1, labels)],
        (found.system_id, found.timeline, found.flush),
    )
    _clock(settings, source, found.offset_s, seen)
    if source.wal.scheduled:
        seen.gauges.append(Gauge("slot_retained_bytes", found.retained_bytes, labels))
        slot = found.slot
        lost = slot is not None and slot.lost
        seen.gauges.append(Gauge("slot_lost", float(lost), labels))
        said = f'"{source.wal_slot}" ' + (f"is {slot.wal_status or 'empty'}" if slot else "is not there")
        seen.findings.append(Finding(
            "archiving-slot", slot is not None and not lost, said, source.id, severity=CRITICAL if lost else WARN,
            hint="`mingus wal archive` makes it; a lost one is a gap in the log: take a full backup"
            if slot is None or lost else "",
        ))  # fmt: skip
        if slot is not None and slot.wal_status == "unreserved":
            seen.findings.append(Finding(
                "slot-in-danger", False, f"{said}: about to be lost", source.id,
                hint="archive now (`mingus wal archive`), or raise max_slot_wal_keep_size",
            ))  # fmt: skip
    return seen


def _redis(settings: Settings, source: SourceSettings) -> Seen:
    from mingus_engine.sources.redis.health import look as look_at

    shards = look_at(source)
    seen = Seen(
        [Finding("connection", True, f"{len(shards)} primaries answer" if len(shards) > 1 else "answers", source.id)],
        [Gauge("source_ok", 1, {"source": source.id, "kind": source.kind})],
        rewrite=next(((0, shard.configured) for shard in shards if shard.rewrite_percentage == 0), None),
    )
    _clock(settings, source, max((shard.offset_s for shard in shards), key=abs, default=0.0), seen)
    bad = [shard.name or "the server" for shard in shards if not shard.saving]
    seen.findings.append(Finding(
        "saving", not bad, f"the last save of {', '.join(bad)} failed" if bad else "the last save succeeded", source.id,
        severity=WARN, hint="the server's log says why (disk full, no memory to fork)",
    ))  # fmt: skip
    return seen


def _files(settings: Settings, source: SourceSettings) -> Seen:  # noqa: ARG001 - as the others
    for root in source.files.roots:
        try:
            if (path := Path(root.path)).is_dir():
                with os.scandir(path) as entries:
                    next(entries, None)
            else:
                path.stat()
        except PermissionError as error:
            raise SourceDenied(f"{root.path}: {error.strerror}") from None
        except OSError as error:
            raise SourceUnreachable(f"{root.path}: {error.strerror}", hint="is its disk mounted?") from None
    said = f"{len(source.files.roots)} roots can be read"
    return Seen(
        [Finding("connection", True, said, source.id)],
        [Gauge("source_ok", 1, {"source": source.id, "kind": source.kind})],
    )


def _clock(settings: Settings, source: SourceSettings, offset_s: float, seen: Seen) -> None:
    seen.gauges.append(Gauge("clock_offset_seconds", offset_s, {"source": source.id, "kind": source.kind}))
    seen.findings.append(Finding(
        "clock", abs(offset_s) <= settings.health.clock_offset_max_s, f"{offset_s:+.1f} s from this machine's",
        source.id, severity=WARN, hint="synchronise the clocks (NTP) of this machine and of the server",
    ))  # fmt: skip


def rewrite_left_off(source: SourceSettings, recorded: tuple[int, bool] | None, configured: int | None) -> Seen:
    """Of a Redis whose ``auto-aof-rewrite-percentage`` is 0: whether a backup left it behind."""
    from mingus_engine.sources.redis.aof_setting import left_over

    was = left_over(0, recorded, configured)
    return Seen(
        [Finding(
            "aof-rewrite", not was, f"auto-aof-rewrite-percentage is 0, it was {was}" if was else "off, as it was set",
            source.id, severity=WARN,
            hint=f"CONFIG SET auto-aof-rewrite-percentage {was}; the next backup of the file does it by itself",
        )],
        [Gauge("redis_aof_rewrite_left_disabled", float(bool(was)), {"source": source.id, "kind": source.kind})],
    )  # fmt: skip


def unusable(source: SourceSettings, detail: str, hint: str) -> Seen:
    """Of a source that could not be looked at."""
    return Seen(
        [Finding("connection", False, detail, source.id, hint=hint)],
        [Gauge("source_ok", 0, {"source": source.id, "kind": source.kind})],
    )
