"""Comparing a restored data directory with what an independent ``pg_basebackup`` copies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.support.directories import make_directory
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

# Different in any two backups: they say when and where the backup began, or what the last checkpoint was.
OF_ONE_BACKUP = {"backup_label", "backup_manifest", "tablespace_map"}


def base_backup(cluster: PgCluster, directory: Path, *, user: str = "postgres") -> dict[bytes, object]:
    """What ``pg_basebackup`` makes below *directory* (made here), as :func:`tree`."""
    make_directory(directory, owner=unprivileged_user())
    spaces = [
        argument
        for (location,) in cluster.rows("select pg_tablespace_location(oid) from pg_tablespace where oid >= 16384")
        if location.startswith("/")  # else it is inside the data directory
        for argument in ("--tablespace-mapping", f"{location}={directory / Path(location).name}")
    ]
    cluster.tool(
        "pg_basebackup",
        *("-D", directory / "data", "-X", "none", "-c", "fast", "--no-sync", "-d", cluster.dsn(user=user), *spaces),
    )
    return tree(directory / "data")


def tree(root: Path) -> dict[bytes, object]:
    """Path → content of every file of a data directory, ``None`` for folders; tablespaces through their links.

    Without WAL and what belongs to one backup.
    """
    return {os.fsencode(path.relative_to(root)): content for path, content in _walk(root)}


def _walk(folder: Path) -> Iterator[tuple[Path, object]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield path, None
            if path.name != "pg_wal":
                yield from _walk(path)
        elif path.relative_to(path.parents[1]).as_posix() != "global/pg_control" and path.name not in OF_ONE_BACKUP:
            yield path, path.read_bytes()


def difference(found: dict[bytes, object], expected: dict[bytes, object]) -> list[str]:
    """How two trees differ, one line each."""
    lines = [f"missing {p!r}" for p in expected if p not in found] + [
        f"extra {p!r}" for p in found if p not in expected
    ]
    return lines + [f"differs {p!r}" for p in found if p in expected and found[p] != expected[p]]
