"""``verify``: prove a snapshot, by default by restoring it."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, add_snapshot, add_target, add_timeline, command
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import VerificationFailed

_LEVELS = ("L0", "L1", "L2", "L3", "L4")


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "verify", "prove a snapshot by restoring and checking it", run,
        more="L0: objects are there; L1: their stored SHA-256; L2: they decrypt and hash to what was recorded;"
        " L3: restored, every file compared; L4: a server starts on it, replays WAL, and its pages, indexes and"
        " invariants are right. The proof is stored in the repository.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="its id in the settings")
    parser.add_argument("--level", choices=_LEVELS, help="how far up; default: verify.level of the source (L4)")
    add_repository(parser, "which copy; default: verify.repository of the source, else the last of its chain")
    add_snapshot(parser, "which snapshot; default: the newest")
    add_target(parser, "recover to this moment and check that the server ends exactly there; also random[:SEED]")
    add_timeline(parser)
    parser.add_argument(
        "--whole", action="store_true",
        help="of files: restore all of it, also where verify.sample_share lets tests take turns",
    )  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    settings, wanted = session.settings, session.settings.stored_source(args.source).verify
    from mingus_engine.jobs.verify import verify

    console = session.console
    try:
        report = session.run(
            lambda context: verify(
                settings, args.source,
                repository=args.repository or wanted.repository or settings.chain(args.source)[-1],
                snapshot=args.snapshot, level=args.level or ("L4" if args.to else wanted.level), context=context,
                to=args.to, timeline=args.timeline, inclusive=args.inclusive, whole=args.whole,
            )
        )  # fmt: skip
    except VerificationFailed as error:
        failed = getattr(error, "report", None)
        if failed is None:
            raise
        document = failed.as_dict()
        _show(console, document)
        raise Failed(error, document) from error
    document = report.as_dict()
    console.document(document)
    _show(console, document)
    return 0


def _show(console: Console, report: dict[str, Any]) -> None:
    pairs = [
        *((("target", str(report["target"])),) if report.get("target") else ()),
        ("snapshot", str(report["snapshot"])),
        ("repository", str(report["repository"])),
        ("level", str(report["level"])),
        ("result", "proven" if report["ok"] else "NOT GOOD"),
    ]
    if sample := report.get("sample"):
        pairs.append(("share", f"{sample['part'] + 1} of {sample['of']}, round {sample['cycle']}: counts as L1"))
    pairs += [("read", output.size(report["bytes_read"]))] if report.get("bytes_read") else []
    pairs += [(label, output.duration(report[key])) for label, key in _TIMES if report.get(key) is not None]
    pairs += [("proof", str(report["proof"]))] if report.get("proof") else []
    console.lines(output.fields(pairs))
    if report.get("checks"):
        console.line()
        console.lines(check_lines(report["checks"]))


_TIMES = (("RTO", "rto_s"), ("RPO", "rpo_s"), ("duration", "duration_s"))
