"""The full health check: the light probe, and everything that ``mingus check`` does of every source and repository, the
write-ahead log's canary, certificates, clocks of stores and the slots of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mingus_engine.errors import Cancelled, KeyUnavailable, MingusError, SourceBusy
from mingus_engine.jobs import keys
from mingus_engine.jobs.check import Checking
from mingus_engine.jobs.context import JobContext, Stopwatch
from mingus_engine.jobs.health import certificates, findings
from mingus_engine.jobs.health.bounded import Looks
from mingus_engine.jobs.health.findings import WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.jobs.health.probe import HealthReport, probe, told
from mingus_engine.repository.slots import ESCROW
from mingus_engine.settings import Settings, SourceSettings

# A check opens what a backup opens, and archives log up to now.
_CHECK_TIMES = 10
# These deserve attention before the next backup, not tonight; whether a backup succeeds does not depend on them.
_WARNINGS = frozenset({"replicas", "sample-of-keys", "saving", "memory-to-fork", "space-on-the-server"})

Found = tuple[list[Finding], list[Gauge]]


def health(
    settings: Settings,
    only: Sequence[str] = (),
    *,
    context: JobContext,
    unresolved: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> HealthReport:
    """Check the sources *only* (default: all) and the repositories of their chains.

    :param unresolved: as of ``probe``. :raises SettingsError: there is no such source. :raises Cancelled:
    """
    clock = Stopwatch()
    light = probe(settings, only, context=context, unresolved=unresolved, now=now)
    away = {f.source for f in light.findings if f.check == "connection" and not f.ok}
    shut = {f.repository for f in light.findings if f.check == "repository" and not f.ok}
    sources = [s for s in ([settings.source(n) for n in only] or settings.sources) if s.id not in away]
    names = dict.fromkeys(name for s in sources for name in settings.chain(s.id)) if only else [
        r.name for r in settings.repositories
    ]  # fmt: skip
    looks: dict[Any, Callable[[], Found]] = {
        ("repository", name): partial(_repository, settings, name, context, now) for name in names if name not in shut
    }
    # An archiving run would make the slot; and a slot that nobody reads fills the server's disk.
    archived = {f.source for f in light.findings if f.check == "archiving-slot" and f.ok}
    looks |= {("source", s.id): partial(_source, settings, s, context, now, s.id in archived) for s in sources}
    context.progress("check", 0, 0, f"{len(sources)} sources, {len(looks) - len(sources)} repositories")
    timeout = _CHECK_TIMES * max(settings.health.source_timeout_s, settings.health.repository_timeout_s)
    every: Looks[Any, Found] = Looks(looks, workers=settings.health.workers, timeout_s=timeout)
    found, gauges = list(light.findings), [g for g in light.gauges if g.name != "health_check_ok"]
    for (what, name), outcome in every.run(context.cancel).items():
        if isinstance(outcome, Exception):
            detail, hint = told(outcome)
            found.append(Finding("check", False, detail, **{what: name}, hint=hint))
            continue
        found += outcome[0]
        gauges += outcome[1]
    found = findings.worst_first(found)
    ok = not any(f.failed and f.severity == findings.CRITICAL for f in found)
    return replace(
        light, job="health", duration_s=clock.seconds, ok=ok, findings=found, gauges=[*gauges, *findings.gauges(found)]
    )


def _repository(settings: Settings, name: str, context: JobContext, now: Callable[[], datetime]) -> Found:
    checking = Checking(settings, context)
    found = list(_taken(checking.repository(name), repository=name))
    for endpoint in certificates.endpoints(settings, repository=name):
        found += certificates.look(endpoint, settings.health.certificate_min_days, now(), repository=name)
    slots, gauges = _slots(settings, name, context)
    return [*found, *slots], gauges


def _slots(settings: Settings, name: str, context: JobContext) -> Found:
    """Does each slot open for which there is a secret here? An escrow key is kept elsewhere, as it should be."""
    found, gauges = [], []
    try:
        slots = keys.check_keys(settings, name, context=context).slots
    except KeyUnavailable as error:
        return [Finding("slot", False, error.message, repository=name, hint=error.hint)], []
    for slot in slots:
        hint = (
            f"at the place where the escrow key is kept: MINGUS_ESCROW_KEY=… mingus keys check {name}"
            if slot.kind == ESCROW
            else "its secret is not here; another slot opens the repository"
        )
        detail = slot.trouble or ("opens" if slot.opens else "cannot be checked here")
        check = "escrow" if slot.kind == ESCROW else "slot"
        said = f"slot {slot.name}: {detail}; {hint}" if slot.opens is None else f"slot {slot.name}: {detail}"
        found.append(
            Finding(
                check, bool(slot.opens), said, repository=name, known=slot.opens is not None,
                hint="the key at hand does not open it: make a new slot before the old key is needed",
            )
        )  # fmt: skip
        if slot.kind == ESCROW and slot.opens is not None:
            gauges.append(Gauge("key_escrow_ok", float(slot.opens), {"repository": name}))
    return found, gauges


def _source(
    settings: Settings, source: SourceSettings, context: JobContext, now: Callable[[], datetime], archived: bool
) -> Found:
    found: list[Finding] = []
    found += _taken(Checking(settings, context).source(source.id), source=source.id)
    for endpoint in certificates.endpoints(settings, source):
        found += certificates.look(endpoint, settings.health.certificate_min_days, now(), source=source.id)
    if archived and not any(f.failed for f in found):
        found += _canary(settings, source, context)
    return found, []


def _taken(checks: Iterator[Any], *, source: str = "", repository: str = "") -> Iterator[Finding]:
    """The checks of ``mingus check`` as findings; an error ends them and is one itself."""
    hint = f"`mingus check {source}`" if source else "`mingus check`"
    try:
        for check in checks:
            name = findings.slug(check.name)
            severity = WARN if name in _WARNINGS else findings.CRITICAL
            known = check.data.get("available") is not False
            yield Finding(name, check.ok, check.detail, source, repository, severity, hint, known)
    except Cancelled:
        raise
    except MingusError as error:
        yield Finding("usable", False, error.message, source, repository, hint=error.hint)


def _canary(settings: Settings, source: SourceSettings, context: JobContext) -> list[Finding]:
    """A marker, archived, and found in every repository of the chain. What is archived on the way is no loss."""
    from mingus_engine.jobs.postgres.archive_wal import archive_wal

    try:
        report = archive_wal(settings, source.id, context=context, canary=True)
    except SourceBusy as error:
        return [Finding("wal-canary", False, error.message, source.id, known=False)]
    except Cancelled:
        raise
    except MingusError as error:
        return [Finding("wal-canary", False, error.message, source.id, hint=error.hint)]
    made = []
    for entry in report.repositories:
        canary: Any = entry.get("canary") or {}
        detail = str(entry.get("error") or canary.get("detail") or "archived; a standby takes no marker")
        hint = f"`mingus wal archive {source.id}` says more"
        made.append(Finding("wal-canary", bool(entry["ok"]), detail, source.id, str(entry["name"]), hint=hint))
    return made
