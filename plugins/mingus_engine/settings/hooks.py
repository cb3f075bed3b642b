"""Programs that run before and after a backup, and sources that are backed up at one moment between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HookSettings:
    """Programs that quiesce an application and let it go on. No shell: a program by its absolute path, its arguments.

    :param before: run in this order before anything is read; one that fails, or takes too long, fails the backup.
    :param after: run in this order as soon as everything was read, each of them, whatever happened before: also when
        the backup failed or was cancelled.
    :param recover: what was killed between the two is made good: the next run on this machine runs *after* first.
    :param timeout_s: of each program; then it and all that it started is killed.
    :param run_as: operating-system user, where the engine is root; empty = the engine's own.
    :param environment: of the programs, besides PATH, HOME, LC_ALL and TZ; plain values, no secrets: they stand here.
    :param pass_environment: names of variables of the engine that the programs are given, too. Nothing else of its
        environment reaches them.
    """

    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    recover: bool = True
    timeout_s: int = 300
    run_as: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_environment: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.before or self.after)


@dataclass(frozen=True)
class GroupSettings:
    """Sources that are backed up together, all between one *before* and one *after*: their snapshots are of one moment.

    :param name: as of a source. :param members: ids of sources of any kind, at least two.
    """

    name: str
    members: tuple[str, ...] = ()
    hooks: HookSettings = field(default_factory=HookSettings)
