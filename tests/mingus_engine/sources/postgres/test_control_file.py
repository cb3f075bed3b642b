"""pg_control: read whole or not at all."""

from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import SourceDenied, SourceError
from mingus_engine.sources.postgres import control_file
from tests.support.postgres import PgCluster


def test_it_says_whose_it_is(pg: PgCluster) -> None:
    found = control_file.read(pg.data_directory)
    system_id, checkpoint = pg.rows(
        "select system_identifier, checkpoint_lsn::text from pg_control_system(), pg_control_checkpoint()"
    )[0]
    assert found.system_id == system_id
    assert found.checkpoint == lsns.parse(checkpoint)
    assert len(found.content) == 8192


@pytest.mark.parametrize("position", [0, 8, 33, 100, 250])
def test_a_torn_copy_is_not_taken(pg: PgCluster, position: int) -> None:
    content = bytearray(control_file.read(pg.data_directory).content)
    content[position] ^= 1
    assert control_file.parse(bytes(content)) is None
    assert control_file.parse(b"") is None


def test_a_file_that_stays_wrong_or_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceDenied, match="pg_control"):
        control_file.read(tmp_path)
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").write_bytes(bytes(range(256)) * 32)
    with pytest.raises(SourceError, match="wrong CRC"):
        control_file.read(tmp_path)
