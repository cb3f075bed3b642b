"""``backup``: back up a source, or a group of them at one moment, in full or what changed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, UsageError, command
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.backing_up import BackUpReport


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "backup", "back up a source", run,
        more="It goes to the first reachable repository of the source's chain. Either kind restores by itself.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="its id in the settings")
    parser.add_argument(
        "--group", metavar="NAME", help="all members of this group of the settings, between its hooks: one moment"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--full", action="store_true", help="store everything again (default)")
    kinds.add_argument(
        "--incremental", action="store_true",
        help="store what changed since the newest snapshot; everything where there is none to build on",
    )  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if bool(args.source) == bool(args.group):
        raise UsageError("name a SOURCE or a --group, one of them", hint="`mingus backup --help` shows the arguments")
    if args.group:
        return _run_group(args, session)
    session.settings.source(args.source)
    from mingus_engine.jobs.back_up import back_up

    report = session.run(
        lambda context: back_up(session.settings, args.source, context=context, incremental=args.incremental)
    )
    session.console.document(report.as_dict())
    _show(session.console, report)
    session.console.note(f"not proven yet: `mingus verify {args.source}` restores it and checks")
    return 0


def _run_group(args: argparse.Namespace, session: Session) -> int:
    from mingus_engine.jobs.groups import back_up_group

    report = session.run(
        lambda context: back_up_group(session.settings, args.group, context=context, incremental=args.incremental)
    )
    console, group = session.console, report.group
    console.document(report.as_dict())
    console.lines(
        output.fields((
            ("group", f"{group['name']}, run {group['id']}"),
            ("stood still", f"{group['quiesced_from']} to {group['quiesced_until']}"),
            *((member, f"snapshot {done['snapshot']}, {done['kind']}, {output.size(done['bytes_stored'])} stored")
              for member, done in report.members.items()),
            ("duration", output.duration(report.duration_s)),
        ))
    )  # fmt: skip
    _warn_of_hooks(console, group)
    for member, done in report.members.items():
        if done["flagged"]:
            console.warn(f"snapshot {done['snapshot']} of {member} is flagged: a check failed while it was taken")
    console.note(f"`mingus groups {group['name']}` shows how to restore them together")
    return 0


def _warn_of_hooks(console: Console, facts: Mapping[str, Any] | None) -> None:
    for line in (facts or {}).get("failed", ()):
        console.warn(f"{line}: what was quiesced may stand still; the next backup runs it again")


def _show(console: Console, report: BackUpReport) -> None:
    built_on = f"{report.parent}, by {report.method}, {report.depth} since the full" if report.parent else ""
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
    _warn_of_hooks(console, report.hooks)


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
