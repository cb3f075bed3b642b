"""The argument parser: global options on either side of the command, errors in the product's own form."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from mingus_engine.errors import SettingsError

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


class UsageError(SettingsError):
    """The arguments are wrong."""


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError` instead of printing and exiting."""

    def __init__(self, **kwargs: Any) -> None:
        # An abbreviated option would change its meaning when another one is added.
        super().__init__(**{"allow_abbrev": False, "formatter_class": _Formatter, **kwargs})

    def error(self, message: str) -> NoReturn:
        """:raises UsageError: always."""
        raise UsageError(_suggested(message), hint=f"`{self.prog} --help` shows the arguments")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def add_globals(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """The global options. Below the top they have no default: what stood before the command stays."""
    absent: Any = argparse.SUPPRESS
    group = parser.add_argument_group("global options")
    group.add_argument(
        "--config", metavar="FILE", default=None if top else absent,
        help="settings file; default: MINGUS_CONFIG, else include/config/mingus.yaml",
    )  # fmt: skip
    for name, text in (
        ("--json", "one JSON document on stdout and nothing else"),
        ("--quiet", "no progress, no notes: results and errors only"),
        ("--verbose", "more notes, and the trace of an error"),
    ):
        group.add_argument(name, action="store_true", default=False if top else absent, help=text)


def command(commands: Subparsers, name: str, summary: str, run: Callable[..., int], *, more: str = "") -> Parser:
    """A new command. *run* is called with the arguments and the session and gives the exit code."""
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}".strip())
    add_globals(parser, top=False)
    parser.set_defaults(run=run, command=name)
    return parser


def add_repository(parser: argparse.ArgumentParser, text: str) -> None:
    """``--repository NAME``."""
    parser.add_argument("--repository", metavar="NAME", help=text)


def add_snapshot(parser: argparse.ArgumentParser, text: str) -> None:
    """``--snapshot ULID``."""
    parser.add_argument("--snapshot", metavar="ULID", type=ulid_prefix, help=text)


def add_target(parser: argparse.ArgumentParser, text: str) -> None:
    """``--to TARGET``."""
    parser.add_argument(
        "--to", metavar="TARGET",
        help=f"{text}; latest, time:2026-11-23T14:29:59+01:00 (without an offset: UTC); PostgreSQL also: immediate,"
        " lsn:16/B374D848, xid:12345, name:RESTORE-POINT; Redis also: offset:123456",
    )  # fmt: skip


def add_timeline(parser: argparse._ActionsContainer) -> list[argparse.Action]:
    """What goes with ``--to`` for PostgreSQL; the options."""
    timeline = parser.add_argument(
        "--timeline", metavar="N", type=whole_number, help="follow this one; default: the newest"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--inclusive", dest="inclusive", action="store_true", default=True,
        help="of a time, LSN or transaction: with what is exactly there (default)",
    )  # fmt: skip
    return [
        timeline,
        which.add_argument("--exclusive", dest="inclusive", action="store_false", help="without it"),
    ]


def ulid_prefix(text: str) -> str:
    """The beginning of a snapshot's ULID, in the alphabet of ULIDs."""
    if re.fullmatch(r"[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{1,26}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the ULID of a snapshot or its beginning")
    return text.upper()


def snapshot_name(text: str) -> str:
    """``latest``, or the beginning of a ULID."""
    return text.lower() if text.lower() == "latest" else ulid_prefix(text)


def whole_number(text: str) -> int:
    """A number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return int(text)


def _suggested(message: str) -> str:
    """*message* with the nearest choice instead of all of them."""
    m = re.fullmatch(r"argument (?P<what>\S+): invalid choice: (?P<given>'.*') \(choose from (?P<known>.*)\)", message)
    if m is None:
        return message
    known = [word.strip("' ") for word in m["known"].split(",")]
    close = difflib.get_close_matches(m["given"].strip("'"), known, n=1, cutoff=0.5)
    what = "command" if m["what"] == "COMMAND" else m["what"]
    return f"no {what} {m['given']}" + (f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}")
