"""Whom restored files belong to."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from typing import Any

from mingus_engine.targets.base import FileEntry
from mingus_engine.targets.files.tree import OwnerOf

OWNERS = ("ids", "names", "mine")


def owner_of(owners: str, names: Mapping[str, Mapping[str, str]]) -> OwnerOf:
    """Who shall own each entry, by one of :data:`OWNERS`.

    :param names: ``users`` and ``groups``: id as text → the name that it had.
    """
    if owners == "mine":
        return lambda _: None
    if owners == "ids":
        return lambda entry: (entry.uid, entry.gid)
    users: dict[int, int] = {}
    groups: dict[int, int] = {}

    def by_name(entry: FileEntry) -> tuple[int, int]:
        if entry.uid not in users:
            users[entry.uid] = _here(entry.uid, names.get("users", {}), lambda name: pwd.getpwnam(name).pw_uid)
        if entry.gid not in groups:
            groups[entry.gid] = _here(entry.gid, names.get("groups", {}), lambda name: grp.getgrnam(name).gr_gid)
        return users[entry.uid], groups[entry.gid]

    return by_name


def _here(number: int, names: Mapping[str, str], find: Any) -> int:
    """The id that the name of *number* has on this machine; *number* where the name is not known."""
    try:
        return int(find(names[str(number)]))
    except KeyError:
        return number
