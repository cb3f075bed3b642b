"""The order of runs: in each round every contender once, each round beginning with another one.

What slows the machine for a while so meets all alike, and nobody always runs after the same neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import Bench, Contender
from benchmarks.measuring import Cost
from tests.support import directories

_RESTORED = "restored"


@dataclass(frozen=True)
class Sample:
    """One measured backup or restore. ``own_mib``, ``stored_bytes``: of backups."""

    contender: str
    verb: str
    round: int
    cost: Cost
    stored_bytes: int | None = None
    own_mib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "cost": {**asdict(self.cost), "cpu_s": self.cost.cpu_s}}


def play(
    bench: Bench, contenders: Sequence[Contender], rounds: int, say: Callable[[str], None], *, restores: bool = True
) -> Iterator[Sample]:
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
                for sample in _turn(bench, contender, number, restores=restores):
                    cost = sample.cost
                    say(
                        f"{time.monotonic() - started:5.0f} s  round {number + 1}/{rounds}"
                        f"  {sample.verb:8} {contender.name:40} {cost.wall_s:6.2f} s,"
                        f" CPU {cost.cpu_s:6.2f} s (others {cost.others_s:.1f} s), {cost.peak_mib:.0f} MiB"
                    )
                    yield sample
            finally:
                contender.remove()


def _turn(bench: Bench, contender: Contender, number: int, *, restores: bool) -> Iterator[Sample]:
    backup = contender.back_up()
    yield Sample(contender.name, "back up", number, backup.cost, backup.stored_bytes, backup.own_mib)
    if restores and contender.restores:
        folder = bench.folder(_RESTORED)
        try:
            cost = contender.restore(folder / "data")
            if number == 0:
                contender.check(folder / "data")
            yield Sample(contender.name, "restore", number, cost)
        finally:
            directories.remove(folder)
