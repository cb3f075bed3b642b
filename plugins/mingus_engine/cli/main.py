"""The entry point: parse, run one command, turn what it raises into a line, a hint and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import mingus_engine
from mingus_engine.cli import (
    alert_command,
    arguments,
    backup_command,
    check_command,
    files_command,
    groups_command,
    health_command,
    init_command,
    keys_command,
    recovery_test_command,
    redis_command,
    restore_command,
    runs_command,
    ship_command,
    signals,
    snapshots_command,
    verify_command,
    wal_command,
    windows_command,
)
from mingus_engine.cli.console import Console, OutputClosed, error_document
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import MingusError

_COMMANDS = (
    init_command,
    check_command,
    health_command,
    backup_command,
    snapshots_command,
    files_command,
    groups_command,
    ship_command,
    wal_command,
    redis_command,
    verify_command,
    recovery_test_command,
    windows_command,
    restore_command,
    runs_command,
    keys_command,
    alert_command,
)
_EXIT_CODES = """\
exit codes: 0 done · 1 unexpected · 2 usage or settings · 3 keys · 4 repository's store · 5 store full ·
6 damaged or missing object · 7 source · 8 restore target, or nothing to restore · 9 verification failed ·
10 newer format · 11 commit refused · 12 program missing · 13 alert not sent ·
14 unhealthy · 130 interrupted"""


def parser() -> arguments.Parser:
    """The parser of all commands."""
    top = arguments.Parser(
        prog="mingus", description="Back up PostgreSQL, ship, verify by restoring, restore.", epilog=_EXIT_CODES
    )
    top.add_argument("--version", action="version", version=f"mingus {mingus_engine.__version__}")
    arguments.add_globals(top, top=True)
    commands = top.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for module in _COMMANDS:
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the process's exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    console = Console(as_json="--json" in argv, verbose="--verbose" in argv)
    try:
        args = parser().parse_args(argv)
        console = Console(as_json=args.json, quiet=args.quiet, verbose=args.verbose)
        session = Session(args, console)
        with signals.stopping(session.cancel, console.note):
            code: int = args.run(args, session)
            console.flush()
        return code
    except OutputClosed as closed:
        return closed.exit_code
    except KeyboardInterrupt:
        return signals.INTERRUPTED
    except MingusError as error:
        return _fail(console, error)
    except Exception as error:  # noqa: BLE001 - the edge of the process
        return _fail(console, _unexpected(error))


def _fail(console: Console, error: MingusError) -> int:
    if console.verbose:
        console.trace("".join(traceback.format_exception(error.__cause__ or error)))
    shown = error.error if isinstance(error, Failed) else error
    document = dict(error.document) if isinstance(error, Failed) else {}
    console.error(shown.message, shown.hint)
    try:
        console.document({**document, "error": error_document(shown)})
        console.flush()
    except (OutputClosed, MingusError):
        return shown.exit_code
    return shown.exit_code


def _unexpected(error: Exception) -> MingusError:
    known = MingusError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a defect of the program: run the command again with --verbose and report the trace",
    )
    known.__cause__ = error
    return known
