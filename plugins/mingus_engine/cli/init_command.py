"""``init``: make a repository and show its escrow key, this once."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.session import Session
from mingus_engine.errors import MingusError


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "init", "make a repository of the settings", run,
        more="Prints the escrow key, which is stored nowhere: write it down and keep it off-line.",
    )  # fmt: skip
    parser.add_argument("repository", metavar="REPOSITORY", help="its name in the settings")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    from mingus_engine.jobs.initialise import initialise

    # Other repositories that are not there yet are no news while they are being made one after the other.
    report = session.run(lambda context: initialise(session.settings, args.repository, context=context), notes=False)
    console = session.console
    problems = list(map(str, _problems(report.probe)))
    try:
        console.document({**report.as_dict(), "escrow_key": report.escrow_key})
        console.lines(
            [
                *output.fields((
                    ("repository", report.repository),
                    ("location", report.location),
                    ("id", report.repository_id),
                    ("slots", ", ".join(report.slots)),
                    ("store", "; ".join(problems) or "behaves as it must"),
                )),
                "",
                *output.framed([
                    f"ESCROW KEY of repository {report.repository} - shown only now, stored nowhere",
                    "",
                    report.escrow_key,
                    "",
                    "Opens the repository when every other key is lost (MINGUS_ESCROW_KEY).",
                    "Print it, keep it off-line, away from the backups.",
                    "",
                    "Fingerprint of the installation, for the same sheet and the settings:",
                    f"installation_fingerprint: {report.fingerprint}",
                    "",
                    "Without MINGUS: `python` with this file of the repository (its name has its SHA-256)",
                    *report.rescue[:1],
                ]),
                "",
                f"Next: `mingus keys check {report.repository}`, then `mingus backup SOURCE`.",
            ]
        )  # fmt: skip
        console.flush()
    except MingusError as error:
        raise MingusError(
            f"repository {report.repository} was made, but its escrow key could not be shown: {error.message}",
            hint="the repository is still empty: remove it and run `mingus init` again",
        ) from None
    for problem in problems:
        console.warn(f"store {report.location}: {problem}")
    return 0


def _problems(probe: dict[str, Any]) -> list[Any]:
    found = probe.get("problems")
    return list(found) if isinstance(found, list) else []
