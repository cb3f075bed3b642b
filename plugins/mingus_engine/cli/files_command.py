"""``ls``, ``cat``, ``find`` and ``diff``: what is in snapshots."""

from __future__ import annotations

import argparse
import dataclasses
import stat
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import (
    Subparsers,
    UsageError,
    add_repository,
    add_snapshot,
    command,
    snapshot_name,
)
from mingus_engine.cli.session import Session
from mingus_engine.cli.snapshots_command import add_snapshot_argument
from mingus_engine.errors import SettingsError

if TYPE_CHECKING:
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.differing import Difference
    from mingus_engine.jobs.file_listing import FileInfo
    from mingus_engine.jobs.searching import FoundFile

_KIND_BITS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}


def add(commands: Subparsers) -> None:
    """The parsers."""
    ls = command(commands, "ls", "list the files of a snapshot", run_ls)
    add_snapshot_argument(ls)
    ls.add_argument("path", metavar="PATH", nargs="?", default="", help="file or directory; default: the root")
    ls.add_argument("-R", "--recursive", action="store_true", help="directories with everything below them")
    cat = command(
        commands, "cat", "write a file of a snapshot to stdout", run_cat,
        more="Every byte is authenticated before it is written; if the file proves damaged further on, the command"
        " fails (exit code 6) and what was written is only its beginning.",
    )  # fmt: skip
    add_snapshot_argument(cat)
    cat.add_argument("path", metavar="PATH", help="as `mingus ls` shows it")
    find = command(
        commands, "find", "find files by name in the newest snapshot of a source, or in all", run_find,
        more="Patterns are those of .gitignore, over paths as `mingus ls` shows them.",
    )  # fmt: skip
    find.add_argument(
        "pattern", metavar="PATTERN", nargs="+", help="such as '*.pdf', 'contracts/' or '/documents/2026'"
    )
    find.add_argument("--source", metavar="SOURCE", help="of this source; needed if there are several")
    add_snapshot(find, "in this one; default: the newest")
    find.add_argument("--all", action="store_true", help="in all snapshots, oldest first")
    find.add_argument(
        "--changed", action="store_true", help="with --all: only where a file is not as in the snapshot before"
    )
    add_repository(find, "look into this one; default: the first reachable one of the chain")
    diff = command(
        commands, "diff", "show in what two snapshots of a source differ", run_diff,
        more="A: only in the second; D: only in the first; T: another kind; M: another content; m: other attributes.",
    )  # fmt: skip
    add_snapshot_argument(diff)
    diff.add_argument("second", metavar="SNAPSHOT", type=snapshot_name, help="the one to compare with")
    diff.add_argument("path", metavar="PATH", nargs="?", default="", help="only this and what is below it")
    diff.add_argument(
        "--text", action="store_true",
        help="of configuration: a unified diff of what is text, with what looks like a secret masked",
    )  # fmt: skip


def run_ls(args: argparse.Namespace, session: Session) -> int:
    """Run ``ls``."""
    from mingus_engine.jobs.inspect import list_files

    console = session.console
    console.begin_list("files")
    columns = output.Columns(("MODE", "UID", "GID", "SIZE", "MODIFIED", "PATH"), console.line, right={1, 2, 3})

    def show(file: FileInfo) -> None:
        if console.as_json:
            console.item(_document(file))
        else:
            columns.add(_row(file))

    listing = session.run(
        lambda context: list_files(
            session.settings, args.snapshot, args.path, into=show, recursive=args.recursive,
            source=args.source, repository=args.repository, context=context,
        )
    )  # fmt: skip
    columns.end()
    console.document({
        "source": listing.source,
        "snapshot": listing.snapshot,
        "repository": listing.repository,
        "count": listing.count,
    })  # fmt: skip
    return 0


