"""Full backup and restore beside pgBackRest and restic: every contender a fresh repository in every round."""

from __future__ import annotations

from benchmarks.contenders import Bench, Contender, Mingus, MingusTask, PgBackRest, Restic
from benchmarks.figures import Target
from benchmarks.rounds import play
from benchmarks.suite import Suite

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


def contenders(bench: Bench) -> list[Contender]:
    """In the order of a round."""
    return [
        Mingus(bench, _LOCAL),
        PgBackRest(bench, _PEER),
        Mingus(bench, _REPLICATION, transport="replication", restores=False),
        Restic(bench, "restic"),
        Mingus(bench, f"{_LOCAL}, {_UNCHECKED}", checksums=False, restores=False),
        PgBackRest(bench, f"{_PEER}, {_UNCHECKED}", checksums=False, restores=False),
        Mingus(bench, _LOCAL_3, level=3),
        PgBackRest(bench, _PEER_3, level=3),
        MingusTask(bench, _TASK),
    ]


FULL = Suite(
    name="full-backup",
    title="Full backup and restore",
    conditions="A fresh repository for every backup; the replication transport goes through the server's unix socket.",
    contenders=contenders,
    play=play,
    targets=TARGETS,
)
