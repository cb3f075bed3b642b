"""What looking into repositories shows, as plain values (``mingus_engine.jobs.inspect``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Proof:
    """The result of one verification, as its record says."""

    level: str
    ok: bool
    at: datetime


@dataclass(frozen=True)
class Copy:
    """One snapshot in one repository. ``proof``: the newest there. ``settled``: see ``repository.state``."""

    repository: str
    settled: bool
    proof: Proof | None


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot without a key. ``stored_bytes``: of every pack and log it needs."""

    source: str
    snapshot: str
    kind: str
    written_at: datetime
    stored_bytes: int
    flagged: bool
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class SnapshotListing:
    """Oldest first by source. ``unreachable``: repository → why it was not read; ``damaged``: object → what is
    wrong with it.
    """

    snapshots: tuple[SnapshotInfo, ...]
    unreachable: dict[str, str]
    damaged: dict[str, str]


@dataclass(frozen=True)
class SnapshotDetails:
    """Everything of one snapshot but its keys."""

    info: SnapshotInfo
    repository: str
    location: str
    run: str
    put_by: str
    position: int
    heads: tuple[str, ...]
    digest: str
    packs: int
    pack_bytes: int
    logs: int
    log_bytes: int
    facts: dict[str, Any]
    checks: list[dict[str, Any]]
    statistics: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """One job's record. Times by the store's clock; ``ended_at`` ``None`` = open or dead, nobody can tell."""

    source: str
    repository: str
    run: str
    kind: str
    started_at: datetime
    ended_at: datetime | None
    reads: str
    committed: tuple[str, ...]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class RunListing:
    """Newest first by repository and source."""

    runs: tuple[RunInfo, ...]
    unreachable: dict[str, str]


@dataclass(frozen=True)
class FileListing:
    """Of what files were listed, and how many."""

    source: str
    snapshot: str
    repository: str
    count: int
