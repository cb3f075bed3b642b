"""``backup``: take a full backup of a source."""

from __future__ import annotations

import argparse

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.session import Session


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "backup", "take a full backup of a source", run,
        more="It goes to the first reachable repository of the source's chain.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="its id in the settings")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    session.settings.source(args.source)
    from mingus_engine.jobs.back_up import back_up

    report = session.run(lambda context: back_up(session.settings, args.source, context=context))
    console = session.console
    console.document(report.as_dict())
    console.lines(
        output.fields((
            ("snapshot", report.snapshot),
            ("kind", report.kind),
            ("repository", report.repository),
            ("files", output.number(report.files)),
            ("read", output.size(report.bytes_read)),
            ("stored", f"{output.size(report.bytes_stored)} (ratio {report.ratio:.2f})"),
            *([("reused", f"{output.size(report.bytes_reused)} of an interrupted run")] if report.bytes_reused else []),
            ("WAL", output.size(report.wal_bytes)),
            ("LSN", f"{report.start_lsn} to {report.stop_lsn}, timeline {report.timeline}"),
            ("duration", output.duration(report.duration_s)),
            ("flagged", output.yes_no(report.flagged)),
        ))
    )  # fmt: skip
    if report.checks:
        console.line()
        console.lines(check_lines(report.checks))
    if report.flagged:
        console.warn(f"snapshot {report.snapshot} is flagged: a check failed while it was taken")
    console.note(f"not proven yet: `mingus verify {args.source}` restores it and checks")
    return 0
