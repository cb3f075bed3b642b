"""``ls`` and ``cat``: what is in a snapshot."""

from __future__ import annotations

import argparse
import dataclasses
import stat
from typing import TYPE_CHECKING

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Subparsers, command
from mingus_engine.cli.session import Session
from mingus_engine.cli.snapshots_command import add_snapshot_argument
from mingus_engine.errors import SettingsError

if TYPE_CHECKING:
    from mingus_engine.jobs.context import JobContext
    from mingus_engine.jobs.file_listing import FileInfo

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


def run_ls(args: argparse.Namespace, session: Session) -> int:
    """Run ``ls``."""
    from mingus_engine.jobs.inspect import list_files

    listing = session.run(
        lambda context: list_files(
            session.settings, args.snapshot, args.path, recursive=args.recursive,
            source=args.source, repository=args.repository, context=context,
        )
    )  # fmt: skip
    console = session.console
    console.document({
        "source": listing.source,
        "snapshot": listing.snapshot,
        "repository": listing.repository,
        "files": [_document(file) for file in listing.files],
    })  # fmt: skip
    if listing.files and not console.as_json:
        headers = ("MODE", "UID", "GID", "SIZE", "MODIFIED", "PATH")
        console.lines(output.table(headers, map(_row, listing.files), right={1, 2, 3}))
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
