"""``wal``: archive the write-ahead log of a source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Parser, Subparsers, command, whole_number
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import MingusError, SettingsError

if TYPE_CHECKING:
    from mingus_engine.jobs.postgres.archive_wal import ArchiveWalReport
    from mingus_engine.jobs.postgres.stream_wal import StreamStatus
    from mingus_engine.settings import Settings


def add(commands: Subparsers) -> None:
    """The parsers."""
    top = commands.add_parser("wal", help="archive write-ahead log: the way to lose seconds, not a day")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, title="commands", parser_class=Parser)
    archive = command(
        verbs, "archive", "archive a source's log up to now, ship it, and find a marker in every copy", run_archive,
        more="Makes the replication slot that holds the log until it is stored.",
    )  # fmt: skip
    archive.set_defaults(command="wal archive")
    archive.add_argument("source", metavar="SOURCE", help="its id in the settings")
    archive.add_argument("--no-canary", action="store_true", help="write no marker into the log")
    archive.add_argument("--no-ship", action="store_true", help="store it in the first reachable repository only")
    stream = command(
        verbs, "stream", "archive a source's log for ever, seconds behind the server", run_stream,
        more="A service: waits out restarts, network cuts, promotions and stores that are down. SIGTERM stores what is"
        " left and ends it. Says where it is once a minute; with --json a line of JSON each time.",
    )  # fmt: skip
    stream.set_defaults(command="wal stream")
    stream.add_argument("source", metavar="SOURCE", help="its id in the settings")
    fetch = command(
        verbs, "fetch", "give a server in recovery the file it asks for (restore_command)", run_fetch,
        more="restore_command = 'mingus wal fetch %f %p'. Ends with 1 where the stored log ends, with 200 for any"
        " trouble, which stops the recovery instead of ending it early. What follows is fetched ahead.",
    )  # fmt: skip
    fetch.set_defaults(command="wal fetch")
    fetch.add_argument("file", metavar="%f", help="name of the file")
    fetch.add_argument("path", metavar="%p", type=Path, help="where to, relative to the data directory")
    fetch.add_argument("--source", metavar="SOURCE", help="its id in the settings; needed where there are several")
    fetch.add_argument("--missing-status", metavar="N", type=whole_number, default=1, help="instead of 1")
    fetch.add_argument("--no-prefetch", action="store_true", help="fetch nothing ahead")
    fetch.add_argument("--ahead", action="store_true", help=argparse.SUPPRESS)
    push = command(
        verbs, "push", "store one file of pg_wal: an archive_command", run_push,
        more="archive_command = 'mingus wal push %p --source ledger'. Ends with 0 only when the file is durable in the"
        " first reachable repository, or is there with the same bytes; other bytes are refused.",
    )  # fmt: skip
    push.set_defaults(command="wal push")
    push.add_argument("file", metavar="FILE", type=Path, help="its path: %%p")
    push.add_argument("--source", metavar="SOURCE", help="id of the source; default: the only one of the settings")


def run_archive(args: argparse.Namespace, session: Session) -> int:
    """Run ``wal archive``."""
    from mingus_engine.jobs.postgres.archive_wal import archive_wal, refuse_incomplete

    canary = False if args.no_canary else None
    report = session.run(
        lambda context: archive_wal(
            session.settings, args.source, context=context, canary=canary, ship=not args.no_ship
        )
    )
    _show(session, report)
    try:
        refuse_incomplete(report)
    except MingusError as error:
        raise Failed(error, report.as_dict()) from None
    session.console.document(report.as_dict())
    return 0


def run_fetch(args: argparse.Namespace, session: Session) -> int:
    """Run ``wal fetch``. Whatever happens must not look like the end of the log."""
    from mingus_engine.jobs.postgres import fetch_wal

    try:
        settings = session.settings
        source = _source(args, settings)
        context = session.context()
        if args.ahead:
            fetch_wal.prefetch(settings, source, args.file, context=context)
            return 0
        # At the beginning the server waits for both: this file, and that process to come up.
        early = not args.no_prefetch and fetch_wal.is_first()
        if early:
            fetch_wal.start_prefetching(source, args.file, args.config)
        if not fetch_wal.fetch(settings, source, args.file, args.path, context=context):
            return int(args.missing_status)
        if not args.no_prefetch and not early:
            fetch_wal.start_prefetching(source, args.file, args.config)
    except MingusError as error:
        session.console.error(f"{args.file}: {error.message}", error.hint)
        return fetch_wal.TROUBLE
    except Exception as error:  # noqa: BLE001 - the edge of the process: a server in recovery must stop
        session.console.error(f"{args.file}: unexpected {type(error).__name__}: {error}", "")
        return fetch_wal.TROUBLE
    return 0


def run_stream(args: argparse.Namespace, session: Session) -> int:
    """Run ``wal stream``."""
    from mingus_engine.jobs.postgres.stream_wal import stream_wal

    console = session.console

    def status(now: StreamStatus) -> None:
        console.json_line(now.as_dict())
        behind = f", {output.size(now.lag_bytes)} behind" if now.lag_bytes else ""
        console.line(
            f"{now.source}: archived to {now.archived_to} on timeline {now.timeline} in {now.repository}{behind};"
            f" committed before {now.sampled_at or 'not known'}; {now.segments} segments, {now.slices} slices,"
            f" {output.size(now.wal_bytes)} of log; slot {now.wal_status}"
            + (f"; {now.gaps} GAPS" if now.gaps else "")
            + (f"; {now.failures} failures" if now.failures else "")
        )
        console.flush()

    report = stream_wal(session.settings, args.source, context=session.context(), on_status=status)
    console.json_line(report.as_dict())
    console.line(f"{report.source}: stopped; archived to {report.archived_to} on timeline {report.timeline}")
    return 0


def run_push(args: argparse.Namespace, session: Session) -> int:
    """Run ``wal push``."""
    from mingus_engine.jobs.postgres.push_wal import push_wal

    settings = session.settings
    try:
        report = push_wal(settings, _source(args, settings), args.file, context=session.context())
    except OSError as error:
        raise SettingsError(f"cannot read {args.file}: {error.strerror}", hint="") from None
    session.console.document(report.as_dict())
    return 0


def _source(args: argparse.Namespace, settings: Settings) -> str:
    """The source that a server's command means: the one it names, or the only one with such a log."""
    known = settings.of_kind("postgres")
    if args.source is None and len(known) != 1:
        raise SettingsError("the log of which source?", hint=f"say --source: {', '.join(known)}")
    return settings.source(args.source or known[0], "postgres").id


def _show(session: Session, report: ArchiveWalReport) -> None:
    console = session.console
    for gap in report.gaps:
        console.warn(f"GAP of {output.size(gap['bytes'])} from {gap['from']} to {gap['to']}: {gap['why']}")
    console.lines(
        output.fields((
            ("archived to", f"{report.archived_to} on timeline {report.timeline}"),
            ("committed before", report.sampled_at or "not known"),
            ("stored", f"{report.segments} segments, {report.slices} slices, {output.size(report.wal_bytes)} of log"),
            ("lag", output.size(report.lag_bytes)),
            ("slot", f"{report.slot} ({report.wal_status})" + (", held by a streaming archiver" * report.streaming)),
            *(("warning", f"{check['name']}: {check['detail']}") for check in report.checks if not check["ok"]),
        ))
    )  # fmt: skip
    rows = [
        (
            entry["name"],
            output.yes_no(entry["ok"]),
            (output.yes_no(entry["canary"]["ok"]) if "canary" in entry else "-"),
            entry.get("error") or (entry["canary"]["detail"] if "canary" in entry else ""),
        )
        for entry in report.repositories
    ]
    console.line()
    console.lines(output.table(("REPOSITORY", "COMPLETE", "CANARY", "DETAIL"), rows))
