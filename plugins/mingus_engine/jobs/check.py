"""``check``: can everything that a backup will need be had? Asked before the night, not in it.

Of every repository: is it there and signed by the pinned installation, does a key open it, does its store behave. Of
a source: its hooks, and whatever it knows to check of itself (rights, slot, checksums, space, a WAL round trip; roots).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mingus_engine import alerts, bounds
from mingus_engine.checks import Check
from mingus_engine.errors import AlertNotSent, Cancelled, MingusError, SettingsError, SourceError, StoreError
from mingus_engine.jobs import hooks, places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.settings import Settings
from mingus_engine.store.probe import probe


@dataclass(frozen=True, kw_only=True)
class CheckReport(Report):
    """``checks``: as dicts, each with the ``scope`` it is of. ``exit_code``: of the first failure, else 0."""

    ok: bool
    exit_code: int
    hint: str
    checks: list[dict[str, Any]]


def check(settings: Settings, source_id: str | None = None, *, context: JobContext) -> CheckReport:
    """Check the repositories, and *source_id* if it is named (then only the repositories of its chain).

    A check that fails is in the report; nothing is raised for it.

    :raises SettingsError: there is no such source. :raises Cancelled:
    """
    clock = Stopwatch()
    names = settings.chain(source_id) if source_id else tuple(r.name for r in settings.repositories)
    job = Checking(settings, context)
    job.note("settings", Check("settings", True, _counted(settings)))
    job.alerts()
    for name in names:
        context.progress("check", 0, 0, f"repository {name}")
        job.collect(f"repository {name}", job.repository(name), StoreError.exit_code)
    if source_id:
        context.progress("check", 0, 0, f"source {source_id}")
        job.collect(f"source {source_id}", job.source(source_id), SourceError.exit_code)
    return CheckReport(
        job="check",
        source=source_id or "",
        duration_s=clock.seconds,
        ok=job.exit_code == 0,
        exit_code=job.exit_code,
        hint=job.hint,
        checks=job.found,
    )


class Checking:
    """The checks of one call, one after the other."""

    def __init__(self, settings: Settings, context: JobContext) -> None:
        self._settings, self._context = settings, context
        self.found: list[dict[str, Any]] = []
        self.exit_code = 0
        self.hint = ""

    def note(self, scope: str, check: Check, *, exit_code: int = 0, hint: str = "") -> None:
        """Take in one finding; the first failure decides the exit code. What could not be checked is none."""
        data = {"data": dict(check.data)} if check.data else {}
        self.found.append({"scope": scope, "name": check.name, "ok": check.ok, "detail": check.detail, **data})
        if not check.ok and check.data.get("available") is not False and not self.exit_code:
            self.exit_code, self.hint = exit_code, hint

    def collect(self, scope: str, checks: Iterator[Check], exit_code: int) -> None:
        """Take in *checks*; an error ends them and is a finding itself."""
        try:
            for check in checks:
                self._context.checkpoint()
                self.note(scope, check, exit_code=exit_code)
        except Cancelled:
            raise
        except MingusError as error:
            self.note(
                scope, Check("usable", False, error.message), exit_code=error.exit_code or exit_code, hint=error.hint
            )

    def alerts(self) -> None:
        """Whether somebody will be told when something is wrong; nothing is sent."""
        channels = alerts.configured(self._settings.alerts)
        if not channels:
            detail = "no channel is set up: nobody is told of a failure"
            self.note("alerts", Check("channels", False, detail, {"available": False}))
        found = alerts.problems(self._settings)
        for problem in found:
            check = Check(problem.channel or "settings", False, problem.text)
            self.note("alerts", check, exit_code=SettingsError.exit_code, hint=SettingsError.hint)
        for failure in alerts.last_failures(self._settings):
            check = Check(failure.channel, False, f"the last message, {failure.at}, was not taken: {failure.why}")
            self.note("alerts", check, exit_code=AlertNotSent.exit_code, hint=AlertNotSent.hint)
        if channels and not found:
            self.note("alerts", Check("channels", True, ", ".join(channels)))

    def repository(self, name: str) -> Iterator[Check]:
        """Of one repository."""
        with places.opened(self._settings, name, self._context, with_key=False) as place:
            config, store = place.config, place.store
            yield Check("configuration", True, f"generation {config.generation} in {store.location}")
            result = probe(store)
            yield Check("store", not result.problems, "; ".join(result.problems) or "behaves as it must")
            free = store.free_bytes()
            if free is not None:
                yield Check("space", free > 0, f"{free / bounds.GIB:.1f} GiB free", {"free_bytes": free})
        with places.opened(self._settings, name, self._context) as place:
            place.keys.epoch_key(place.keys.epoch)
            fingerprint = place.keys.signer.key_id
            yield Check(
                "keys", True, f"slot {place.keys.slot.name} opens them; installation {fingerprint[:16]}…"
            )  # fmt: skip

    def source(self, source_id: str) -> Iterator[Check]:
        """Of one source, by what knows its kind."""
        source = self._settings.source(source_id)
        yield from hooks.checks(source.hooks, source_id, self._settings.state_path)
        for name in self._settings.groups_of(source_id):
            yield from hooks.checks(self._settings.group(name).hooks, f"group {name}", self._settings.state_path)
        if source.kind == "redis":
            from mingus_engine.sources.redis.check import check_source as check_redis

            yield from check_redis(source, self._context.cancel)
        elif source.kind == "files":
            from mingus_engine.sources.files.check import check_source as check_files

            yield from check_files(source, self._context.cancel)
        else:
            from mingus_engine.sources.postgres.check import check_source

            yield from check_source(source, self._context.cancel)


def _counted(settings: Settings) -> str:
    return f"{len(settings.repositories)} repositories, {len(settings.sources)} sources"
