"""Groups of sources that are backed up at one moment, and which of their snapshots are of which moment.

Every member is backed up by a thread of its own, by the same job as alone. All wait until every member's repository is
open and its run begun; then ``before`` of the group runs, all read, and when the last has read everything, ``after``
runs. Only then the first one commits: its manifest says between which moments everything stood still.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mingus_engine import ulids
from mingus_engine.errors import BackupBroken, Cancelled, MingusError
from mingus_engine.jobs import places
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.backing_up import BackUpReport
from mingus_engine.jobs.context import JobContext, Progress, Report, Stopwatch
from mingus_engine.jobs.hooks import Hooks
from mingus_engine.repository import state
from mingus_engine.repository.writer import UNUSABLE
from mingus_engine.settings import GroupSettings, Settings

_POLL_S = 0.1
#: How many of the newest snapshots of a member are looked at for runs of a group.
LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True)
class GroupReport(Report):
    """One run of a group. ``source``: the group's name. ``members``: reports of the members' backups, by source.

    :param group: ``id`` (ULID of the run), ``quiesced_from`` and ``quiesced_until``; ``failed``: programs that should
        have let the application go on.
    """

    group: dict[str, Any]
    members: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GroupRun:
    """One moment of a group. ``members``: source → its snapshot, of those that committed.

    :param complete: all members have committed theirs.
    """

    group: str
    id: str
    quiesced_from: datetime
    quiesced_until: datetime
    members: dict[str, str]
    complete: bool


class GroupFailed(MingusError):
    """A run of a group that is not whole. ``reports``: of the members that committed all the same."""

    def __init__(self, message: str, first: MingusError, reports: Mapping[str, BackUpReport]) -> None:
        super().__init__(message, hint=first.hint)
        self.transient, self.exit_code = first.transient, first.exit_code
        self.reports = dict(reports)


def back_up_group(settings: Settings, name: str, *, context: JobContext, incremental: bool = False) -> GroupReport:
    """Back up all members of the group *name* at one moment. A Redis is always backed up in full.

    :raises GroupFailed: a member failed. If that was before all had read everything, none has committed.
    :raises Cancelled:
    """
    clock = Stopwatch()
    group = settings.group(name)
    for repository in {settings.chain(member)[0] for member in group.members}:
        # The fingerprint is pinned at first use, by one thread.
        with suppress(MingusError), places.opened(settings, repository, context):
            pass
    run = _Run(settings, group, context, incremental=incremental)
    reports = run.run()
    return GroupReport(
        job="back up group",
        source=name,
        duration_s=clock.seconds,
        group=run.gate.facts(),
        members={member: report.as_dict() for member, report in sorted(reports.items())},
    )


class _Gate:
    """Where the members wait for each other. Its methods raise ``Cancelled`` in all when one has failed."""

    def __init__(self, group: GroupSettings, hooks: Hooks, context: JobContext) -> None:
        self._group, self._context, self.hooks = group, context, hooks
        self._id = ulids.new()
        self._changed = threading.Condition()
        self._ready: set[str] = set()
        self._read: set[str] = set()
        self._begun = self._opened = False

    def ready(self, member: str) -> None:
        """*member* could begin to read; returns when it may."""
        with self._changed:
            if self._opened:
                raise BackupBroken(f"{member} would be read again when the others of {self._group.name} had gone on")
            self._ready.add(member)
            self._read.discard(member)
            if len(self._ready) == len(self._group.members) and not self._begun:
                self.hooks.begin()
                self._begun = True
                self._changed.notify_all()
            self._wait(lambda: self._begun)

    def all_read(self, member: str) -> Mapping[str, Any]:
        """*member* has read everything; returns when all have, and ``after`` has run."""
        with self._changed:
            self._read.add(member)
            if len(self._read) == len(self._group.members):
                self.hooks.end()
                self._opened = True
                self._changed.notify_all()
            self._wait(lambda: self._opened)
            return self.facts()

    def facts(self) -> dict[str, Any]:
        """For manifests and reports."""
        return {"name": self._group.name, "id": self._id, "members": list(self._group.members), **self.hooks.facts}

    def _wait(self, condition: Any) -> None:
        while not condition():
            self._context.checkpoint()
            self._changed.wait(_POLL_S)


class _OfMember:
    """A :class:`~mingus_engine.jobs.hooks.Gate` for one member."""

    def __init__(self, gate: _Gate, member: str) -> None:
        self._gate, self._member = gate, member

    def ready(self) -> None:
        self._gate.ready(self._member)

    def all_read(self) -> Mapping[str, Any]:
        return self._gate.all_read(self._member)


class _Run:
    def __init__(self, settings: Settings, group: GroupSettings, context: JobContext, *, incremental: bool) -> None:
        self._settings, self._group, self._context, self._incremental = settings, group, context, incremental
        self._stop = threading.Event()
        self._inner = JobContext(context.provenance, self._on_progress, self._stop, context.log)
        self.gate = _Gate(
            group, Hooks(group.hooks, f"group {group.name}", settings.state_path, self._inner), self._inner
        )
        self._reports: dict[str, BackUpReport] = {}
        self._errors: dict[str, BaseException] = {}
        self._done: dict[str, tuple[int, int]] = {}

    def run(self) -> dict[str, BackUpReport]:
        """All members; reports by source."""
        threads = [threading.Thread(target=self._member, args=(member,)) for member in self._group.members]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                if self._context.cancel.wait(_POLL_S):
                    self._stop.set()
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self.gate.hooks.close()
        if self._errors:
            self._raise()
        return self._reports

    def _member(self, member: str) -> None:
        incremental = self._incremental and self._settings.source(member).kind != "redis"
        inner = JobContext(
            self._inner.provenance, lambda p: self._on_progress(p, member), self._stop,
            lambda text: self._context.log(f"{member}: {text}"),
        )  # fmt: skip
        try:
            self._reports[member] = back_up(
                self._settings, member, context=inner, incremental=incremental, gate=_OfMember(self.gate, member)
            )
        except BaseException as error:  # noqa: BLE001 - the edge of a thread; raised again by `run`
            self._errors[member] = error
            self._stop.set()

    def _on_progress(self, progress: Progress, member: str = "") -> None:
        self._done[member] = progress.done_bytes, progress.total_bytes
        done, total = (sum(figures) for figures in zip(*self._done.copy().values(), strict=True))
        self._context.progress(progress.phase, done, total, member)

    def _raise(self) -> None:
        # Those that were stopped because of another one say nothing of their own.
        told = {m: e for m, e in self._errors.items() if not isinstance(e, Cancelled)}
        if not told:
            raise next(iter(self._errors.values()))
        member, error = next(iter(told.items()))
        if not isinstance(error, MingusError):
            raise error
        committed = ", ".join(sorted(self._reports)) or "none"
        raise GroupFailed(
            f"group {self._group.name}: {member} failed, {committed} committed: {error.message}", error, self._reports
        ) from error


def group_runs(
    settings: Settings, name: str, *, context: JobContext, repository: str | None = None, newest: int = 10
) -> list[GroupRun]:
    """The newest runs of the group *name* whose snapshots are stored, newest first.

    :param repository: looked into; default: for each member the first reachable one of its chain.
    :raises MingusError: a repository cannot be opened.
    """
    group = settings.group(name)
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for member in group.members:
        with places.chosen(settings, member, repository, context) as place:
            for manifest in reversed(state.look(place, member).manifests[-LOOKED_AT:]):
                context.checkpoint()
                with suppress(*UNUSABLE):
                    facts = place.manifest_body(manifest).facts.get("group")
                    if facts and facts.get("name") == name:
                        found.setdefault(str(facts["id"]), (facts, {}))[1][member] = manifest.ulid
    return [_group_run(*found[run]) for run in sorted(found, reverse=True)[:newest]]


def _group_run(facts: Mapping[str, Any], members: dict[str, str]) -> GroupRun:
    return GroupRun(
        group=str(facts["name"]),
        id=str(facts["id"]),
        quiesced_from=datetime.fromisoformat(str(facts["quiesced_from"])),
        quiesced_until=datetime.fromisoformat(str(facts["quiesced_until"])),
        members=members,
        complete=set(members) >= set(map(str, facts.get("members", ()))),
    )
