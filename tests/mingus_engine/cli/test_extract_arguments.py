"""``restore --extract``: what is refused before anything is opened, and that no password gets into an argument."""

from __future__ import annotations

import pytest

from tests.mingus_engine.cli.support import Made

EXTRACT = ("restore", "ledger", "--extract", "books")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("restore", "ledger"), "say where to: DIRECTORY, or --extract WHAT --into CONNECTION"),
        (("restore", "ledger", "/x", "--as", "y"), "need --extract"),
        (("restore", "ledger", "/x", "--extract", "books"), "not into a DIRECTORY"),
        (EXTRACT, "--extract needs --into"),
        ((*EXTRACT, "--into", "ledger", "--wal", "fetch"), "are for a DIRECTORY"),
        ((*EXTRACT, "--into", "ledgr"), "did you mean 'ledger'"),
        ((*EXTRACT, "--into", "postgresql://bob:hunter2@db/books"), "holds a password"),
        (("restore", "ledger", "--extract", "books:a.b.c", "--into", "ledger"), "is not of the form"),
        ((*EXTRACT, "--into", "ledger", "--timeline", "2"), "a timeline needs a recovery target"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(made: Made, arguments: tuple[str, ...], says: str) -> None:
    result = made.cli(*arguments)
    assert result.code == 2, result.err
    assert says in result.err
    assert "hunter2" not in result.err
