"""What a benchmark is: who is compared, in which order, at what, on which version of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.contenders import Bench, Contender
from benchmarks.figures import Target
from benchmarks.rounds import Sample

Say = Callable[[str], None]
#: Bench, contenders, rounds, and whom to tell of each sample.
Play = Callable[[Bench, Sequence[Contender], int, Say], Iterator[Sample]]


@dataclass(frozen=True)
class Suite:
    """One benchmark.

    :param name: on the command line, and in the names of its results. :param conditions: what else a reader must know.
    :param major: of the PostgreSQL cluster. :param conf: settings of it besides the usual ones.
    :param space_per_gb: bytes needed for a byte of database: cluster, restored copy and repository at once, a copy that
        is removed while the next one is made, WAL, some slack.
    """

    name: str
    title: str
    conditions: str
    contenders: Callable[[Bench], list[Contender]]
    play: Play
    targets: Sequence[Target]
    major: int = 15
    conf: dict[str, str] = field(default_factory=dict)
    space_per_gb: float = 2.3
