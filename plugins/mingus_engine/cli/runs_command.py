"""``runs``: which jobs wrote to or read from the repositories."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command, whole_number
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.inspected import RunInfo

_NEWEST = 20


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "runs", "list the jobs that wrote to or read from repositories", run,
        more="Needs no key. A run without an end is under way or was killed: nobody can tell from here.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="only of this source; default: of all")
    add_repository(parser, "only in this one; default: in all of the source's chain")
    parser.add_argument(
        "--newest", metavar="N", type=whole_number, default=_NEWEST,
        help=f"so many of each source and repository; default: {_NEWEST}",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="all of them")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    from mingus_engine.jobs.inspect import list_runs

    listing = session.run(
        lambda context: list_runs(
            session.settings, args.source, repository=args.repository,
            newest=None if args.all else args.newest, context=context,
        )
    )  # fmt: skip
    console = session.console
    console.document({
        "runs": [dataclasses.asdict(one) for one in listing.runs],
        "unreachable": listing.unreachable,
    })  # fmt: skip
    if listing.runs:
        headers = ("SOURCE", "REPOSITORY", "RUN", "KIND", "STARTED", "DURATION", "BY", "RESULT")
        console.lines(output.table(headers, map(_row, listing.runs), right={5}))
    else:
        console.line(f"No run{f' of {args.source}' if args.source else ''}.")
    for repository, why in listing.unreachable.items():
        console.warn(f"repository {repository} was not read: {why}")
    return 0


def _row(one: RunInfo) -> tuple[str, ...]:
    return (
        one.source,
        one.repository,
        one.run,
        one.kind,
        output.when(one.started_at),
        output.duration(max(0.0, (one.ended_at - one.started_at).total_seconds())) if one.ended_at else "-",
        _by(one),
        _result(one),
    )


def _by(one: RunInfo) -> str:
    """The command or task, and the host."""
    who = one.provenance.get("command") or one.provenance.get("task_id") or "?"
    host = one.provenance.get("host") or one.provenance.get("hostname")
    return f"{who} on {host}" if host else str(who)


def _result(one: RunInfo) -> str:
    if one.ended_at is None:
        return "open or dead"
    if one.reads:
        return f"read {one.reads}"
    return f"committed {', '.join(one.committed)}" if one.committed else "committed nothing"
