"""What is compared with what: the figures MINGUS has set itself as targets, from the samples of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.rounds import Sample

Quantity = Callable[[Sample], float]
QUANTITIES: dict[str, Quantity] = {
    "wall": lambda s: s.cost.wall_s,
    "CPU": lambda s: s.cost.cpu_s,
    "stored": lambda s: float(s.stored_bytes or 0),
    "memory": lambda s: float(s.own_mib or 0),
    "whole memory": lambda s: s.cost.peak_mib,
}


@dataclass(frozen=True)
class Target:
    """A quantity of ours that must be at most *limit* times another's; without another, at most *limit*."""

    what: str
    verb: str
    quantity: str
    ours: str
    other: str
    limit: float


@dataclass(frozen=True)
class Figure:
    """A target and what was measured: a ratio of medians with the extremes of the rounds' ratios, or a plain number."""

    target: Target
    value: float
    low: float
    high: float

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target.limit


_LOCAL, _LOCAL_3 = "mingus local zstd 1", "mingus local zstd 3"
_PEER, _PEER_3 = "pgbackrest zstd 1", "pgbackrest zstd 3"
_REPLICATION = "mingus replication zstd 1"
_TASK = "mingus local zstd 1, in an Airflow task"
_UNCHECKED = "no page checksums"

TARGETS = (
    Target("full backup, local, page checksums, zstd 1", "back up", "wall", _LOCAL, _PEER, 0.70),
    Target("full backup, local, page checksums, zstd 3", "back up", "wall", _LOCAL_3, _PEER_3, 0.70),
    Target("full backup, local, page checksums", "back up", "wall", _LOCAL, "restic", 0.35),
    Target(
        "full backup, local, without page checksums on either side", "back up", "wall", f"{_LOCAL}, {_UNCHECKED}",
        f"{_PEER}, {_UNCHECKED}", 0.55,
    ),
    Target("full backup, replication", "back up", "wall", _REPLICATION, _PEER, 0.95),
    Target("full backup, local, server included", "back up", "CPU", _LOCAL, _PEER, 0.85),
    Target("full backup, replication, server included", "back up", "CPU", _REPLICATION, _PEER, 1.15),
    Target("restore, every block verified", "restore", "wall", _LOCAL, _PEER, 0.85),
    Target("restore, every block verified", "restore", "wall", _LOCAL, "restic", 0.60),
    Target("stored bytes, zstd 1", "back up", "stored", _LOCAL, _PEER, 1.02),
    Target("stored bytes, zstd 3", "back up", "stored", _LOCAL_3, _PEER_3, 1.02),
    Target("engine over its imports (MiB), local", "back up", "memory", _LOCAL, "", 64),
    Target("engine over its imports (MiB), replication", "back up", "memory", _REPLICATION, "", 64),
    Target("whole Airflow task (MiB)", "back up", "whole memory", _TASK, "", 256),
)  # fmt: skip


def figures(samples: Sequence[Sample]) -> list[Figure]:
    """Every target of which something was measured."""
    found = []
    for target in TARGETS:
        quantity = QUANTITIES[target.quantity]
        ours = {s.round: quantity(s) for s in of(samples, target.ours, target.verb)}
        other = {s.round: quantity(s) for s in of(samples, target.other, target.verb)}
        if not ours or (target.other and not other):
            continue
        if not target.other:
            found.append(Figure(target, max(ours.values()), min(ours.values()), max(ours.values())))
            continue
        ratios = [ours[number] / other[number] for number in ours.keys() & other.keys()]
        value = median(ours.values()) / median(other.values())
        found.append(Figure(target, value, min(ratios), max(ratios)))
    return found


def of(samples: Sequence[Sample], contender: str, verb: str) -> list[Sample]:
    """One contender's samples of one verb."""
    return [s for s in samples if s.contender == contender and s.verb == verb]
