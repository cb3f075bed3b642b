"""Checks of a restored data directory; each returns a :class:`~mingus_engine.checks.Check` and raises only on trouble.

Before the start: :func:`manifest`. While the server runs: :func:`amcheck`. After it shut down: :func:`page_checksums`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import psycopg

from mingus_engine.checks import Check
from mingus_engine.errors import Damaged
from mingus_engine.postgres import control_data
from mingus_engine.postgres.programs import Programs
from mingus_engine.programs.accounts import Account
from mingus_engine.programs.running import Done
from mingus_engine.targets.postgres import own_manifest
from mingus_engine.targets.postgres.options import session_options
from mingus_engine.targets.postgres.server import ThrowAwayServer

# Reading a data directory of 10 TB at 100 MB/s takes 28 hours; a check that hangs must end some day.
_TIMEOUT_S = 48 * 3600
_SHOWN_LINES = 5
_PAGES = re.compile(r"Blocks scanned: +(\d+)")
_BAD_PAGES = re.compile(r"Bad checksums: +(\d+)")


def manifest(
    data_directory: Path, programs: Programs, account: Account | None, checkpoint: Callable[[], None] = lambda: None
) -> Check:
    """Compare all files with ``backup_manifest``: by ``pg_verifybackup``, else by our own reading of it.

    ``data["by"]`` says which. The program also parses the WAL that the backup needs. Must run before the first start,
    which changes files.
    """
    if programs.has("pg_verifybackup"):
        done = programs.run(
            "pg_verifybackup",
            [str(data_directory)],
            account=account,
            timeout_s=_TIMEOUT_S,
            checkpoint=checkpoint,
        )
        # A program that was killed or cannot run here (126, 127) has found out nothing.
        if 0 <= done.code < 126:
            return _check("manifest", done, by="pg_verifybackup")
        why = f"pg_verifybackup cannot run here ({_ended(done)})"
    else:
        why = "pg_verifybackup is not installed"
    result = own_manifest.check(data_directory, checkpoint)
    data = {"by": "mingus", "why": why, **result.data}
    return Check("manifest", result.ok, f"{result.detail}; {why}, so MINGUS compared the files", data)


def amcheck(server: ThrowAwayServer, *, jobs: int = 0, checkpoint: Callable[[], None] = lambda: None) -> Check:
    """``pg_amcheck --heapallindexed --parent-check`` on all databases of a running server.

    Installs the extension where it is missing, which only changes the throw-away copy. Where it is not part of the
    installed PostgreSQL, the check is *not available*: not ``ok``, with ``data["available"]`` false.
    """
    version = server.programs.version
    package = f"Debian package postgresql-{version}"
    if not server.programs.has("pg_amcheck"):
        return _unavailable("amcheck", f"pg_amcheck is not installed ({package})")
    try:
        with server.connect() as connection:
            row = connection.execute(
                "select 1 from pg_catalog.pg_available_extensions where name = 'amcheck'"
            ).fetchone()
        databases = server.databases()
    except psycopg.Error as error:
        return Check("amcheck", False, f"the server refused: {str(error).strip().splitlines()[0]}")
    if row is None:
        return _unavailable("amcheck", f"extension amcheck is not installed ({package}; elsewhere the contrib modules)")
    parameters = server.connection_parameters()
    done = server.programs.run(
        "pg_amcheck",
        [
            *("--all", "--install-missing", "--heapallindexed", "--parent-check", "--no-password"),
            *("--jobs", str(jobs or min(4, os.cpu_count() or 1))),
            *("--host", parameters["host"], "--port", str(parameters["port"]), "--username", server.superuser),
        ],
        account=server.account,
        timeout_s=_TIMEOUT_S,
        environment={"PGOPTIONS": session_options(version), "PGPASSFILE": "/nonexistent", "PGSSLMODE": "disable"},
        checkpoint=checkpoint,
    )
    return _check("amcheck", done, databases=len(databases))


def page_checksums(
    data_directory: Path, programs: Programs, account: Account | None, checkpoint: Callable[[], None] = lambda: None
) -> Check:
    """``pg_checksums --check`` on the data directory of a server that shut down cleanly."""
    if not programs.has("pg_checksums"):
        return _unavailable("page_checksums", f"pg_checksums is not installed (package postgresql-{programs.version})")
    try:
        control = control_data.read(data_directory, programs, account)
    except Damaged as error:
        return Check("page_checksums", False, error.message)
    if not control.checksums:
        return Check("page_checksums", True, "the cluster has no page checksums", {"enabled": False})
    done = programs.run(
        "pg_checksums",
        ["--check", "-D", str(data_directory)],
        account=account,
        timeout_s=_TIMEOUT_S,
        checkpoint=checkpoint,
    )
    counted = {
        name: int(match[1])
        for name, pattern in (("pages", _PAGES), ("bad_pages", _BAD_PAGES))
        if (match := pattern.search(done.output))
    }
    return _check("page_checksums", done, enabled=True, **counted)


def _check(name: str, done: Done, **data: object) -> Check:
    problems = [line for line in done.output.splitlines() if line.strip()] if done.code else []
    more = len(problems) - _SHOWN_LINES
    text = "; ".join(problems[:_SHOWN_LINES]) + (f"; and {more} lines more" if more > 0 else "")
    detail = "" if done.code == 0 else text or _ended(done)
    return Check(name, done.code == 0, detail, {"seconds": done.seconds, **data})


def _ended(done: Done) -> str:
    return f"ended by signal {-done.code}" if done.code < 0 else f"exit status {done.code}"


def _unavailable(name: str, why: str) -> Check:
    return Check(name, False, f"not available: {why}", {"available": False})
