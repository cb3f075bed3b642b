"""``restore`` for PostgreSQL: a data directory, or, by ``--extract``, a running server."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from mingus_engine.cli import extract_arguments, output
from mingus_engine.cli.arguments import add_timeline
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of PostgreSQL alone."""
    group = parser.add_argument_group("PostgreSQL")
    recovery = parser.add_argument_group("PostgreSQL, with --to")
    return [
        group.add_argument(
            "--tablespace", metavar="OID=DIR", action="append", default=[], type=_tablespace,
            help="put a tablespace elsewhere, by its OID or its original directory; may be repeated",
        ),
        *add_timeline(recovery),
        recovery.add_argument(
            "--action", choices=("promote", "pause", "shutdown"), default="promote",
            help="what the server does at the target; default: promote",
        ),
        recovery.add_argument(
            "--wal", choices=("copy", "fetch"), default="copy",
            help="copy the log that is needed into pg_wal (default), or let the server fetch it while it recovers: it"
            " then needs these settings and the key",
        ),
        recovery.add_argument(
            "--standby", action="store_true", help="make a standby (standby.signal); primary_conninfo is yours to set"
        ),
        *extract_arguments.add(parser),
    ]  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    extract_arguments.require_consistent(args)
    if args.extract is not None:
        return extract_arguments.run(args, session)
    from mingus_engine.jobs.postgres.restore import restore

    report = session.run(
        lambda context: restore(
            session.settings, args.source, directory=args.directory.absolute(), repository=args.repository,
            snapshot=args.snapshot, tablespace_map=dict(args.tablespace), dry_run=args.dry_run, context=context,
            to=args.to, timeline=args.timeline, inclusive=args.inclusive, action=args.action, standby=args.standby,
            delta=args.delta, wal=args.wal, settings_file=session.settings_file,
        )
    )  # fmt: skip
    console = session.console
    console.document({**report.as_dict(), "dry_run": args.dry_run})
    _show(console, report.as_dict(), dry_run=args.dry_run)
    return 0


def _show(console: Console, report: dict[str, Any], *, dry_run: bool) -> None:
    plan = report["plan"]
    recovery = plan.get("recovery")
    pairs = [
        *((("target", str(recovery["target"])),) if recovery else ()),
        ("snapshot", str(report["snapshot"]) + (f" ({recovery['snapshot_reason']})" if recovery else "")),
        ("repository", str(report["repository"])),
        ("directory", str(report["directory"])),
        *((f"tablespace {oid}", str(path)) for oid, path in plan["tablespaces"].items()),
    ]
    if recovery:
        pairs += [
            ("timelines", str(recovery["timelines"])),
            ("WAL range", f"{recovery['wal_start']} to {recovery['wal_end']}"),
            *((("note", str(recovery["note"])),) if recovery["note"] else ()),
        ]
    if dry_run:
        pairs += [
            ("would write", f"{output.number(plan['files'])} files, {output.size(plan['bytes'])}"),
            ("WAL", output.size(plan["wal_bytes"])),
            *((f"needed in {path}", output.size(needed)) for path, needed in plan["needed"].items()),
            (
                "estimated",
                output.duration(plan["estimated_s"]) if plan["estimated_s"] else "unknown: nothing is proven",
            ),
        ]
    else:
        pairs += [
            ("files", output.number(report["files"])),
            ("written", output.size(report["bytes_written"])),
            *((("equal already", output.size(report["bytes_equal"])),) if "bytes_equal" in report else ()),
            *((("removed", output.number(report["removed"])),) if report.get("removed") else ()),
            ("WAL", output.size(report["wal_bytes"])),
            ("duration", output.duration(report["duration_s"])),
        ]
    console.lines(output.fields(pairs))
    if dry_run:
        console.line("Nothing was written.")
    elif report.get("start_hint"):
        console.line()
        console.line(f"Start it with: {output.safe(report['start_hint'])}")


def _tablespace(text: str) -> tuple[str, str]:
    which, equals, directory = text.partition("=")
    if not (which and equals and directory):
        raise argparse.ArgumentTypeError(f"{shlex.quote(text)} is not of the form OID=DIR")
    if not Path(directory).is_absolute():
        raise argparse.ArgumentTypeError(f"the directory in {shlex.quote(text)} is not an absolute path")
    return which, directory
