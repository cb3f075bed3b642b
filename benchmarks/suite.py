"""What a benchmark is: who is compared, in which order, at what, on which version of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cluster as clusters
from benchmarks.contenders import Bench, Contender
from benchmarks.figures import Target
from benchmarks.rounds import Sample

Say = Callable[[str], None]
#: Bench, contenders, rounds, and whom to tell of each sample.
Play = Callable[[Bench, Sequence[Contender], int, Say], Iterator[Sample]]


@dataclass(frozen=True)
class Served:
    """The server that is backed up, full of data.

    :param server: its handle, as the suite's contenders know it. :param description: for the report.
    """

    server: Any
    description: str
    size_bytes: int
    stop: Callable[[], None]


@dataclass(frozen=True)
class Suite:
    """One benchmark.

    :param name: on the command line, and in the names of its results. :param conditions: what else a reader must know.
    :param major: of the PostgreSQL cluster. :param conf: settings of it besides the usual ones.
    :param gb: usual size of the data. :param serve: makes the server, given a directory and the size in GB; by default
        that cluster.
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
    gb: float = 5.0
    serve: Callable[[Path, float], Served] | None = None

    def served(self, directory: Path, gb: float) -> Served:
        """A started server with about *gb* GB."""
        if self.serve is not None:
            return self.serve(directory, gb)
        cluster = clusters.make(directory, gb, self.major, self.conf)
        return Served(cluster, clusters.describe(cluster), clusters.size_bytes(cluster), lambda: cluster.stop("fast"))
