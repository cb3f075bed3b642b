"""``wal``: archive the write-ahead log of a source."""

from __future__ import annotations

from mingus_engine.cli.arguments import Parser, Subparsers


def add(commands: Subparsers) -> None:
    """The parsers."""
    top = commands.add_parser("wal", help="archive write-ahead log: the way to lose seconds, not a day")
    top.add_subparsers(metavar="COMMAND", required=True, title="commands", parser_class=Parser)
