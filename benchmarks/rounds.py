"""The order of runs: in each round every contender once, each round beginning with another one.

What slows the machine for a while so meets all alike, and nobody always runs after the same neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import Backup, Bench, Contender
from benchmarks.measuring import Cost
from tests.support import directories

_RESTORED = "restored"


@dataclass(frozen=True)
class Sample:
    """One measured backup or restore. ``own_mib``, ``stored_bytes``, ``wire_bytes``: of backups, where known;
    ``keys``: that a restore wrote; ``size_bytes``: of what it was, where the suite has several.
    """

    contender: str
    verb: str
    round: int
    cost: Cost
    stored_bytes: int | None = None
    own_mib: float | None = None
    wire_bytes: int | None = None
    keys: int | None = None
    size_bytes: int | None = None

    @classmethod
    def of(cls, contender: Contender, verb: str, number: int, backup: Backup) -> Sample:
        """The sample of a backup."""
        return cls(contender.name, verb, number, backup.cost, backup.stored_bytes, backup.own_mib, backup.wire_bytes)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "cost": {**asdict(self.cost), "cpu_s": self.cost.cpu_s}}


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Callable[[str], None]) -> Iterator[Sample]:
    """The samples as they are taken. *say* is told of each.

    :raises CommandFailed: a program failed.
    """
    started = time.monotonic()
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            # Nobody pays for pages that another one's preparation left dirty.
            bench.cluster.execute("CHECKPOINT")
            contender.prepare()
            try:
                for sample in _turn(bench, contender, number):
                    yield said(say, started, sample)
            finally:
                contender.remove()


def said(say: Callable[[str], None], started: float, sample: Sample) -> Sample:
    """*sample*, told to *say*."""
    cost = sample.cost
    stored = f", {sample.stored_bytes / 1e6:.1f} MB stored" if sample.stored_bytes is not None else ""
    say(
        f"{time.monotonic() - started:5.0f} s  round {sample.round + 1}  {sample.verb:9} {sample.contender:40}"
        f" {cost.wall_s:6.2f} s, CPU {cost.cpu_s:6.2f} s (others {cost.others_s:.1f} s),"
        f" {cost.peak_mib:.0f} MiB{stored}"
    )
    return sample


def restored(bench: Bench, contender: Contender, number: int) -> Iterator[Sample]:
    """The newest backup restored, and in the first round checked; nothing where the contender does not restore."""
    if not contender.restores:
        return
    folder = bench.folder(_RESTORED)
    try:
        cost = contender.restore(folder / "data")
        if number == 0:
            contender.check(folder / "data")
        yield Sample(contender.name, "restore", number, cost)
    finally:
        directories.remove(folder)


def _turn(bench: Bench, contender: Contender, number: int) -> Iterator[Sample]:
    yield Sample.of(contender, "back up", number, contender.back_up())
    yield from restored(bench, contender, number)
