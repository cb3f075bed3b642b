"""``restore``: a snapshot, or a moment, becomes a data directory, or goes into a server. What can be said about where
and how depends on the kind of source; each kind has a module of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from mingus_engine.cli import restore_files, restore_postgres, restore_redis
from mingus_engine.cli.arguments import Subparsers, UsageError, add_repository, add_snapshot, add_target, command
from mingus_engine.cli.session import Session

# Each has ``add(parser)``, which gives the options it added, and ``run(args, session)``.
_KINDS: Mapping[str, ModuleType] = {"postgres": restore_postgres, "redis": restore_redis, "files": restore_files}


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "restore", "restore a snapshot, or any moment of a window, into an empty directory or a server", run,
        more="Nothing is written before everything is known to fit and the target is known to be reached; what failed"
        " half-way is removed.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="its id in the settings")
    parser.add_argument(
        "directory", metavar="DIRECTORY", type=Path, nargs="?", help="new data directory: empty or not there"
    )
    add_snapshot(parser, "which snapshot; default: the newest")
    add_repository(parser, "from where; default: the first reachable one of the chain")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written where")
    add_target(parser, "recover to this moment; default: to the end of the snapshot itself")
    parser.add_argument(
        "--into", metavar="CONNECTION",
        help="into a running server: a destination or source of the settings, or a URI without a password: of libpq"
        " (PGPASSWORD, PGPASSFILE), or redis://, rediss://, unix:// (REDISCLI_AUTH)",
    )  # fmt: skip
    parser.set_defaults(of_kind={kind: module.add(parser) for kind, module in _KINDS.items()})


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    session.settings.stored_source(args.source)
    if args.repository:
        session.settings.repository(args.repository)
    from mingus_engine.jobs import kinds

    kind = session.run(lambda context: kinds.kind_of(session.settings, args.source, args.repository, context))
    _refuse_foreign(args, kind)
    return int(_KINDS[kind].run(args, session))


def _refuse_foreign(args: argparse.Namespace, kind: str) -> None:
    """:raises UsageError: an option that means nothing for *kind*."""
    of_kind: Mapping[str, Sequence[argparse.Action]] = args.of_kind
    own = {action.dest for action in of_kind[kind]}
    for other, actions in of_kind.items():
        for action in actions:
            if action.dest not in own and getattr(args, action.dest) != action.default:
                raise UsageError(f"{action.option_strings[0]} is for sources of kind {other}; {args.source} is {kind}")
