"""What is compared with what: the figures MINGUS has set itself as targets, from the samples of a benchmark."""

from __future__ import annotations

import math
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
    "seconds a GB": lambda s: s.cost.wall_s / max(1, s.wire_bytes or 1) * 1e9,
    "µs a key": lambda s: s.cost.wall_s / max(1, s.keys or 1) * 1e6,
    "wire": lambda s: float(s.wire_bytes or 0),
}


@dataclass(frozen=True)
class Target:
    """A quantity of ours that must be at most *limit* times another's; without another, at most *limit*.

    :param other_verb: of the other; default: the same.
    """

    what: str
    verb: str
    quantity: str
    ours: str
    other: str
    limit: float
    other_verb: str = ""


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


def figures(targets: Sequence[Target], samples: Sequence[Sample]) -> list[Figure]:
    """Every one of *targets* of which something was measured."""
    found = []
    for target in targets:
        quantity = QUANTITIES[target.quantity]
        ours = {s.round: quantity(s) for s in of(samples, target.ours, target.verb)}
        of_other = of(samples, target.other, target.other_verb or target.verb)
        # What is zero was not counted: there is no ratio to it.
        other = {s.round: amount for s in of_other if (amount := quantity(s))}
        if not ours or (target.other and not other):
            continue
        if not target.other:
            found.append(Figure(target, max(ours.values()), min(ours.values()), max(ours.values())))
            continue
        ratios = [ours[number] / other[number] for number in ours.keys() & other.keys()] or [math.inf]
        value = median(ours.values()) / median(other.values())
        found.append(Figure(target, value, min(ratios), max(ratios)))
    return found


def of(samples: Sequence[Sample], contender: str, verb: str) -> list[Sample]:
    """One contender's samples of one verb."""
    return [s for s in samples if s.contender == contender and s.verb == verb]
