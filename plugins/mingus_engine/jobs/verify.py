"""``verify``: prove a snapshot up to a rung of the ladder, and put the proof beside it.

A failed test is a proof, too: it is stored before the job fails. Proofs count in the repository they were read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.errors import SettingsError, VerificationFailed
from mingus_engine.jobs import integrity, kinds, places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.proving import Prover, Wanted
from mingus_engine.repository import records
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings

LEVELS = ("L0", "L1", "L2", "L3", "L4")


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """What was proven. ``rto_s``: seconds until the restored server accepted connections; ``rpo_s``: age of the
    restored state.

    :param rto_target_s: ``health.rto_s`` of the settings. :param rto_met: whether the restore kept to it; a slow
        one may still be good. ``None``: nothing was restored, or only a share.
    :param target: the moment that was recovered to, ``None``: the end of the snapshot. :param seed: that chose it.
    :param not_available: checks that could not be made because something is not installed; they prove nothing.
    :param proof: ULID of the record. :param sample: which share was restored (``part`` of ``of``, in which ``cycle``);
        ``None``: all. The record of a share counts as L1, which is what was proven of all.
    """

    repository: str
    snapshot: str
    level: str
    ok: bool
    checks: list[dict[str, Any]]
    not_available: list[str]
    bytes_read: int
    rto_s: float | None = None
    rto_target_s: int | None = None
    rto_met: bool | None = None
    rpo_s: float | None = None
    proof: str = ""
    target: str | None = None
    seed: int | None = None
    sample: dict[str, int] | None = None


class VerificationRefuted(VerificationFailed):
    """The test ran and the snapshot failed it; ``report`` says how, and is stored as a proof."""

    def __init__(self, report: VerifyReport) -> None:
        failed = [c for c in report.checks if not c["ok"] and c["name"] not in report.not_available]
        said = "; ".join(f"{c['name']}: {c['detail']}" for c in failed[:3])
        super().__init__(f"snapshot {report.snapshot} in {report.repository} failed {report.level}: {said}")
        self.report = report


def verify(
    settings: Settings,
    source_id: str,
    *,
    context: JobContext,
    repository: str | None = None,
    snapshot: str | None = None,
    level: str | None = None,
    to: str | None = None,
    timeline: int | None = None,
    inclusive: bool = True,
    whole: bool = False,
) -> VerifyReport:
    """Verify a snapshot of *source_id*, or a recovery to a moment.

    :param repository: where it is read from; default: of the source's settings, else the last of its shipping chain.
    :param snapshot: ULID or its beginning; default: the newest there. :param level: ``L0`` to ``L4``; default: of the
        settings, with *to* L4.
    :param to: recovery target (``recovery_target.FORMS``), or ``random`` (``random:SEED``): a second of the newest
        window. The server must end exactly there. :param timeline: to follow; default: the newest. :param inclusive: of
        an LSN, time or transaction. :param whole: restore all of it, also where the settings let tests take turns.
    :raises NotRestorable: the target is outside what can be restored.
    :raises VerificationRefuted: it is not good. :raises MingusError: the test could not be made.
    """
    clock = Stopwatch()
    wanted = settings.stored_source(source_id).verify
    level = level or ("L4" if to else wanted.level)
    if to and level != "L4":
        raise SettingsError(f"a recovery target is reached at level L4, not at {level}")
    name = repository or wanted.repository or settings.chain(source_id)[-1]
    with ExitStack() as stack:
        place = stack.enter_context(places.opened(settings, name, context))
        source = kinds.stored_source(settings, source_id, place)
        what = Wanted(snapshot=snapshot, to=to, timeline=timeline, inclusive=inclusive, whole=whole)
        prover = kinds.PROVERS[source.kind](settings, source, place, what, context)
        manifest = prover.manifest
        stack.enter_context(reading.announced(place, manifest, context))
        found, bytes_read = _climb(settings, place, prover, LEVELS.index(level), context)
        report = VerifyReport(
            job="verify",
            source=source_id,
            duration_s=clock.seconds,
            repository=place.name,
            snapshot=manifest.ulid,
            level=level,
            ok=all(c.ok or _unavailable(c) for c in found),
            checks=[c.as_dict() for c in found],
            not_available=[c.name for c in found if _unavailable(c)],
            bytes_read=bytes_read,
            rto_s=prover.rto_s,
            rto_target_s=settings.health.rto_s,
            rto_met=None if prover.rto_s is None or prover.sample else prover.rto_s <= settings.health.rto_s,
            rpo_s=prover.rpo_s,
            target=prover.target,
            seed=prover.seed,
            sample=dict(prover.sample) if prover.sample else None,
        )
        report = _put_proof(place, manifest, report, prover.evidence)
    if not report.ok:
        raise VerificationRefuted(report)
    return report


def _climb(
    settings: Settings, place: Repository, prover: Prover, level: int, context: JobContext
) -> tuple[list[Check], int]:
    """Climb the ladder; a rung that fails ends the climb. The checks, and how many bytes were read."""
    manifest = prover.manifest
    bytes_read = 0
    found = [integrity.present(place, manifest, context)]
    if level >= 1 and found[-1].ok:
        found.append(integrity.whole(place, manifest, context))
        bytes_read = sum(size for _, size in manifest.stored_names())
    if level >= 2 and found[-1].ok:
        found += prover.climb(SnapshotReader(place, manifest, settings.spool_path), level)
    return found, prover.bytes_read or bytes_read


def _put_proof(
    place: Repository, manifest: Manifest, report: VerifyReport, evidence: Mapping[str, Any]
) -> VerifyReport:
    facts = {
        "snapshot": manifest.ulid,
        "digest_of": manifest.digest,
        "level": "L1" if report.sample else report.level,
        "ok": report.ok,
        "at": utc_now().isoformat(),
        **({"target": report.target} if report.target else {}),
        **({"sample": {**report.sample, "level": report.level}} if report.sample else {}),
    }
    stored = place.put_record(records.PROOF, manifest.name.source, facts, {"report": report.as_dict(), **evidence})
    ulid = stored.rpartition("/")[2].partition(".")[0]
    return VerifyReport(**{**report.__dict__, "proof": ulid})


def _unavailable(check: Check) -> bool:
    return check.data.get("available") is False
