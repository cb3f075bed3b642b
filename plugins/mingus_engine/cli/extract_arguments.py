"""``restore --extract``: a database or tables into a running server; called by the command ``restore``."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import UsageError
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options; ``--into`` is the command's."""
    group = parser.add_argument_group(
        "PostgreSQL, with --into",
        "The snapshot is restored to a scratch directory, which is wiped afterwards; nothing else is written there.",
    )
    return [
        group.add_argument(
            "--extract", metavar="WHAT",
            help="DATABASE, or DATABASE:schema.table,… ; a table without a schema is in public, names are exact",
        ),
        group.add_argument(
            "--as", dest="new_name", metavar="DATABASE", default="",
            help="make a new database of this name; default: a database keeps its name, tables go into the database of"
            " the connection",
        ),
        group.add_argument(
            "--overwrite", action="store_true", help="replace what is there of that name, all or nothing"
        ),
        group.add_argument(
            "--no-owner", action="store_true", help="leave out owners and rights: all is the connection's"
        ),
    ]  # fmt: skip


def require_consistent(args: argparse.Namespace) -> None:
    """Exactly one of DIRECTORY and ``--extract``, and each with its own options.

    :raises UsageError: anything else.
    """
    if args.extract is None:
        if args.directory is None:
            raise UsageError("say where to: DIRECTORY, or --extract WHAT --into CONNECTION")
        if args.into or args.new_name or args.overwrite or args.no_owner:
            raise UsageError("--into, --as, --overwrite and --no-owner need --extract")
        return
    if args.directory is not None:
        raise UsageError("--extract goes into a server, not into a DIRECTORY")
    if not args.into:
        raise UsageError("--extract needs --into CONNECTION")
    if args.tablespace or args.standby or args.action != "promote" or args.wal != "copy" or args.delta:
        raise UsageError("--tablespace, --action, --standby, --wal and --delta are for a DIRECTORY")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the extraction."""
    from mingus_engine.jobs.postgres.extract import extract

    report = session.run(
        lambda context: extract(
            session.settings, args.source, what=args.extract, into=args.into, new_name=args.new_name,
            overwrite=args.overwrite, no_owner=args.no_owner, repository=args.repository, snapshot=args.snapshot,
            to=args.to, timeline=args.timeline, inclusive=args.inclusive, dry_run=args.dry_run, context=context,
        )
    ).as_dict()  # fmt: skip
    session.console.document({**report, "dry_run": args.dry_run})
    _show(session.console, report, dry_run=args.dry_run)
    return 0


def _show(console: Console, report: dict[str, Any], *, dry_run: bool) -> None:
    plan = report["plan"]
    pairs = [
        ("snapshot", str(report["snapshot"])),
        ("repository", str(report["repository"])),
        *((("target", str(report["target"])),) if report.get("target") else ()),
        ("database", str(report["database"])),
        *((("tables", ", ".join(report["tables"])),) if report["tables"] else ()),
        ("destination", str(report["destination"])),
        ("into database", str(report["into_database"]) + (" (new)" if report["created"] else "")),
    ]
    if dry_run:
        pairs += [
            ("would restore", f"{output.number(plan['files'])} files, {output.size(plan['bytes'])}"),
            ("WAL", output.size(plan["wal_bytes"])),
            ("scratch", str(plan["directory"])),
            *((("overwrites", "what is there of that name"),) if plan["overwrites"] else ()),
        ]
    else:
        pairs += [
            ("sent", output.size(report["bytes_sent"])),
            ("rows", f"{output.number(report['rows'])} in {output.number(report['tables_counted'])} tables, compared"),
            ("duration", output.duration(report["duration_s"])),
        ]
    console.lines(output.fields(pairs))
    console.lines(f"left out: {output.safe(text)}" for text in report["left_out"])
    if dry_run:
        console.line("Nothing was written.")
    else:
        console.lines(check_lines(report["checks"]))
