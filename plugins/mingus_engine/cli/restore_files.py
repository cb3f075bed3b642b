"""``restore`` for files: a tree in a new directory."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import UsageError
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of files alone."""
    group = parser.add_argument_group("files")
    return [
        group.add_argument(
            "--owners", choices=("ids", "names", "mine"),
            help="give files to whom they belonged, by id or by name, or all to who restores; default: ids for root",
        ),
    ]  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if args.directory is None or args.to or args.into:
        raise UsageError("say where to: DIRECTORY; files have no --to and no --into")
    from mingus_engine.jobs.files.restore import restore_files

    report = session.run(
        lambda context: restore_files(
            session.settings, args.source, directory=args.directory.absolute(), repository=args.repository,
            snapshot=args.snapshot, owners=args.owners, dry_run=args.dry_run, context=context,
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
        ("directory", str(report["directory"])),
        *((f"{report['directory']}/{root['label']}", f"from {root['path']}") for root in plan["roots"]),
    ]
    if dry_run:
        pairs += [("would write", f"{output.number(plan['files'])} files, {output.size(plan['bytes'])}")]
    else:
        pairs += [
            ("files", output.number(report["files"])),
            ("written", output.size(report["bytes_written"])),
            ("owners", str(report["owners"])),
            ("duration", output.duration(report["duration_s"])),
        ]
    console.lines(output.fields(pairs))
    for sort, found in sorted(report["lost"].items()):
        console.warn(f"{found['count']} x {sort} could not be restored: {'; '.join(found['paths'][:3])}")
    if dry_run:
        console.line("Nothing was written.")
