"""Which of the primary's ``shared_preload_libraries`` a throw-away server loads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Libraries that start work by themselves: a restore test must not send mails, move data or run somebody's jobs.
RUN_JOBS = frozenset({"pg_cron", "pgagent", "pg_partman_bgw", "pg_timetable", "pglogical", "bdr", "spock", "pg_net"})
_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]*))\s*(?:,|$)')


@dataclass(frozen=True)
class Libraries:
    """What is loaded, and what is not with the reason."""

    loaded: tuple[str, ...]
    dropped: Mapping[str, str]


def choose(setting: str, is_installed: Callable[[str], bool]) -> Libraries:
    """Decide for each library of the setting's text."""
    loaded: list[str] = []
    dropped: dict[str, str] = {}
    for name in names(setting):
        if Path(name).name in RUN_JOBS:
            dropped[name] = "it runs jobs by itself"
        elif not is_installed(name):
            dropped[name] = "it is not installed here"
        else:
            loaded.append(name)
    return Libraries(tuple(loaded), dropped)


def names(setting: str) -> list[str]:
    """The libraries of a list as PostgreSQL writes it (``a, "b c", $libdir/d``)."""
    found = [m[1].replace('""', '"') if m[1] is not None else m[2].strip() for m in _ITEM.finditer(setting)]
    return [name for name in found if name]


def installed_in(directory: Path | None) -> Callable[[str], bool]:
    """Whether a library is in *directory* (``$libdir``), or where its absolute name says."""

    def check(name: str) -> bool:
        plain = name.removeprefix("$libdir/").removesuffix(".so")
        if "/" in plain and not plain.startswith("/"):
            return False
        return directory is not None and (directory / f"{plain}.so").exists()

    return check


def as_setting(loaded: tuple[str, ...]) -> str:
    """The text of the setting that loads these."""
    return ", ".join('"' + name.replace('"', '""') + '"' for name in loaded)
