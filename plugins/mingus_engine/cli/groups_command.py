"""``groups``: which snapshots of several sources are of one moment, and how they are restored together."""

from __future__ import annotations

import argparse
import dataclasses

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command
from mingus_engine.cli.session import Session


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "groups", "show which snapshots of a group are of one moment", run,
        more="Needs the key: what belongs together is sealed. A run is complete when all its members were committed.",
    )  # fmt: skip
    parser.add_argument("group", metavar="GROUP", nargs="?", help="only of this group; default: of all")
    add_repository(parser, "look into this one; default: the first of each member's chain that answers")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    from mingus_engine.jobs.groups import group_runs

    settings, console = session.settings, session.console
    chosen = [settings.group(args.group).name] if args.group else [group.name for group in settings.groups]
    found = [
        one
        for name in chosen
        for one in session.run(
            lambda context: group_runs(settings, name, context=context, repository=args.repository)  # noqa: B023
        )
    ]
    console.document({"runs": [dataclasses.asdict(one) for one in found]})
    if not found:
        console.line("No snapshot of a group.")
        return 0
    rows = [
        (one.group, one.id, output.when(one.quiesced_from), output.when(one.quiesced_until),
         output.yes_no(one.complete), ", ".join(f"{member} {snapshot}" for member, snapshot in one.members.items()))
        for one in found
    ]  # fmt: skip
    console.lines(output.table(("GROUP", "RUN", "STOOD STILL FROM", "TO", "COMPLETE", "SNAPSHOTS"), rows))
    for one in {one.group: one for one in reversed(found) if one.complete}.values():
        console.line(f"\nThe newest complete moment of {one.group} is restored by")
        for member, snapshot in one.members.items():
            console.line(f"  mingus restore {member} DIRECTORY --snapshot {snapshot}")
    return 0
