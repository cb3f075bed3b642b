"""``verify``: prove a snapshot up to a rung of the ladder, and put the proof beside it.

A failed test is a proof, too: it is stored before the job fails. Proofs count in the repository they were read from.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.errors import Damaged, LogMissing, ObjectMissing, SettingsError, VerificationFailed
from mingus_engine.jobs import integrity, places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.jobs.postgres import recovery_target
from mingus_engine.jobs.postgres.recovery_target import Recovery, Target
from mingus_engine.jobs.postgres.restore import find_recovery
from mingus_engine.jobs.postgres.restore_test import RestoreTest
from mingus_engine.jobs.postgres.windows import Recoverable
from mingus_engine.repository import records
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.settings import Settings, SourceSettings

LEVELS = ("L0", "L1", "L2", "L3", "L4")


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """What was proven. ``rto_s``: seconds until the restored server accepted connections; ``rpo_s``: age of the
    restored state.

    :param target: the moment that was recovered to, ``None``: the end of the snapshot. :param seed: that chose it.
    :param not_available: checks that could not be made because something is not installed; they prove nothing.
    :param proof: ULID of the record.
    """

    repository: str
    snapshot: str
    level: str
    ok: bool
    checks: list[dict[str, Any]]
    not_available: list[str]
    bytes_read: int
    rto_s: float | None = None
    rpo_s: float | None = None
    proof: str = ""
    target: str | None = None
    seed: int | None = None


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
) -> VerifyReport:
    """Verify a snapshot of *source_id*, or a recovery to a moment.

    :param repository: where it is read from; default: of the source's settings, else the last of its shipping chain.
    :param snapshot: ULID or its beginning; default: the newest there. :param level: ``L0`` to ``L4``; default: of the
        settings, with *to* L4.
    :param to: recovery target (``recovery_target.FORMS``), or ``random`` (``random:SEED``): a second of the newest
        window. The server must end exactly there. :param timeline: to follow; default: the newest. :param inclusive: of
        an LSN, time or transaction.
    :raises NotRestorable: the target is outside what can be restored.
    :raises VerificationRefuted: it is not good. :raises MingusError: the test could not be made.
    """
    clock = Stopwatch()
    source = settings.stored_source(source_id)
    target = _target(to)
    level = level or ("L4" if to else source.verify.level)
    if to and level != "L4":
        raise SettingsError(f"a recovery target is reached at level L4, not at {level}")
    name = repository or source.verify.repository or settings.chain(source_id)[-1]
    with ExitStack() as stack:
        place = stack.enter_context(places.opened(settings, name, context))
        found_recovery = None
        if target is None:
            manifest = reading.choose(place, source_id, snapshot)
        else:
            found_recovery = find_recovery(
                place, source_id, target, timeline=timeline, inclusive=inclusive, snapshot=snapshot, context=context
            )
            manifest = found_recovery[0].manifests[found_recovery[1].point.snapshot]
        stack.enter_context(reading.announced(place, manifest, context))
        job = _Verification(settings, source, place, manifest, context, recovery=found_recovery)
        found = job.run(LEVELS.index(level))
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
            bytes_read=job.bytes_read,
            rto_s=job.rto_s,
            rpo_s=job.rpo_s,
            target=found_recovery[1].target.text if found_recovery else None,
            seed=target if isinstance(target, int) else None,
        )
        report = _put_proof(place, manifest, report)
    if not report.ok:
        raise VerificationRefuted(report)
    return report


class _Verification:
    def __init__(
        self,
        settings: Settings,
        source: SourceSettings,
        place: Repository,
        manifest: Manifest,
        context: JobContext,
        *,
        recovery: tuple[Recoverable, Recovery] | None,
    ) -> None:
        self._recovery = recovery
        self._settings, self._source, self._place = settings, source, place
        self._manifest, self._context = manifest, context
        self.bytes_read = 0
        self.rto_s: float | None = None
        self.rpo_s: float | None = None

    def run(self, level: int) -> list[Check]:
        """Climb the ladder; a rung that fails ends the climb."""
        found = [integrity.present(self._place, self._manifest, self._context)]
        if level >= 1 and found[-1].ok:
            found.append(integrity.whole(self._place, self._manifest, self._context))
            self.bytes_read = sum(size for _, size in self._manifest.stored_names())
        if level >= 2 and found[-1].ok:
            reader = SnapshotReader(self._place, self._manifest, self._settings.spool_path)
            found.extend(
                [integrity.readable(reader, self._context)]
                if level == 2
                else self._restore_test(reader, start_server=level >= 4)
            )
        return found

    def _restore_test(self, reader: SnapshotReader, *, start_server: bool) -> list[Check]:
        """Levels 3 and 4; reading for a restore decrypts and re-hashes everything, so level 2 is in it."""
        chosen = self._source.verify.scratch_directory
        parent = Path(chosen) if chosen else self._settings.state_path / "scratch"
        test = RestoreTest(self._source, reader, parent, self._context)
        newest: datetime | None = datetime.fromisoformat(str(reader.body.facts["stopped_at"]))
        if self._recovery is not None:
            found, test.recovery = self._recovery
            test.wal, newest = found.wal, test.recovery.window.end_time
        self.rpo_s = round((utc_now() - newest).total_seconds(), 1) if newest else None
        try:
            test.run(start_server=start_server)
        except (Damaged, LogMissing, ObjectMissing) as error:
            test.found.append(Check("L3 restore", False, error.message))
        self.bytes_read, self.rto_s = test.bytes_read or self.bytes_read, test.rto_s
        return test.found


def _target(to: str | None) -> Target | int | None:
    """A target, or the seed of a random one."""
    kind, _, seed = (to or "").partition(":")
    if kind != "random":
        return recovery_target.parse(to) if to is not None else None
    if seed and not seed.isdecimal():
        raise SettingsError(f"{to!r}: the seed is not a number")
    return int(seed) if seed else secrets.randbits(32)


def _put_proof(place: Repository, manifest: Manifest, report: VerifyReport) -> VerifyReport:
    facts = {
        "snapshot": manifest.ulid,
        "digest_of": manifest.digest,
        "level": report.level,
        "ok": report.ok,
        "at": utc_now().isoformat(),
        **({"target": report.target} if report.target else {}),
    }
    stored = place.put_record(records.PROOF, manifest.name.source, facts, {"report": report.as_dict()})
    ulid = stored.rpartition("/")[2].partition(".")[0]
    return VerifyReport(**{**report.__dict__, "proof": ulid})


def _unavailable(check: Check) -> bool:
    return check.data.get("available") is False
