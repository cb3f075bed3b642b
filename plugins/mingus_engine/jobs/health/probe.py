"""The light probe: one look at every source and repository, in bounded time; what the gauges are computed from.

Sources and repositories are looked at at the same time, each for a bounded time. Then come the copies: what each
repository holds of each source. A repository that hangs once is not asked again in the same probe.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mingus_engine import bounds, ulids
from mingus_engine.errors import MingusError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.health import channels, copies, findings, host, servers, stored
from mingus_engine.jobs.health.bounded import Looks, TimedOut
from mingus_engine.jobs.health.findings import Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.jobs.health.servers import Seen
from mingus_engine.jobs.health.stored import Copy
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import RepositorySettings, Settings, SourceSettings

# A look must be over before its time is up; who wants a store's patience asks for a job.
_ATTEMPTS_MAX = 2
_DETAIL_LISTED = 200


@dataclass(frozen=True, kw_only=True)
class HealthReport(Report):
    """Findings, the worst first. ``gauges`` are for who sends them and in no JSON.

    :param ok: no check failed that is critical.
    """

    ok: bool
    findings: list[Finding]
    gauges: list[Gauge] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """A bounded dict of JSON types: every failure, the others counted."""
        bad = [finding for finding in self.findings if not finding.ok]
        return {
            "job": self.job,
            "source": self.source,
            "duration_s": self.duration_s,
            "ok": self.ok,
            "checks": len(self.findings),
            "critical": sum(f.failed and f.severity == findings.CRITICAL for f in self.findings),
            "warnings": sum(f.failed and f.severity == findings.WARN for f in self.findings),
            "not_checked": sum(not f.known for f in self.findings),
            "findings": [finding.as_dict() for finding in bad[:_DETAIL_LISTED]],
        }


def probe(
    settings: Settings,
    only: Sequence[str] = (),
    *,
    context: JobContext,
    unresolved: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> HealthReport:
    """Look at the sources *only* (default: all) and the repositories of their chains.

    :param unresolved: source → why its connection is not known; it is not asked.
    :raises SettingsError: there is no such source. :raises Cancelled:
    """
    clock = Stopwatch()
    chosen = [settings.source(name) for name in only] or list(settings.sources)
    found = _Probe(_hurried(settings), chosen, context, unresolved or {}).run(now)
    worker, used = host.look(settings)
    every = findings.worst_first([*found.findings, *worker, *channels.look(settings)])
    gauges = [*found.gauges, *used, *findings.gauges(every)]
    if not only:
        gauges.append(Gauge("probe_last_success_timestamp_seconds", now().timestamp()))
        gauges.append(Gauge("probe_duration_seconds", clock.seconds))
    return HealthReport(
        job="probe",
        source=",".join(only),
        duration_s=clock.seconds,
        ok=not any(f.failed and f.severity == findings.CRITICAL for f in every),
        findings=every,
        gauges=gauges,
    )


class _Probe:
    def __init__(
        self, settings: Settings, chosen: list[SourceSettings], context: JobContext, unresolved: Mapping[str, str]
    ) -> None:
        self._settings, self._chosen, self._context, self._unresolved = settings, chosen, context, unresolved
        self._chains = {source.id: settings.chain(source.id) for source in chosen}
        everywhere = [r.name for r in settings.repositories] if len(chosen) == len(settings.sources) else []
        self._names = list(dict.fromkeys([*everywhere, *(name for chain in self._chains.values() for name in chain)]))
        self.findings: list[Finding] = []
        self.gauges: list[Gauge] = []
        self._open: dict[str, Repository] = {}
        self._hanging: dict[str, str] = {}

    def run(self, now: Callable[[], datetime]) -> _Probe:
        with ExitStack() as stack:
            self._context.progress("probe", 0, 0, "repositories")
            self._repositories(stack)
            self._context.progress("probe", 0, 0, "sources")
            seen = self._sources()
            self._context.progress("probe", 0, 0, "copies")
            at = now().timestamp()
            held = self._copies(at)
            self._together(seen, held, at)
            if self._hanging:
                # A thread is still at work in one of them: its store is closed with the process.
                stack.pop_all()
        return self

    def _looks(self, looks: Mapping[Any, Callable[[], Any]], timeout_s: float) -> dict[Any, Any]:
        every: Looks[Any, Any] = Looks(looks, workers=self._settings.health.workers, timeout_s=timeout_s)
        return every.run(self._context.cancel)

    def _repositories(self, stack: ExitStack) -> None:
        limit = self._settings.health.repository_timeout_s
        opened = self._looks({name: partial(self._opened, name) for name in self._names}, limit)
        for name, outcome in opened.items():
            if isinstance(outcome, Exception):
                detail, hint = told(outcome)
                self.findings.append(Finding("repository", False, detail, repository=name, hint=hint))
                self.gauges.append(Gauge("repository_ok", 0, {"repository": name}))
                continue
            closing, place, free, size = outcome
            stack.enter_context(closing)
            self._open[name] = place
            self._space(place, free, size)

    def _opened(self, name: str) -> tuple[ExitStack, Repository, int | None, int | None]:
        """A repository that answers and that a key opens, and its free and whole space."""
        with ExitStack() as stack:
            place = stack.enter_context(places.opened(self._settings, name, self._context))
            place.keys.epoch_key(place.keys.epoch)
            chosen = self._settings.repository(name)
            size = shutil.disk_usage(chosen.path).total if chosen.store == "local" else None
            return stack.pop_all(), place, place.store.free_bytes(), size

    def _space(self, place: Repository, free: int | None, size: int | None) -> None:
        labels, limit = {"repository": place.name}, int(self._settings.health.storage_free_percent)
        self.findings.append(Finding("repository", True, "answers, and a key opens it", repository=place.name))
        age = max(0.0, time.time() - ulids.made_at(place.config.epoch).timestamp())
        self.gauges += [Gauge("repository_ok", 1, labels), Gauge("key_epoch_age_seconds", age, labels)]
        if free is None or not size:
            return
        self.gauges += [
            Gauge("storage_free_bytes", free, labels),
            Gauge("storage_size_bytes", size, labels),
            Gauge("storage_free_threshold_percent", limit, labels),
        ]
        self.findings.append(Finding(
            "space", 100 * free >= limit * size,
            f"{free / bounds.GIB:.1f} of {size / bounds.GIB:.1f} GiB free, alarm below {limit} %",
            repository=place.name,
            hint="free space, or move the repository",
        ))  # fmt: skip

    def _sources(self) -> dict[str, Seen]:
        asked = {s.id: partial(servers.look, self._settings, s) for s in self._chosen if s.id not in self._unresolved}
        outcomes = self._looks(asked, self._settings.health.source_timeout_s)
        seen: dict[str, Seen] = {}
        for source in self._chosen:
            outcome = outcomes.get(source.id, None)
            if isinstance(outcome, Seen):
                seen[source.id] = outcome
                continue
            detail, hint = told(outcome) if outcome else (self._unresolved[source.id], "")
            seen[source.id] = servers.unusable(source, detail, hint)
        return seen

    def _copies(self, now: float) -> dict[tuple[str, str], Copy]:
        kinds = {source.id: source for source in self._chosen}
        wanted = [(name, s) for s, chain in self._chains.items() for name in chain if name in self._open]
        limit = self._settings.health.repository_timeout_s
        outcomes = self._looks({key: partial(self._copy, *key, kinds[key[1]].kind) for key in wanted}, limit)
        held: dict[tuple[str, str], Copy] = {}
        for (name, source_id), outcome in outcomes.items():
            if isinstance(outcome, TimedOut):
                self._hanging[name] = str(outcome)
            if isinstance(outcome, Exception):
                detail, hint = told(outcome)
                self.findings.append(Finding("copy", False, detail, source_id, name, hint=hint))
                continue
            held[name, source_id] = outcome
            self.gauges += copies.gauges(kinds[source_id], name, outcome, now)
            self.findings += copies.findings(self._settings, kinds[source_id], name, outcome, now)
        return held

    def _copy(self, name: str, source_id: str, kind: str) -> Copy:
        if name in self._hanging:
            raise TimedOut(self._hanging[name])
        cache = self._settings.state_path / "cache" / "health"
        return stored.look(self._open[name], source_id, kind, cache)

    def _together(self, seen: Mapping[str, Seen], held: Mapping[tuple[str, str], Copy], now: float) -> None:
        """What takes both a look at the source and at its copies."""
        for source in self._chosen:
            one, chain = seen[source.id], self._chains[source.id]
            self.findings += one.findings
            self.gauges += one.gauges
            labels = {"source": source.id, "kind": source.kind}
            objective = self._settings.recovery_point_objective_s(source)
            self.gauges.append(Gauge("recovery_point_target_seconds", objective, labels))
            mine = {name: held[name, source.id] for name in chain if (name, source.id) in held}
            if mine:
                self.findings.append(copies.proven(self._settings.health, source, mine.values(), now))
            if one.flush is not None and mine and source.wal.scheduled:
                system_id, timeline, flush = one.flush
                end = max(copy.archived_to(system_id, timeline) for copy in mine.values())
                if end:
                    self.gauges.append(Gauge("wal_archive_lag_bytes", max(0, flush - end), labels))
            if source.kind == "redis":
                self._rewrite(source, one)
            self.gauges += self._lags(source, chain, mine)

    def _lags(self, source: SourceSettings, chain: Sequence[str], mine: Mapping[str, Copy]) -> Iterator[Gauge]:
        """Of each further repository, behind the first."""
        if chain[0] not in mine or chain[0] in self._hanging:
            return
        for name in chain[1:]:
            if name in mine:
                labels = {"source": source.id, "kind": source.kind, "repository": name}
                try:
                    size, objects = stored.lag(self._open[chain[0]], source.id, mine[chain[0]], mine[name])
                except MingusError as error:
                    self.findings.append(Finding("copy", False, error.message, source.id, chain[0], hint=error.hint))
                    return
                yield Gauge("replication_lag_bytes", size, labels)
                yield Gauge("replication_lag_objects", objects, labels)

    def _rewrite(self, source: SourceSettings, one: Seen) -> None:
        from mingus_engine.jobs.redis.back_up_aof import recorded

        noted = None
        if one.rewrite is not None:
            place = next((self._open[n] for n in self._chains[source.id] if n in self._open), None)
            if place is not None:
                noted = recorded(place, source.id, self._context)
            left = servers.rewrite_left_off(source, noted, one.rewrite[1])
            self.findings += left.findings
            self.gauges += left.gauges
        elif any(finding.check == "connection" and finding.ok for finding in one.findings):
            labels = {"source": source.id, "kind": source.kind}
            self.gauges.append(Gauge("redis_aof_rewrite_left_disabled", 0, labels))


def told(error: Exception) -> tuple[str, str]:
    """What happened, and what to do about it, of whatever a look raised."""
    if isinstance(error, MingusError):
        return error.message, error.hint
    if isinstance(error, TimedOut):
        return str(error), "it hangs or is overloaded: look at its log and at the network"
    return f"{type(error).__name__}: {error}", ""


def _hurried(settings: Settings) -> Settings:
    """*settings* with fewer tries of each store call."""
    fewer: list[RepositorySettings] = [
        dataclasses.replace(r, attempts=min(r.attempts, _ATTEMPTS_MAX)) for r in settings.repositories
    ]
    return dataclasses.replace(settings, repositories=tuple(fewer))
