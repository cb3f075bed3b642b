"""``windows``: from which moment to which moment each source can be restored."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session
from mingus_engine.errors import NoSuchSnapshot

if TYPE_CHECKING:
    from mingus_engine.jobs.context import JobContext, Report
    from mingus_engine.settings import Settings


def add(commands: Subparsers) -> None:
    """The parser."""
    parser = command(
        commands, "windows", "show from when to when a source can be restored", run,
        more="Computed from what is stored: snapshots, write-ahead log and timeline histories of PostgreSQL; command"
        " streams and append-only files of Redis. Any moment inside a window is a target of `restore --to`; none"
        " between two windows is.",
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="only of this source; default: of all")
    add_repository(parser, "only in this one; default: in each of the source's chain")


def run(args: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    settings = session.settings
    chosen = [settings.stored_source(args.source).id] if args.source else [source.id for source in settings.sources]
    if args.repository:
        settings.repository(args.repository)
    reports = [
        session.run(lambda context: _windows(settings, source, args.repository, context)).as_dict()  # noqa: B023
        for source in chosen
    ]
    session.console.document({"sources": reports})
    for report in reports:
        _show(session.console, report)
    return 0


def _windows(settings: Settings, source: str, repository: str | None, context: JobContext) -> Report:
    from mingus_engine.jobs import kinds

    try:
        kind = kinds.kind_of(settings, source, repository, context)
    except NoSuchSnapshot:
        kind = "postgres"  # there is nothing to show, of whatever kind
    return kinds.WINDOWS.get(kind, kinds.WINDOWS["postgres"])(settings, source, repository, context=context)


def _show(console: Console, report: dict[str, Any]) -> None:
    listed = [(place, kind, found) for place in report["repositories"] for kind, found in _in_order(place)]
    of_redis = any("replid" in found for _, _, found in listed)
    history, unit = ("HISTORY", "OFFSET") if of_redis else ("TIMELINE", "LSN")
    rows = [
        (report["source"], place["repository"], _history(found), *_range(found, unit.lower()), _snapshots(found, kind))
        for place, kind, found in listed
    ]
    if rows:
        headers = ("SOURCE", "REPOSITORY", history, "FROM", "TO", f"FROM {unit}", f"TO {unit}", "SNAPSHOTS")
        console.lines(output.table(headers, rows))
    else:
        console.line(f"Nothing of {report['source']} can be restored.")
    if report.get("rpo_s") is not None:
        console.line(f"The newest restorable moment is {output.duration(report['rpo_s'])} old.")
    for place in report["repositories"]:
        for ulid, why in place["unusable"].items():
            console.warn(f"snapshot {ulid} in {place['repository']} opens no window: {why}")
        for what in place["damaged"].values():
            console.warn(f"damaged in {place['repository']}: {what}")
    for repository, why in report["unreachable"].items():
        console.warn(f"repository {repository} was not read: {why}")


# What tells the histories of a source apart, and where a window begins.
_SAME = (("system_id", "timeline"), ("shard", "replid"))


def _in_order(place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each window, before it the gap that ends with it."""
    for window in place["windows"]:
        keys, start, end = (
            (_SAME[1], "start_offset", "end_offset") if "replid" in window else (_SAME[0], "start_lsn", "end_lsn")
        )
        for gap in place["gaps"]:
            if all(gap[key] == window[key] for key in keys) and gap[end] == window[start]:
                yield "gap", gap
        yield "window", window


def _history(found: dict[str, Any]) -> str:
    if "replid" not in found:
        return str(found["timeline"])
    shard = f"{found['shard']} " if found["shard"] else ""
    # Offsets of an append-only file are its own.
    return shard + ("file" if found.get("form") == "aof" else found["replid"][:8])


def _range(found: dict[str, Any], unit: str) -> tuple[str, str, str, str]:
    start, end = str(found[f"start_{unit}"]), str(found[f"end_{unit}"])
    return found["start_time"] or "unknown", found["end_time"] or "unknown", start, end


def _snapshots(found: dict[str, Any], kind: str) -> str:
    return "GAP" if kind == "gap" else str(len(found["snapshots"]))
