"""``restore SOURCE --into`` for Redis: keys into a server that runs; called by ``restore_redis``."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import UsageError, whole_number
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options."""
    group = parser.add_argument_group(
        "Redis, into a running server",
        "The RDB of a snapshot is streamed into the server that --into names: a destination or source of the settings,"
        " or redis://[USER@]HOST[:PORT], rediss:// (TLS), unix:///SOCKET (password: REDISCLI_AUTH).",
    )
    return [
        group.add_argument(
            "--keys", metavar="PATTERN", action="append", default=[],
            help="only keys that match, as of KEYS ('session:*'); may be repeated; default: every key",
        ),
        group.add_argument(
            "--database", metavar="N[=M]", action="append", default=[], type=_database,
            help="only database N of the snapshot, into M; may be repeated; default: all, each into its own",
        ),
        group.add_argument("--rate", metavar="KEYS", type=whole_number, help="at most so many keys per second"),
        group.add_argument(
            "--rate-bytes", metavar="BYTES", type=whole_number, help="at most so many bytes per second"
        ),
        group.add_argument("--functions", action="store_true", help="load the libraries of functions, too"),
    ]  # fmt: skip


def require_none(args: argparse.Namespace) -> None:
    """:raises UsageError: an option for a running server, without one."""
    if args.keys or args.database or args.conflict != "fail" or args.rate or args.rate_bytes or args.functions:
        raise UsageError("--keys, --database, --conflict, --rate, --rate-bytes and --functions need --into SERVER")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the restore."""
    if args.directory is not None:
        raise UsageError("say DIRECTORY or --into SERVER, not both")
    if args.form or args.shard or args.configuration or args.acl:
        raise UsageError("--form, --shard, --configuration and --acl are for a DIRECTORY")
    chosen = [number for number, _ in args.database]
    if len(set(chosen)) != len(chosen):
        raise UsageError("--database names a database twice")
    from mingus_engine.jobs.redis.restore_into import restore_into

    report = session.run(
        lambda context: restore_into(
            session.settings, args.source, into=args.into, repository=args.repository, snapshot=args.snapshot,
            to=args.to, keys=args.keys, databases=chosen, database_map={n: to for n, to in args.database if n != to},
            conflict=args.conflict, rate_keys_per_s=args.rate or 0, rate_bytes_per_s=args.rate_bytes or 0,
            functions=args.functions, dry_run=args.dry_run, context=context,
        )
    ).as_dict()  # fmt: skip
    session.console.document(report)
    _show(session.console, report)
    return 0


def _show(console: Console, report: dict[str, Any]) -> None:
    dry_run, conflict = report["dry_run"], report["conflict"]
    number = output.number
    pairs = [
        *((("target", str(report["target"])),) if report.get("target") else ()),
        ("snapshot", str(report["snapshot"])),
        ("repository", str(report["repository"])),
        ("destination", str(report["destination"])),
        *((f"database {name}", f"{number(count)} keys") for name, count in report["databases"].items()),
    ]
    if dry_run:
        becomes = {"fail": "in the way", "skip": "to be skipped", "replace": "to be replaced"}[conflict]
        pairs += [
            ("would restore", f"{number(report['selected'])} keys"),
            ("there already", f"{number(report['conflicts'])} keys, {becomes}"),
        ]
    else:
        pairs += [
            ("restored", f"{number(report['restored'])} keys"),
            *((("replaced", f"{number(report['replaced'])} keys"),) if conflict == "replace" else ()),
            *((("skipped", f"{number(report['skipped'])} keys"),) if conflict == "skip" else ()),
        ]
    pairs += [
        *((("expired", f"{number(report['expired'])} keys, left out"),) if report["expired"] else ()),
        *((("not asked for", f"{number(report['other'])} keys"),) if report["other"] else ()),
        *((("functions", f"{number(report['functions'])} libraries"),) if report["functions"] else ()),
    ]
    if not dry_run:
        pairs += [
            ("sent", output.size(report["bytes_sent"])),
            ("duration", f"{output.duration(report['duration_s'])}, {number(report['keys_per_s'])} keys/s"),
        ]
    console.lines(output.fields(pairs))
    if dry_run:
        console.line("Nothing was written.")


def _database(text: str) -> tuple[int, int]:
    """``3`` or ``3=0``."""
    number, equals, to = text.partition("=")
    if not number.isdecimal() or not (to.isdecimal() if equals else True):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form N or N=M")
    return int(number), int(to) if equals else int(number)
