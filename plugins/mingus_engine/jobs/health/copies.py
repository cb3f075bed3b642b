"""From what a repository holds of a source to gauges and findings. Pure; ``now`` is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mingus_engine.jobs.health.findings import CRITICAL, WARN, Finding
from mingus_engine.jobs.health.gauges import Gauge
from mingus_engine.jobs.health.stored import RESTORED_FROM, Copy, Facts
from mingus_engine.settings import HealthSettings, Settings, SourceSettings

_DAY_S = 86400


def gauges(source: SourceSettings, repository: str, copy: Copy, now: float) -> Iterator[Gauge]:
    """Of one source in one repository. A clock that was set back makes no negative age."""
    labels = {"source": source.id, "kind": source.kind, "repository": repository}
    facts = copy.facts
    values: dict[str, float] = {
        "recovery_window_gaps": facts.gaps,
        "snapshots": facts.snapshots,
        "snapshots_flagged": facts.flagged,
        "proof_level": level(facts),
        "storage_usage_bytes": copy.stored_bytes,
    }
    if facts.window_end is not None:
        values["recovery_point_age_seconds"] = max(0.0, now - facts.window_end)
    if facts.window_start is not None:
        values["recovery_window_start_seconds"] = facts.window_start
    if (age := proof_age(facts, now)) is not None:
        values["proof_age_seconds"] = age
    if facts.proofs:
        values["proof_last_ok"] = float(bool(facts.proofs[-1][1]))
    if copy.stored_bytes and facts.restored_bytes:
        values["dedup_ratio"] = facts.restored_bytes / copy.stored_bytes
    for name, value in values.items():
        yield Gauge(name, value, labels)
    for operation, at in facts.last.items():
        yield Gauge("backup_last_success_timestamp_seconds", at, {**labels, "operation": operation})


def findings(settings: Settings, source: SourceSettings, repository: str, copy: Copy, now: float) -> Iterator[Finding]:
    """What a person should know of one source in one repository."""
    facts, where = copy.facts, (source.id, repository)
    if facts.window_end is None:
        yield Finding(
            "recovery-point", False, "nothing can be restored", *where, hint=f"`mingus windows {source.id}` says why"
        )
    else:
        age = max(0.0, now - facts.window_end)
        allowed = settings.recovery_point_objective_s(source)
        yield Finding(
            "recovery-point", age <= allowed,
            f"the newest moment that can be restored is {age:.0f} s old, at most {allowed} s are wanted", *where,
            severity=WARN, hint=f"look at the last backups of {source.id}; `mingus backup {source.id}` makes one now",
        )  # fmt: skip
    yield Finding(
        "window-gaps", not facts.gaps, f"{facts.gaps} gaps between recovery windows", *where, severity=WARN,
        hint=f"`mingus windows {source.id}` shows them; another repository may hold what is missing here",
    )  # fmt: skip
    yield Finding(
        "flagged", not facts.flagged, f"{facts.flagged} of {facts.snapshots} snapshots are flagged", *where,
        severity=WARN, hint="`mingus show SNAPSHOT` says what was found while it was made",
    )  # fmt: skip
    yield Finding(
        "damaged", not facts.damaged, facts.damaged[0] if facts.damaged else "nothing that was read is damaged",
        *where, hint="do not delete anything; restore from another repository and verify this one",
    )  # fmt: skip
    yield _proof(settings, source, facts, where, now)


def proven(settings: HealthSettings, source: SourceSettings, copies: Iterable[Copy], now: float) -> Finding:
    """Whether any of the *copies* of a source was restored lately: the one that the last restore test chose."""
    hint = f"`mingus verify {source.id}` makes a restore test"
    ages = [age for copy in copies if (age := proof_age(copy.facts, now)) is not None]
    if not ages:
        return Finding("proof", False, "no restore test succeeded yet", source.id, severity=WARN, hint=hint)
    return Finding(
        "proof", min(ages) <= settings.proof_max_age_days * _DAY_S,
        f"the newest good restore test is {min(ages) / _DAY_S:.1f} days old", source.id, severity=WARN, hint=hint,
    )  # fmt: skip


def level(facts: Facts) -> int:
    """The highest level at which a snapshot was found good; -1 = none was."""
    return max((int(proof[0]) for proof in facts.proofs if proof[1]), default=-1)


def proof_age(facts: Facts, now: float) -> float | None:
    """Since the newest restore test that succeeded, in seconds."""
    times = [float(at) for found, ok, at in facts.proofs if ok and found >= RESTORED_FROM]
    return max(0.0, now - max(times)) if times else None


def _proof(settings: Settings, source: SourceSettings, facts: Facts, where: tuple[str, str], now: float) -> Finding:
    hint = f"`mingus verify {source.id} --repository {where[1]}` makes a restore test"
    if facts.proofs and not facts.proofs[-1][1]:
        return Finding(
            "proof", False, f"the newest verification, L{facts.proofs[-1][0]}, failed", *where, severity=CRITICAL,
            hint=f"a newer snapshot may be good: {hint}",
        )  # fmt: skip
    # Restore tests take the repositories of the chain in turn.
    allowed = settings.health.proof_max_age_days * _DAY_S * len(settings.chain(source.id))
    age = proof_age(facts, now)
    if age is None:
        waited = max(0.0, now - (now if facts.window_start is None else facts.window_start))
        detail = f"no restore test succeeded here yet; there is something to restore for {waited / _DAY_S:.1f} days"
        return Finding("proof", waited <= allowed, detail, *where, severity=WARN, hint=hint)
    return Finding(
        "proof", age <= allowed,
        f"the newest good restore test is {age / _DAY_S:.1f} days old", *where, severity=WARN, hint=hint,
    )  # fmt: skip
