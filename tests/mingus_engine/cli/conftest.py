"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.mingus_engine.cli.support import Cli, Made, make


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Two local repositories and a source in the settings; nothing of it exists yet."""
    cli = Cli(tmp_path)
    cli.write_settings(
        "state_directory: state\n"
        "repositories:\n- {name: primary, path: one}\n- {name: offsite, path: two}\n"
        "sources:\n- {id: ledger, repository: primary, ship_to: [offsite]}\n"
    )
    return cli


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A repository with one small snapshot; ``offsite`` is in the settings but not made."""
    return make(tmp_path, more=["offsite"])