def run_find(args: argparse.Namespace, session: Session) -> int:
    """Run ``find``."""
    if args.changed and not args.all:
        raise UsageError("--changed compares snapshots: it goes with --all")
    from mingus_engine.jobs.searching import find_files

    console = session.console
    console.begin_list("found")
    columns = output.Columns(("SNAPSHOT", "WRITTEN", "SIZE", "MODIFIED", "CHANGE", "PATH"), console.line, right={2})

    def show(found: FoundFile) -> None:
        if console.as_json:
            change = {"change": found.change} if found.change else {}
            console.item(
                {"snapshot": found.snapshot, "written_at": found.written_at, **_document(found.file), **change}
            )
            return
        size = output.number(found.file.size) if found.file.kind == "file" else "-"
        columns.add((
            found.snapshot, output.when(found.written_at), size, output.when(found.file.modified), found.change or "-",
            found.file.path,
        ))  # fmt: skip

    search = session.run(
        lambda context: find_files(
            session.settings, _source(args.source, session), args.pattern, into=show, snapshot=args.snapshot,
            every=args.all, changed=args.changed, repository=args.repository, context=context,
        )
    )  # fmt: skip
    columns.end()
    console.document({
        "source": search.source,
        "repository": search.repository,
        "snapshots": len(search.snapshots),
        "count": search.count,
    })  # fmt: skip
    if not search.count:
        console.note(f"nothing matches in {len(search.snapshots)} snapshots of {search.source}")
    return 0


def run_diff(args: argparse.Namespace, session: Session) -> int:
    """Run ``diff``."""
    if args.text:
        return _run_text_diff(args, session)
    from mingus_engine.jobs.differing import diff_snapshots

    console = session.console
    console.begin_list("differences")

    def show(found: Difference) -> None:
        if console.as_json:
            sides = {"before": found.before, "after": found.after}
            known = {side: _document(file) for side, file in sides.items() if file is not None}
            console.item({"sign": found.sign, "path": found.path, "differs": list(found.differs), **known})
        else:
            what = f" ({', '.join(found.differs)})" if found.differs else ""
            console.line(f"{found.sign} {output.safe(found.path)}{what}")

    compared = session.run(
        lambda context: diff_snapshots(
            session.settings, args.snapshot, args.second, args.path, into=show,
            source=args.source, repository=args.repository, context=context,
        )
    )  # fmt: skip
    console.document(dataclasses.asdict(compared))
    return 0


def _run_text_diff(args: argparse.Namespace, session: Session) -> int:
    from mingus_engine.jobs.files.text_diff import diff_between

    if "latest" in (args.snapshot, args.second):
        raise SettingsError("--text compares two snapshots by their ULIDs", hint="`mingus list` shows them")
    found = session.run(
        lambda context: diff_between(
            session.settings, _source(args.source, session), args.snapshot, args.second,
            path=args.path, repository=args.repository, context=context,
        )
    )  # fmt: skip
    session.console.document(found.as_dict())
    for line in found.text.splitlines():
        session.console.line(line)
    if found.cut:
        session.console.warn("there is more than is shown: name a PATH")
    return 0


def run_cat(args: argparse.Namespace, session: Session) -> int:
    """Run ``cat``."""
    if session.console.as_json:
        raise SettingsError("`cat` writes the bytes of a file; it has no JSON form", hint="leave out --json")
    from mingus_engine.jobs.inspect import read_file

    def run(context: JobContext) -> FileInfo:
        return read_file(
            session.settings, args.snapshot, args.path,
            into=lambda data: session.console.write_bytes(data, context.checkpoint),
            source=args.source, repository=args.repository, context=context,
        )  # fmt: skip

    session.run(run)
    return 0


def _source(source: str | None, session: Session) -> str:
    """The source that is meant. :raises UsageError: there are several."""
    if source is not None:
        return source
    known = [one.id for one in session.settings.sources]
    if len(known) != 1:
        raise UsageError(f"files of which source? say --source: {', '.join(known)}")
    return known[0]


def _document(file: FileInfo) -> dict[str, object]:
    return {**dataclasses.asdict(file), "mode": f"{file.mode:04o}"}


def _row(file: FileInfo) -> tuple[str, ...]:
    return (
        stat.filemode(_KIND_BITS.get(file.kind, 0) | file.mode),
        str(file.uid),
        str(file.gid),
        output.number(file.size) if file.kind == "file" else "-",
        output.when(file.modified),
        f"{file.path} -> {file.target}" if file.target else file.path,
    )
