"""``recovery-test``: what a disaster would ask for, asked regularly of each source, from its repositories in turn.

The newest of what the repository whose turn it is holds is restored, started and compared (``verify`` at L4): of
PostgreSQL and Redis to a random second of the newest window. The result is a proof in that repository, as of any other
verification. A failure says what can still be recovered, and from where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from mingus_engine.errors import (
    Cancelled,
    MingusError,
    NoSuchSnapshot,
    NotARepository,
    NotRestorable,
    StoreError,
    VerificationFailed,
)
from mingus_engine.jobs import kinds, places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.recoverable import still_recoverable, told
from mingus_engine.jobs.verify import VerifyReport, verify
from mingus_engine.repository import state
from mingus_engine.repository.repository import utc_now
from mingus_engine.settings import Settings

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class RecoveryTestReport(Report):
    """One test. What was proven is as in ``VerifyReport``.

    :param week: ISO, that decided whose turn it was. :param candidates: the repositories that take turns.
    :param unreachable: repository → why it was not read. :param reason: why no random moment was recovered to.
    :param error: why it failed. :param still_recoverable: after a failure, see ``still_recoverable``.
    """

    kind: str = ""
    week: str = ""
    ok: bool = False
    repository: str = ""
    candidates: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    snapshot: str | None = None
    level: str | None = None
    target: str | None = None
    seed: int | None = None
    reason: str | None = None
    rto_s: float | None = None
    rto_target_s: int | None = None
    rto_met: bool | None = None
    rpo_s: float | None = None
    bytes_read: int = 0
    sample: dict[str, int] | None = None
    proof: str | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    not_available: list[str] = field(default_factory=list)
    error: str | None = None
    still_recoverable: list[dict[str, Any]] | None = None


class RecoveryTestFailed(VerificationFailed):
    """A recovery test was not passed, or could not be made; ``report`` says how, and what can still be recovered.

    As transient, and with the exit code and hint, as what it failed of.
    """

    def __init__(self, report: RecoveryTestReport, cause: MingusError) -> None:
        said = "; ".join(told(one) for one in report.still_recoverable or ())
        super().__init__(f"{cause.message}; still recoverable: {said or 'nothing'}", hint=cause.hint)
        self.report = report
        self.transient, self.exit_code = cause.transient, cause.exit_code


def recovery_test(
    settings: Settings,
    source_id: str,
    *,
    context: JobContext,
    repository: str | None = None,
    to: str | None = None,
    now: datetime | None = None,
) -> RecoveryTestReport:
    """Test the recovery of *source_id*.

    :param repository: which; default: that of the chain whose turn it is, by the week of *now* (default: this one).
    :param to: the moment; default: ``random`` where the source has a window whose times are known, else the newest
        snapshot as it is.
    :raises RecoveryTestFailed: nothing is stored, it could not be restored, was wrong, or took longer than
        ``health.rto_s``. :raises Cancelled:
    """
    clock, now = Stopwatch(), (now or utc_now()).astimezone(ZoneInfo(settings.time_zone))
    year, week, _ = now.isocalendar()
    report = RecoveryTestReport(job="recovery_test", source=source_id, duration_s=0, week=f"{year}-W{week:02}")
    try:
        report = _choose(settings, report, repository, now, context)
        context.log(f"week {report.week}: from repository {report.repository} of {', '.join(report.candidates)}")
        report = _prove(settings, report, to, context)
        if report.rto_met is False:
            raise VerificationFailed(
                f"snapshot {report.snapshot} in {report.repository} is good, but restoring took {report.rto_s} s, more"
                f" than the {report.rto_target_s} s of health.rto_s",
                hint="a faster scratch directory, store or machine; fewer bytes; or a target that can be kept",
            )
    except Cancelled:
        raise
    except MingusError as error:
        if isinstance(tested := getattr(error, "report", None), VerifyReport):
            report = _with(report, tested)
        elif isinstance(tested, RecoveryTestReport):
            report = tested
        report = replace(
            report, ok=False, error=error.message, duration_s=clock.seconds,
            still_recoverable=still_recoverable(settings, source_id, context),
        )  # fmt: skip
        raise RecoveryTestFailed(report, error) from error
    return replace(report, ok=True, duration_s=clock.seconds)


def whose_turn(candidates: Sequence[str], now: datetime) -> str:
    """Of which of *candidates* (not empty) it is the turn in the week, Monday to Sunday, of *now*. Pure."""
    # Not by the number of the week in its year: after week 53 comes week 1, and both are odd.
    return candidates[(now.toordinal() - 1) // 7 % len(candidates)]


def _choose(
    settings: Settings, report: RecoveryTestReport, repository: str | None, now: datetime, context: JobContext
) -> RecoveryTestReport:
    """With the kind of the source, and the repository.

    One that does not answer keeps its turn: a copy that cannot be read for months must not go unnoticed.
    """
    if repository is not None:
        name = settings.repository(repository).name
        return replace(
            report, repository=name, candidates=[name], kind=kinds.kind_of(settings, report.source, name, context)
        )
    candidates: list[str] = []
    unreachable: dict[str, MingusError] = {}
    chain = settings.chain(report.source)
    for name in chain:
        context.checkpoint()
        try:
            with places.opened(settings, name, context, with_key=False) as place:
                seen = state.look(place, report.source)
        except (StoreError, NotARepository) as error:
            unreachable[name] = error
            context.log(f"repository {name} is not reachable: {error.message}")
        else:
            if not seen.manifests and not seen.damaged_snapshots():
                continue
        candidates.append(name)
    if not set(candidates) - set(unreachable):
        for first in unreachable.values():
            raise first
        raise NoSuchSnapshot(f"none of {', '.join(chain)} holds a snapshot of {report.source}")
    chosen = whose_turn(candidates, now)
    unread = {name: error.message for name, error in unreachable.items()}
    report = replace(report, repository=chosen, candidates=candidates, unreachable=unread)
    return replace(report, kind=kinds.kind_of(settings, report.source, None, context))


def _prove(settings: Settings, report: RecoveryTestReport, to: str | None, context: JobContext) -> RecoveryTestReport:
    moment = to or (RANDOM if report.kind in kinds.WINDOWS else None)
    try:
        return _with(report, _verified(settings, report, moment, context))
    except NotRestorable as error:
        if to or moment is None:
            raise
        report = replace(report, reason=error.message)
        context.log(f"the newest snapshot as it is, and no random moment: {error.message}")
        return _with(report, _verified(settings, report, None, context))


def _verified(settings: Settings, report: RecoveryTestReport, to: str | None, context: JobContext) -> VerifyReport:
    return verify(settings, report.source, repository=report.repository, level="L4", to=to, context=context)


def _with(report: RecoveryTestReport, tested: VerifyReport) -> RecoveryTestReport:
    return replace(
        report,
        **{
            name: getattr(tested, name)
            for name in (
                "ok", "repository", "snapshot", "level", "target", "seed", "rto_s", "rto_target_s", "rto_met", "rpo_s",
                "bytes_read", "sample", "proof", "checks", "not_available",
            )
        },
    )  # fmt: skip
