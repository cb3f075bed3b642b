"""``keys``: who can open a repository, and changing that."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mingus_engine.cli import output, signals
from mingus_engine.cli.arguments import Parser, Subparsers, command
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import KeyUnavailable, SettingsError

if TYPE_CHECKING:
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.keys import KeysInfo, KeysReport
    from mingus_engine.settings import Secret, Settings

_NEW_PASSPHRASE = "MINGUS_NEW_PASSPHRASE"  # noqa: S105 - the name of a variable


def add(commands: Subparsers) -> None:
    """The parsers."""
    top = commands.add_parser("keys", help="list, check, add, rotate the keys of repositories")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, title="commands", parser_class=Parser)
    for name, summary, run, many in (
        ("list", "list slots and epochs; needs no key", run_list, True),
        ("check", "open every slot for which a secret is at hand", run_check, True),
        ("add-passphrase", "add a slot that a passphrase opens", run_add_passphrase, False),
        ("rotate", "make a fresh epoch key current; older ones stay readable", run_rotate, False),
    ):
        parser = command(verbs, name, summary, run)
        parser.set_defaults(command=f"keys {name}")
        if many:
            parser.add_argument("repository", metavar="REPOSITORY", nargs="?", help="default: all of the settings")
        else:
            parser.add_argument("repository", metavar="REPOSITORY", help="its name in the settings")
        if name == "add-passphrase":
            parser.add_argument(
                "--passphrase-file", metavar="FILE",
                help=f"its first line; default: the variable {_NEW_PASSPHRASE}, else asked for on the terminal",
            )  # fmt: skip


def run_list(args: argparse.Namespace, session: Session) -> int:
    """Run ``keys list``."""
    from mingus_engine.jobs.keys import list_keys

    _show(session, [
        session.run(partial(_on, list_keys, session.settings, name))
        for name in _names(args, session)
    ])  # fmt: skip
    return 0


def run_check(args: argparse.Namespace, session: Session) -> int:
    """Run ``keys check``."""
    from mingus_engine.jobs.keys import check_keys

    found = [session.run(partial(_on, check_keys, session.settings, name)) for name in _names(args, session)]
    bad = [f"{info.repository}: {s.trouble or s.name}" for info in found for s in info.slots if s.opens is False]
    if bad:
        document = {"repositories": [dataclasses.asdict(info) for info in found]}
        _lines(session, found)
        error = KeyUnavailable(f"{len(bad)} slots do not open with the secret at hand: {'; '.join(bad)}")
        raise Failed(error, document)
    _show(session, found)
    return 0


def run_add_passphrase(args: argparse.Namespace, session: Session) -> int:
    """Run ``keys add-passphrase``."""
    session.settings.repository(args.repository)
    passphrase = _new_passphrase(args.passphrase_file)
    from mingus_engine.jobs.keys import add_passphrase

    report = session.run(lambda context: add_passphrase(session.settings, args.repository, passphrase, context=context))
    _report(session, report, "slot added")
    return 0


def run_rotate(args: argparse.Namespace, session: Session) -> int:
    """Run ``keys rotate``."""
    from mingus_engine.jobs.keys import rotate

    report = session.run(lambda context: rotate(session.settings, args.repository, context=context))
    _report(session, report, "epoch added")
    return 0


def _on(job: Callable[..., KeysInfo], settings: Settings, name: str, context: JobContext) -> KeysInfo:
    return job(settings, name, context=context)


def _names(args: argparse.Namespace, session: Session) -> list[str]:
    return [args.repository] if args.repository else [r.name for r in session.settings.repositories]


def _new_passphrase(file: str | None) -> Secret:
    from mingus_engine.settings import Secret, read_secret

    given = read_secret("" if file else _NEW_PASSPHRASE, file or "", what="new passphrase")
    if given is not None:
        return given
    if sys.stdin is None or not sys.stdin.isatty():
        raise SettingsError("no new passphrase", hint=f"set {_NEW_PASSPHRASE}, or name a file by --passphrase-file")
    with signals.interruptible():
        first, second = getpass.getpass("New passphrase: "), getpass.getpass("Again: ")
    if first != second:
        raise SettingsError("the two passphrases differ", hint="nothing was changed; try again")
    return Secret(first)


def _show(session: Session, found: list[KeysInfo]) -> None:
    session.console.document({"repositories": [dataclasses.asdict(info) for info in found]})
    _lines(session, found)


def _lines(session: Session, found: list[KeysInfo]) -> None:
    console = session.console
    for i, info in enumerate(found):
        console.lines([""] if i else [])
        console.lines(
            output.fields((
                ("repository", info.repository),
                ("location", info.location),
                ("installation", info.fingerprint + (" (pinned)" if info.pinned else " (not pinned)")),
                ("generation", output.number(info.generation)),
            ))
        )  # fmt: skip
        opens = {True: "yes", False: "NO", None: "-"}
        console.line()
        console.lines(
            output.table(
                ("SLOT", "KIND", "DERIVATION", "OPENS", "WHY NOT"),
                [(s.name, s.kind, s.derivation, opens[s.opens], s.trouble) for s in info.slots],
            )
        )
        console.line()
        console.lines(
            output.table(
                ("EPOCH", "MADE", "CURRENT"),
                [(e.ulid, output.when(e.made_at), output.yes_no(e.current)) for e in info.epochs],
            )
        )


def _report(session: Session, report: KeysReport, label: str) -> None:
    session.console.document(report.as_dict())
    session.console.lines(
        output.fields((
            ("repository", report.repository),
            (label, report.added),
            ("current epoch", report.epoch),
            ("slots", ", ".join(report.slots)),
            ("generation", output.number(report.generation)),
        ))
    )  # fmt: skip
