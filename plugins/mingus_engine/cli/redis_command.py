"""``redis``: the append-only file and the command stream of a Redis source."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Parser, Subparsers, command
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.redis.stream import RedisStreamStatus


def add(commands: Subparsers) -> None:
    """The parsers."""
    top = commands.add_parser("redis", help="keep the commands of a Redis: the way to lose seconds, not a day")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, title="commands", parser_class=Parser)
    aof = command(
        verbs, "aof", "back up a source's append-only file, or drain its command stream up to now", run_aof,
        more="The multi-part append-only file where redis.data_directory can be read; elsewhere the command stream,"
        " continued where what is stored ends.",
    )  # fmt: skip
    aof.set_defaults(command="redis aof")
    aof.add_argument("source", metavar="SOURCE", help="its id in the settings")

    stream = command(
        verbs, "stream", "record a source's commands for ever, seconds behind the server", run_stream,
        more="A service: waits out restarts, failovers, network cuts and stores that are down; takes a snapshot where"
        " what it records has none to follow. SIGTERM stores what is left and ends it. Says where it is once a minute;"
        " with --json a line of JSON each time.",
    )  # fmt: skip
    stream.set_defaults(command="redis stream")
    stream.add_argument("source", metavar="SOURCE", help="its id in the settings")


def run_aof(args: argparse.Namespace, session: Session) -> int:
    """Run ``redis aof``."""
    from mingus_engine.jobs.redis.back_up_aof import RedisAofReport, back_up_aof

    report = session.run(lambda context: back_up_aof(session.settings, args.source, context=context))
    console = session.console
    console.document(report.as_dict())
    stored = [("stored", output.size(report.bytes_stored))]
    if isinstance(report, RedisAofReport):
        first = ("snapshot", f"{report.snapshot} ({report.kind}) in {report.repository}")
        stored.append(("reused", output.size(report.bytes_reused)))
        if report.put_right:
            stored.append(("put right", report.put_right))
    else:
        first = ("recorded", f"to offset {report.position} of {report.replid} in {report.repository}")
        if report.base:
            stored.append(("snapshot", report.base))
        for gap in report.gaps:
            console.warn(f"GAP behind offset {gap['from']} of {gap['replid']}: {gap['why']}")
    warnings = [("warning", f"{c['name']}: {c['detail']}") for c in report.checks if not c["ok"]]
    console.lines(output.fields((first, ("executed before", report.reaches or "not known"), *stored, *warnings)))
    return 0


def run_stream(args: argparse.Namespace, session: Session) -> int:
    """Run ``redis stream``."""
    from mingus_engine.jobs.redis.stream import stream

    console = session.console

    def status(now: RedisStreamStatus) -> None:
        console.json_line(now.as_dict())
        behind = f", {output.size(now.lag_bytes)} behind" if now.lag_bytes else ""
        console.line(
            f"{now.source}: recorded to {now.stored_to} of {now.replid[:8]}… in {now.repository}{behind};"
            f" executed before {now.reaches or 'not known'}; {now.slices} slices, {now.containers} containers,"
            f" {output.size(now.stream_bytes)} of commands"
            + ("" if now.has_base else "; NO SNAPSHOT to follow yet")
            + (f"; {now.gaps} GAPS" if now.gaps else "")
            + (f"; {now.failures} failures" if now.failures else "")
        )
        console.flush()

    report = stream(session.settings, args.source, context=session.context(), on_status=status)
    console.json_line(report.as_dict())
    console.line(f"{report.source}: stopped; recorded to {report.stored_to} of {report.replid}")
    return 0
