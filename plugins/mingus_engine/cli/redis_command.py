"""``redis``: the append-only file and the command stream of a Redis source."""

from __future__ import annotations

import argparse

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Parser, Subparsers, command
from mingus_engine.cli.session import Session


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
