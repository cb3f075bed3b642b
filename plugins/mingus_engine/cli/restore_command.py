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

_CONFLICTS: Mapping[str, Sequence[str]] = {
    "redis": ("fail", "skip", "replace"),
    "files": ("fail", "skip", "newer", "overwrite"),
}


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
    delta = parser.add_argument(
        "--delta", action="store_true",
        help="PostgreSQL: DIRECTORY holds this cluster (no server may run on it); files: the place holds them; or"
        " either a restore that was interrupted: write only what differs, remove what is not in the snapshot",
    )  # fmt: skip
    conflict = parser.add_argument(
        "--conflict", choices=("fail", "skip", "newer", "overwrite", "replace"), default="fail",
        help="when a key (Redis, with --into) or a file is there already: write nothing at all (default; of Redis"
        " everything goes into an empty server only then), or skip what is there; Redis: replace it; files: overwrite"
        " it where the snapshot's is newer, or always (with --delta: compare contents, whatever size and time say)",
    )  # fmt: skip
    of_kind = {kind: module.add(parser) for kind, module in _KINDS.items()}
    for kind in ("postgres", "files"):
        of_kind[kind].append(delta)
    for kind in _CONFLICTS:
        of_kind[kind].append(conflict)
    parser.set_defaults(of_kind=of_kind)


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    session.settings.stored_source(args.source)
    if args.repository:
        session.settings.repository(args.repository)
    from mingus_engine.jobs import kinds

    kind = session.run(lambda context: kinds.kind_of(session.settings, args.source, args.repository, context))
    _refuse_foreign(args, kind)
    if args.conflict not in _CONFLICTS.get(kind, (args.conflict,)):
        raise UsageError(f"--conflict {args.conflict} is not for {kind}: {', '.join(_CONFLICTS[kind])}")
    return int(_KINDS[kind].run(args, session))


def _refuse_foreign(args: argparse.Namespace, kind: str) -> None:
    """:raises UsageError: an option that means nothing for *kind*."""
    of_kind: Mapping[str, Sequence[argparse.Action]] = args.of_kind
    own = {action.dest for action in of_kind[kind]}
    for other, actions in of_kind.items():
        for action in actions:
            if action.dest not in own and getattr(args, action.dest) != action.default:
                raise UsageError(f"{action.option_strings[0]} is for sources of kind {other}; {args.source} is {kind}")
