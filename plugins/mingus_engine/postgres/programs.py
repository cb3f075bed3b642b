"""Finding PostgreSQL's programs of a major version.

PostgreSQL refuses to run as root, so a root engine names an account. How programs are run: ``programs.running``.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.errors import ComponentMissing
from mingus_engine.programs.running import InstalledPrograms

# Debian's layout, then that of PostgreSQL's own RPMs.
_DIRECTORIES = ("/usr/lib/postgresql/{version}/bin", "/usr/pgsql-{version}/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True)
class Programs(InstalledPrograms):
    """The programs of one installed PostgreSQL."""

    version: int
    directory: Path

    @property
    def package(self) -> str:
        """See the base class."""
        return f"PostgreSQL {self.version} (Debian package postgresql-{self.version})"

    @functools.cached_property
    def library_directory(self) -> Path | None:
        """Where loadable libraries are (``$libdir``), ``None`` when that cannot be found out."""
        if self.has("pg_config"):
            done = self.run("pg_config", ["--pkglibdir"], account=None, timeout_s=10)
            if done.code == 0:
                return Path(done.output.strip())
        libraries = (self.directory.resolve().parent / name for name in ("lib/postgresql", "lib"))
        return next((path for path in libraries if path.is_dir()), None)


def find(version: int, bin_directory: str = "") -> Programs:
    """The programs of major *version*: in *bin_directory* (a setting), else where packages put them, else in PATH.

    :raises ComponentMissing: none of that version; the message names the places and the package.
    """
    if bin_directory:
        candidates = [bin_directory]
    else:
        candidates = [pattern.format(version=version) for pattern in _DIRECTORIES]
        found = shutil.which("postgres")
        candidates += [str(Path(found).parent)] if found else []
    seen = []
    for directory in candidates:
        major = _major_version(Path(directory))
        if major == version:
            return Programs(version, Path(directory))
        seen.append(f"{directory} ({f'PostgreSQL {major}' if major else 'no postgres'})")
    raise ComponentMissing(
        f"PostgreSQL {version} is not installed (Debian package postgresql-{version}); looked in {', '.join(seen)}",
        hint="install that package, or name its programs' directory as bin_directory of the source",
    )


def _major_version(directory: Path) -> int | None:
    postgres = directory / "postgres"
    if not os.access(postgres, os.X_OK):
        return None
    try:
        done = subprocess.run(
            [postgres, "--version"], capture_output=True, timeout=30, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return int(match[1]) if match else None
