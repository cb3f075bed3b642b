"""``list`` and ``show``: which snapshots there are, and what one of them is."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, add_repository, command, snapshot_name
from mingus_engine.cli.checks import check_lines
from mingus_engine.cli.console import Console
from mingus_engine.cli.session import Session

if TYPE_CHECKING:
    from mingus_engine.jobs.inspected import Copy, SnapshotDetails, SnapshotInfo


# A mapping of more values than this (the server's settings) is only counted.
_SHOWN_VALUES = 4


def add(commands: Subparsers) -> None:
    """The parsers."""
    listing = command(
        commands, "list", "list snapshots and where they are", run_list,
        more="Needs no key. A repository that cannot be reached is named on stderr; the others are listed.",
    )  # fmt: skip
    listing.add_argument("source", metavar="SOURCE", nargs="?", help="only of this source; default: of all")
    add_repository(listing, "only in this one; default: in all that may hold it")
    show = command(commands, "show", "show what is known of one snapshot", run_show)
    add_snapshot_argument(show)


def add_snapshot_argument(parser: argparse.ArgumentParser) -> None:
    """``SNAPSHOT`` and the options that say where to look for it."""
    parser.add_argument("snapshot", metavar="SNAPSHOT", type=snapshot_name, help="beginning of its ULID, or `latest`")
    parser.add_argument("--source", metavar="SOURCE", help="of this source; needed with `latest` if there are several")
    add_repository(parser, "read it from this one; default: the first that has it")


def run_list(args: argparse.Namespace, session: Session) -> int:
    """Run ``list``."""
    from mingus_engine.jobs.inspect import list_snapshots

    listing = session.run(
        lambda context: list_snapshots(session.settings, args.source, repository=args.repository, context=context)
    )
    console = session.console
    console.document({
        "snapshots": [info_document(info) for info in listing.snapshots],
        "unreachable": listing.unreachable,
        "damaged": listing.damaged,
    })  # fmt: skip
    if listing.snapshots:
        headers = ("SOURCE", "SNAPSHOT", "WRITTEN", "KIND", "STORED", "FLAGGED", "REPOSITORIES", "PROVEN")
        console.lines(output.table(headers, map(_row, listing.snapshots), right={4}))
    else:
        console.line(f"No snapshot{f' of {args.source}' if args.source else ''}.")
    for what in listing.damaged.values():
        console.warn(f"damaged: {what}")
    for repository, why in listing.unreachable.items():
        console.warn(f"repository {repository} was not read: {why}")
    return 0


def run_show(args: argparse.Namespace, session: Session) -> int:
    """Run ``show``."""
    from mingus_engine.jobs.inspect import show_snapshot

    details = session.run(
        lambda context: show_snapshot(
            session.settings, args.snapshot, source=args.source, repository=args.repository, context=context
        )
    )
    document = {f.name: getattr(details, f.name) for f in dataclasses.fields(details) if f.name != "info"}
    session.console.document({**info_document(details.info), **document})
    _show(session.console, details)
    return 0


def info_document(info: SnapshotInfo) -> dict[str, Any]:
    """A snapshot as JSON."""
    return dataclasses.asdict(info)


def _row(info: SnapshotInfo) -> tuple[str, ...]:
    return (
        info.source,
        info.snapshot,
        output.when(info.written_at),
        info.kind,
        output.size(info.stored_bytes),
        output.yes_no(info.flagged),
        ", ".join(c.repository + ("" if c.settled else " (unsettled)") for c in info.copies),
        _proven(info.copies),
    )


def _proven(copies: tuple[Copy, ...]) -> str:
    """The newest proof of each repository that has one."""
    told = [
        f"{c.proof.level} {'ok' if c.proof.ok else 'FAILED'} in {c.repository} {output.when(c.proof.at)}"
        for c in copies
        if c.proof
    ]
    return "; ".join(told) or "-"


def _show(console: Console, details: SnapshotDetails) -> None:
    info = details.info
    console.lines(
        output.fields((
            ("snapshot", info.snapshot),
            ("source", info.source),
            ("kind", info.kind),
            ("written", output.when(info.written_at)),
            ("flagged", output.yes_no(info.flagged)),
            ("proven", _proven(info.copies)),
            ("repositories", ", ".join(c.repository for c in info.copies)),
            ("read from", f"{details.repository} ({details.location})"),
            ("run", details.run),
            ("packs", f"{output.number(details.packs)}, {output.size(details.pack_bytes)}"),
            ("logs", f"{output.number(details.logs)}, {output.size(details.log_bytes)}"),
            ("digest", details.digest),
        ))
    )  # fmt: skip
    for title, values in (
        ("facts", details.facts), ("statistics", details.statistics), ("provenance", details.provenance)
    ):  # fmt: skip
        if values:
            console.line(f"\n{title}")
            console.lines(output.fields(_flat(values), indent="  "))
    if details.checks:
        console.line()
        console.lines(check_lines(details.checks))


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _text(str(key), value)) for key, value in values.items()]


def _text(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        if len(value) > _SHOWN_VALUES:
            return f"{len(value)} values, see --json"
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "-"
    if key == "git" and isinstance(value, list):
        return "; ".join(map(_clone, value))
    if isinstance(value, list):
        named = [str(v.get("name", v)) if isinstance(v, Mapping) else str(v) for v in value]
        return ", ".join(named) or "-"
    if isinstance(value, bool):
        return output.yes_no(value)
    if isinstance(value, int) and key.endswith("bytes"):
        return output.size(value)
    return str(value)


def _clone(found: Mapping[str, Any]) -> str:
    """A working tree of git: where, on which branch, at which commit, changed by how much."""
    dirty = found.get("dirty")
    changed = "changes unknown" if dirty is None else f"{dirty} changed" if dirty else "clean"
    return f"{found['path']}: {found.get('branch') or 'no branch'} at {str(found.get('commit'))[:12]}, {changed}"
