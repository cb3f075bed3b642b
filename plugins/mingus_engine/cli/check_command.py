"""``check``: can everything that a backup will need be had?"""

from __future__ import annotations

import argparse

from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import MingusError


class CheckFailed(MingusError):
    """Something is not as it must be; the exit code is the one of the first failure."""


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "check", "check settings, repositories, keys, and a source", run,
        more="Of a source: rights, slot, checksums, space, a WAL round trip.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="its id; default: only the repositories")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    from mingus_engine.jobs.check import check

    report = session.run(lambda context: check(session.settings, args.source, context=context))
    console = session.console
    console.lines(check_lines(report.checks))
    if report.ok:
        console.document(report.as_dict())
        return 0
    bad = [c for c in report.checks if not c["ok"] and (c.get("data") or {}).get("available") is not False]
    error = CheckFailed(
        f"{len(bad)} of {len(report.checks)} checks failed; the first: {bad[0]['scope']}: {bad[0]['detail']}",
        hint=report.hint,
    )
    error.exit_code = report.exit_code
    raise Failed(error, report.as_dict())
