"""The order of a recovery of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mingus_airflow.recovery import DRILL, EXTRACT, RESTORE, RecoveryOrder
from mingus_engine.errors import SettingsError

CONFLICTS = ("fail", "skip", "newer", "overwrite")
OWNERS = ("ids", "names", "mine")
#: What ``into`` says when the files shall go back to where they were.
ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True)
class FilesOrder(RecoveryOrder):
    """One recovery, as the form of ``recover_files`` asks for it: ``restore`` makes a new tree of a whole set,
    ``extract`` brings all of it or some into a place that may hold files, ``directory`` or (``into``) the original one.

    :param to: a time: the newest snapshot that had ended by then; instead of *snapshot*.
    :param paths: exact paths as ``mingus ls`` shows them, directories with all below. :param patterns: as in
        ``.gitignore``. None of both = everything.
    :param conflict: what becomes of a file that is there: ``fail`` (before anything is written), ``skip``, ``newer``
        (overwritten when the snapshot's is), ``overwrite``.
    :param delta: write only what differs; of everything also remove what is not in the snapshot.
    :param owners: by ``ids``, ``names`` or all ``mine``; empty = ids if the worker is root, else mine.
    """

    kind: ClassVar[str] = "files"
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {RESTORE: ("directory",)}
    only: ClassVar[Mapping[str, str]] = dict.fromkeys(("into", "paths", "patterns", "delta"), EXTRACT)

    paths: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    conflict: str = "fail"
    delta: bool = False
    owners: str = ""

    def check(self) -> None:
        """:raises SettingsError: what was said cannot be meant."""
        super().check()
        self.check_conflict(self.conflict, CONFLICTS)
        if self.owners not in ("", *OWNERS):
            raise SettingsError(f"owners {self.owners!r} is none of {', '.join(OWNERS)}")
        if self.into not in ("", ORIGINAL):
            raise SettingsError(f"into {self.into!r} is not {ORIGINAL!r}; another place is a 'directory'")
        if self.mode == EXTRACT and bool(self.directory) == bool(self.into):
            raise SettingsError(f"mode {EXTRACT!r} needs either the parameter 'directory' or 'into' ({ORIGINAL!r})")
        if self.mode == DRILL and (self.directory or self.owners):
            raise SettingsError("a drill has its own directory: 'directory' and 'owners' are for the other modes")
        if self.snapshot and self.to:
            raise SettingsError("'snapshot' and 'to' both say from when: say one of them")

    def place(self) -> dict[str, Any]:
        """Arguments of the engine's ``restore_files`` that say where to."""
        return {"original": True} if self.into else {"directory": Path(self.directory)}

    def selection(self) -> dict[str, Any]:
        """Arguments of the engine's ``restore_files`` that say what, and how."""
        return {
            "paths": self.paths,
            "patterns": self.patterns,
            "conflict": self.conflict,
            "delta": self.delta,
            "owners": self.owners or None,
        }
