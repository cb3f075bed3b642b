"""``backup``: back up a source, in full or what changed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.backing_up import BackUpReport


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "backup", "back up a source", run,
        more="It goes to the first reachable repository of the source's chain. Either kind restores by itself.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="its id in the settings")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--full", action="store_true", help="store everything again (default)")
    kinds.add_argument(
        "--incremental", action="store_true",
        help="store what changed since the newest snapshot; everything where there is none to build on",
    )  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    session.settings.source(args.source)
    from mingus_engine.jobs.back_up import back_up

    report = session.run(
        lambda context: back_up(session.settings, args.source, context=context, incremental=args.incremental)
    )
    console = session.console
    built_on = f"{report.parent}, by {report.method}, {report.depth} since the full" if report.parent else ""
    console.document(report.as_dict())
    console.lines(
        output.fields((
            ("snapshot", report.snapshot),
            ("kind", report.kind),
            *([("built on", built_on)] if built_on else []),
            ("repository", report.repository),
            ("files", output.number(report.files)),
            ("read", output.size(report.bytes_read)),
            ("stored", f"{output.size(report.bytes_stored)} (ratio {report.ratio:.2f})"),
            *([("reused", output.size(report.bytes_reused))] if report.bytes_reused else []),
            *_of_postgres(report),
            *_of_redis(report),
            *_of_files(report),
            ("duration", output.duration(report.duration_s)),
            ("flagged", output.yes_no(report.flagged)),
        ))
    )  # fmt: skip
    if report.checks:
        console.line()
        console.lines(check_lines(report.checks))
    for reason in report.reasons:
        console.note(reason if report.parent else f"full because: {reason}")
    if report.flagged:
        console.warn(f"snapshot {report.snapshot} is flagged: a check failed while it was taken")
    console.note(f"not proven yet: `mingus verify {args.source}` restores it and checks")
    return 0


def _of_postgres(report: BackUpReport) -> list[tuple[str, str]]:
    if report.kind.partition(" ")[0] != "postgres":
        return []
    from mingus_engine.jobs.postgres.back_up import PostgresBackUpReport

    if not isinstance(report, PostgresBackUpReport):
        return []
    return [
        *([] if report.bytes_received is None else [("received", output.size(report.bytes_received))]),
        ("WAL", output.size(report.wal_bytes)),
        ("LSN", f"{report.start_lsn} to {report.stop_lsn}, timeline {report.timeline}"),
    ]


def _of_files(report: BackUpReport) -> list[tuple[str, str]]:
    if report.kind.partition(" ")[0] != "files":
        return []
    from mingus_engine.jobs.files.back_up import FilesBackUpReport

    if not isinstance(report, FilesBackUpReport):
        return []
    return [
        ("changes", f"{report.new} new, {report.changed} changed, {report.removed} gone, {report.unread} not read"),
        *([("unreadable", output.number(report.unreadable))] if report.unreadable else []),
    ]


def _of_redis(report: BackUpReport) -> list[tuple[str, str]]:
    if report.kind.partition(" ")[0] != "redis":
        return []
    from mingus_engine.jobs.redis.back_up import RedisBackUpReport

    if not isinstance(report, RedisBackUpReport):
        return []
    return [
        ("server", f"{report.engine}, RDB {report.rdb_version}"),
        ("keys", output.number(report.keys)),
        *(
            (shard["name"] or "read from", f"{shard['role']} {shard['read_from']}, offset {shard['offset']}")
            for shard in report.shards
        ),
    ]
