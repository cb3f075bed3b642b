"""``ship``: bring snapshots to the further repositories of the chain."""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_snapshot, command
from mingus_engine.cli.session import Session
from mingus_engine.errors import SettingsError

if TYPE_CHECKING:
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.ship import ShipReport
    from mingus_engine.settings import Settings


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "ship", "copy a source's snapshots along its chain of repositories", run,
        more="What a repository has already is not sent again.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="its id in the settings")
    parser.add_argument("--to", metavar="REPOSITORY", help="only to this one; default: each of the chain in turn")
    parser.add_argument(
        "--from", dest="origin", metavar="REPOSITORY", help="where to copy from; default: the one before in the chain"
    )
    add_snapshot(parser, "only this snapshot; default: all that are missing there")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    hops = _hops(session.settings.chain(args.source), args.origin, args.to)
    for name in {name for hop in hops for name in hop}:
        session.settings.repository(name)
    reports = []
    for origin, destination in hops:
        if len(hops) > 1:
            session.console.note(f"shipping from {origin} to {destination}")
        reports.append(session.run(partial(_hop, session.settings, args, origin, destination)))
    console = session.console
    console.document({"job": "ship", "source": args.source, "hops": [report.as_dict() for report in reports]})
    rows = [
        (
            report.origin, report.destination, output.number(len(report.snapshots) - report.snapshots_present),
            output.number(report.snapshots_present), output.number(report.objects_put),
            output.size(report.bytes_put), output.duration(report.duration_s),
        )
        for report in reports
    ]  # fmt: skip
    headers = ("FROM", "TO", "SHIPPED", "THERE ALREADY", "OBJECTS PUT", "BYTES PUT", "DURATION")
    console.lines(output.table(headers, rows, right={2, 3, 4, 5, 6}))
    return 0


def _hop(
    settings: Settings, args: argparse.Namespace, origin: str, destination: str, context: JobContext
) -> ShipReport:
    from mingus_engine.jobs.ship import ship

    return ship(settings, args.source, origin=origin, destination=destination, snapshot=args.snapshot, context=context)


def _hops(chain: tuple[str, ...], origin: str | None, to: str | None) -> list[tuple[str, str]]:
    """Origin and destination of each copy to be made."""
    if to is not None:
        before = chain[chain.index(to) - 1] if to in chain[1:] else chain[0]
        chosen = origin or before
        if chosen == to:
            raise SettingsError(f"cannot ship from {to} to itself", hint="name another one by --from")
        return [(chosen, to)]
    if origin is not None:
        return [(origin, name) for name in chain if name != origin]
    if len(chain) < 2:
        raise SettingsError(
            f"the source has one repository only, {chain[0]}", hint="name others in its ship_to, or one by --to"
        )
    return list(itertools.pairwise(chain))
