"""``restore`` for Redis: a data directory; keys into a running server are :mod:`.into_redis`."""

from __future__ import annotations

import argparse
from typing import Any

from mingus_engine.cli import into_redis, output
from mingus_engine.cli.arguments import UsageError
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session


def add(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of Redis alone."""
    group = parser.add_argument_group("Redis")
    return [
        group.add_argument(
            "--form", choices=("rdb", "aof"),
            help="as an RDB, or as an append-only file whose base the RDB is; default: as the server was configured",
        ),
        group.add_argument(
            "--shard", metavar="N",
            help="of a cluster: only this one, into DIRECTORY itself; default: all, each in a directory of its own",
        ),
        group.add_argument(
            "--configuration", action="store_true",
            help="also write the stored configuration (redis.conf, nodes.conf): it holds passwords",
        ),
        group.add_argument("--acl", action="store_true", help="also write the users (users.acl)"),
        *into_redis.add(parser),
    ]  # fmt: skip


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if args.into:
        return into_redis.run(args, session)
    into_redis.require_none(args)
    if args.directory is None:
        raise UsageError("say where to: DIRECTORY, or --into SERVER")
    from mingus_engine.jobs.redis.restore import restore_redis

    report = session.run(
        lambda context: restore_redis(
            session.settings, args.source, directory=args.directory.absolute(), repository=args.repository,
            snapshot=args.snapshot, to=args.to, dry_run=args.dry_run, shard=args.shard, form=args.form,
            configuration=args.configuration, acl=args.acl, context=context,
        )
    ).as_dict()  # fmt: skip
    session.console.document({**report, "dry_run": args.dry_run})
    _show(session.console, report, dry_run=args.dry_run)
    return 0


def _show(console: Console, report: dict[str, Any], *, dry_run: bool) -> None:
    plan = report["plan"]
    pairs = [
        *((("target", str(report["target"])),) if report.get("target") else ()),
        *(("end", str(recovery["note"])) for recovery in plan["recovery"]),
        ("snapshot", f"{report['snapshot']} ({plan['kind']})"),
        ("repository", str(report["repository"])),
        ("directory", str(report["directory"])),
        *((server["shard"] or "form", _form(server, plan["version"])) for server in plan["servers"]),
        *((("also written", ", ".join(plan["on_request"])),) if plan["on_request"] else ()),
    ]
    if dry_run:
        pairs += [
            ("would write", f"{output.number(plan['files'])} files, {output.size(plan['bytes'])}"),
            *((("commands", output.size(plan["command_bytes"])),) if plan["command_bytes"] else ()),
        ]
    else:
        pairs += [
            ("files", output.number(report["files"])),
            ("written", output.size(report["bytes_written"])),
            *((("commands", output.size(report["command_bytes"])),) if report["command_bytes"] else ()),
            ("duration", output.duration(report["duration_s"])),
        ]
    console.lines(output.fields(pairs))
    console.lines(f"note: {output.safe(note)}" for note in report["notes"])
    if dry_run:
        console.line("Nothing was written.")
        return
    console.line()
    console.lines(f"Start it with: {output.safe(hint)}" for hint in report["start_hints"])


def _form(server: dict[str, Any], version: str) -> str:
    said = {"rdb": "RDB", "aof": "append-only file"}[server["form"]]
    return f"{said} of {version}" + (f" (RDB version {server['rdb_version']})" if server["rdb_version"] else "")
