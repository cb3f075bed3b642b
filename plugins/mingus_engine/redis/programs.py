"""Finding the programs of Redis or Valkey. How programs are run: ``programs.running``."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.errors import ComponentMissing
from mingus_engine.programs.running import InstalledPrograms
from mingus_engine.redis import versions

# Where packages and builds put them, after PATH.
_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/usr/local/redis/bin", "/opt/redis/bin", "/opt/valkey/bin")
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Programs(InstalledPrograms):
    """The programs of one installed server. ``engine``: ``redis`` or ``valkey``; ``version`` like 7.0.15."""

    engine: str
    version: str
    directory: Path

    @property
    def package(self) -> str:
        """See the base class."""
        return (
            f"{versions.shown(self.engine, self.version)} (Debian packages {self.engine}-server, {self.engine}-tools)"
        )

    @property
    def server(self) -> str:
        """Name of the server's program."""
        return f"{self.engine}-server"

    def tool(self, name: str) -> str:
        """Name of another program: ``check-rdb``, ``check-aof``."""
        return f"{self.engine}-{name}"


def installed(bin_directory: str = "") -> list[Programs]:
    """Every server that is found in *bin_directory* (a setting), else in PATH and where packages put them."""
    places = [bin_directory] if bin_directory else [*os.get_exec_path(), *_DIRECTORIES]
    found: dict[Path, Programs] = {}
    for place in places:
        for engine in versions.NAMES:
            path = Path(place) / f"{engine}-server"
            if path.resolve() not in found and (version := _version(path, engine)):
                found[path.resolve()] = Programs(engine, version, Path(place))
    return list(found.values())


def find(engine: str, version: str, rdb: int, bin_directory: str = "") -> Programs:
    """The programs that can prove a snapshot of *version*: same engine and major version, able to read RDB *rdb*.

    The nearest that is not older, else the newest of the older ones.

    :raises ComponentMissing: there are none; the message says what was found instead.
    """
    everything = installed(bin_directory)
    wanted = versions.of(version)
    fit = [
        p for p in everything
        if p.engine == engine and versions.of(p.version)[0] == wanted[0]
        and versions.can_read(p.engine, p.version, rdb)
    ]  # fmt: skip
    if fit:
        newer = [p for p in fit if versions.of(p.version) >= wanted]
        return min(newer, key=_order) if newer else max(fit, key=_order)
    seen = ", ".join(f"{versions.shown(p.engine, p.version)} in {p.directory}" for p in everything) or "none"
    raise ComponentMissing(
        f"no server of {versions.shown(engine, str(wanted[0]))} that reads RDB version {rdb} (of"
        f" {versions.shown(engine, version)}) is installed; found: {seen}",
        hint=f"install {engine}-server, or name its directory as bin_directory of the source",
    )


def _order(programs: Programs) -> tuple[int, ...]:
    return tuple(map(int, programs.version.split(".")))


def _version(path: Path, engine: str) -> str:
    """Version of the server *path*; empty = it is none of *engine*."""
    if not os.access(path, os.X_OK):
        return ""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False, env={"LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return match[2] if match and match[1].lower() == engine else ""
