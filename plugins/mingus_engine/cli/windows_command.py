"""``windows``: from which moment to which moment each source can be restored."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "windows", "show from when to when a source can be restored", run,
        more="Computed from what is stored: snapshots, write-ahead log, timeline histories. Any moment inside a window"
        " is a target of `restore --to`; none between two windows is.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="only of this source; default: of all")
    add_repository(parser, "only in this one; default: in each of the source's chain")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    settings = session.settings
    chosen = [settings.stored_source(args.source, "postgres").id] if args.source else settings.of_kind("postgres")
    if args.repository:
        settings.repository(args.repository)
    from mingus_engine.jobs.postgres.windows import windows

    reports = [
        session.run(lambda context: windows(settings, source, args.repository, context=context)).as_dict()  # noqa: B023
        for source in chosen
    ]
    session.console.document({"sources": reports})
    for report in reports:
        _show(session.console, report)
    return 0


def _show(console: Console, report: dict[str, Any]) -> None:
    rows = [
        (report["source"], place["repository"], str(window["timeline"]), *_range(window), _snapshots(window, kind))
        for place in report["repositories"]
        for kind, window in _in_order(place)
    ]
    if rows:
        headers = ("SOURCE", "REPOSITORY", "TIMELINE", "FROM", "TO", "FROM LSN", "TO LSN", "SNAPSHOTS")
        console.lines(output.table(headers, rows))
    else:
        console.line(f"Nothing of {report['source']} can be restored.")
    if report.get("rpo_s") is not None:
        console.line(f"The newest restorable moment is {output.duration(report['rpo_s'])} old.")
    for place in report["repositories"]:
        for ulid, why in place["unusable"].items():
            console.warn(f"snapshot {ulid} in {place['repository']} opens no window: {why}")
        for what in place["damaged"].values():
            console.warn(f"damaged in {place['repository']}: {what}")
    for repository, why in report["unreachable"].items():
        console.warn(f"repository {repository} was not read: {why}")


def _in_order(place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each window, before it the gap that ends with it."""
    for window in place["windows"]:
        for gap in place["gaps"]:
            if (
                all(gap[key] == window[key] for key in ("system_id", "timeline"))
                and gap["end_lsn"] == window["start_lsn"]
            ):
                yield "gap", gap
        yield "window", window


def _range(found: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        found["start_time"] or "unknown", found["end_time"] or "unknown", found["start_lsn"], found["end_lsn"],
    )  # fmt: skip


def _snapshots(found: dict[str, Any], kind: str) -> str:
    return "GAP" if kind == "gap" else str(len(found["snapshots"]))
