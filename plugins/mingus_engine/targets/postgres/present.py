"""What a restore finds in a directory that holds something already: this cluster, or something it must not touch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mingus_engine.errors import TargetError, TargetNotEmpty
from mingus_engine.postgres.control_data import system_identifier
from mingus_engine.targets.paths import shown, translated
from mingus_engine.targets.places import INCOMPLETE
from mingus_engine.targets.postgres import layout, workplace

_VERSIONED = re.compile(r"PG_[0-9]+_[0-9]+")


def inspect(root: Path, tablespaces: Mapping[int, Path], cluster_id: int) -> None:
    """Refuse what is not this cluster, or is in use; writes nothing. Directories that are empty or not there are fine.

    :param tablespaces: OID → directory: empty, or the one that the data directory's link leads to.
    :raises TargetNotEmpty: something else is there. :raises TargetError: a server runs on it.
    """
    with translated(root):
        if root.exists() and any(root.iterdir()):
            _require_cluster(root, cluster_id)
            workplace.require_unused(root)
            if (root / "pg_wal").is_symlink():
                raise TargetError(
                    f"target {shown(root)}: pg_wal is a link", hint="a delta restore needs it to be a directory"
                )
    for oid, place in tablespaces.items():
        with translated(place):
            found = sorted(place.iterdir()) if place.exists() else []
        foreign = [path for path in found if not _VERSIONED.fullmatch(path.name)]
        if foreign:
            raise TargetNotEmpty(f"target {shown(place)} is no tablespace: it holds {shown(foreign[0].name)!r}")
        link = root / os.fsdecode(layout.tablespace_link(oid))
        if found and os.path.realpath(link) != os.path.realpath(place):
            raise TargetNotEmpty(
                f"target {shown(place)} holds a tablespace, but not of {shown(root)}",
                hint="it may be of a cluster that is in use: put the tablespace elsewhere (--tablespace)",
            )


def _require_cluster(root: Path, cluster_id: int) -> None:
    if (root / os.fsdecode(INCOMPLETE)).exists():
        return  # a restore that was interrupted
    try:
        with (root / os.fsdecode(layout.CONTROL)).open("rb") as file:
            found = system_identifier(file.read(8).ljust(8, b"\0"))
    except (FileNotFoundError, NotADirectoryError):
        raise TargetNotEmpty(f"target {shown(root)} is neither empty nor a data directory") from None
    if found != cluster_id:
        raise TargetNotEmpty(f"target {shown(root)} is of cluster {found}, the snapshot of {cluster_id}")
