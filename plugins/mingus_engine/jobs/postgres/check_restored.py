"""``check_restored``: a data directory that was just restored is compared with its ``backup_manifest`` once more.

A restore writes every byte authenticated; this reads them back from the disk, before anybody starts a server there.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mingus_engine.errors import ComponentMissing, TargetError, VerificationFailed
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.postgres import programs
from mingus_engine.programs import accounts
from mingus_engine.settings import Settings
from mingus_engine.targets.postgres import checks, own_manifest


@dataclass(frozen=True, kw_only=True)
class CheckRestoredReport(Report):
    """What was found; all of it good."""

    directory: str
    checks: list[dict[str, Any]]


def check_restored(settings: Settings, source_id: str, *, directory: Path, context: JobContext) -> CheckRestoredReport:
    """Check *directory* by ``pg_verifybackup``, where it is installed, else by our own reading of the manifest.

    No server may have run there: it would have changed files.

    :raises VerificationFailed: something differs. :raises TargetError: it is no data directory.
    """
    clock = Stopwatch()
    source = settings.source(source_id, "postgres")
    try:
        version = int((directory / "PG_VERSION").read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise TargetError(f"{directory} is not a restored data directory") from None
    try:
        found = programs.find(version, source.bin_directory)
    except ComponentMissing:
        check = own_manifest.check(directory, context.checkpoint)
    else:
        check = checks.manifest(directory, found, _owner(directory), context.checkpoint)
    if not check.ok:
        raise VerificationFailed(
            f"{directory} is not what was restored: {check.detail}",
            hint="do not start a server there; look at the disk, restore again elsewhere",
        )
    return CheckRestoredReport(
        job="check_restored", source=source_id, duration_s=clock.seconds, directory=str(directory),
        checks=[check.as_dict()],
    )  # fmt: skip


def _owner(directory: Path) -> accounts.Account | None:
    """Who may read the directory, where that is not this process itself."""
    status = directory.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return accounts.Account(name, status.st_uid, status.st_gid)
