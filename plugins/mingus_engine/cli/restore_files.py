"""``restore`` for files: a tree in a directory, or in the places where it was."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING, Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import UsageError
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.files.deciding import Change


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of files alone."""
    group = parser.add_argument_group("files")
    return [
        group.add_argument(
            "--original", action="store_true", help="to where the files were, instead of DIRECTORY"
        ),
        group.add_argument(
            "--at", metavar="TIME",
            help="the newest snapshot that had ended by then: 2026-11-23T14:29:59+01:00 (without an offset: UTC)",
        ),
        group.add_argument(
            "--path", metavar="PATH", action="append", default=[],
            help="only this, as `mingus ls` shows it, a directory with all below; may be repeated",
        ),
        group.add_argument(
            "--pattern", metavar="GLOB", action="append", default=[],
            help="only what matches, as in .gitignore; may be repeated, and beside --path",
        ),
        group.add_argument(
            "--owners", choices=("ids", "names", "mine"),
            help="give files to whom they belonged, by id or by name, or all to who restores; default: ids for root",
        ),
    ]  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if args.into or (args.directory is None) != args.original:
        raise UsageError("say where to: DIRECTORY or --original; files have no --into")
    if args.at and args.to:
        raise UsageError("--at and --to say the same for files: use one")
    from mingus_engine.jobs.files.restore import restore_files

    console = session.console
    lines = _Lines(console)
    if args.dry_run:
        console.begin_list("list")
    report = session.run(
        lambda context: restore_files(
            session.settings, args.source, directory=args.directory and args.directory.absolute(),
            repository=args.repository, snapshot=args.snapshot, at=args.at or args.to, original=args.original,
            paths=tuple(args.path), patterns=tuple(args.pattern), conflict=args.conflict, delta=args.delta,
            owners=args.owners, dry_run=args.dry_run, tell=lines.tell if args.dry_run else lambda _: None,
            context=context,
        )
    ).as_dict()  # fmt: skip
    console.document({**report, "dry_run": args.dry_run})
    _show(console, report, dry_run=args.dry_run)
    return 0


class _Lines:
    """The list of a dry run, as it comes: all of it as JSON or with --verbose."""

    def __init__(self, console: Console) -> None:
        self._console, self._lock = console, threading.Lock()

    def tell(self, change: Change) -> None:
        """One line."""
        with self._lock:
            if self._console.as_json:
                self._console.item(change.as_dict())
            elif self._console.verbose:
                self._console.line(str(change))


def _show(console: Console, report: dict[str, Any], *, dry_run: bool) -> None:
    plan, where = report["plan"], report["directory"]
    pairs = [
        ("snapshot", f"{report['snapshot']} (ended {report['ended']})"),
        ("repository", str(report["repository"])),
        *((("directory", str(where)),) if where else ()),
        *(
            (f"{where}/{root['label']}", f"from {root['path']}") if where else (root["label"], f"to {root['path']}")
            for root in plan["roots"]
        ),
        ("chosen", f"{output.number(plan['files'])} files, {output.size(plan['bytes'])}"),
    ]
    pairs += [
        (("would be " if dry_run else "") + action, f"{output.number(found['count'])}, {output.size(found['bytes'])}")
        for action, found in report["actions"].items()
        if found["count"]
    ]
    if not dry_run:
        pairs += [
            ("written", output.size(report["bytes_written"])),
            ("owners", str(report["owners"])),
            ("duration", output.duration(report["duration_s"])),
        ]
    if not console.verbose or not dry_run:
        console.lines(output.safe(line) for line in report["changes"])
        total = sum(found["count"] for action, found in report["actions"].items() if action != "unchanged")
        if report["changes"] and total > len(report["changes"]):
            console.line(f"… and {output.number(total - len(report['changes']))} more (--verbose or --json: all)")
    console.lines(output.fields(pairs))
    if report["kept"]:
        console.warn(f"nothing was removed: {report['kept']}")
    for sort, found in sorted(report["lost"].items()):
        console.warn(f"{found['count']} x {sort} could not be restored: {'; '.join(found['paths'][:3])}")
    if dry_run:
        console.line("Nothing was written.")
