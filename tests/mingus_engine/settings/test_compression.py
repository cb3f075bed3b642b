"""How strongly a source is compressed where the settings say nothing, and what they may say."""

from pathlib import Path

import pytest

from mingus_engine.errors import SettingsError
from mingus_engine.settings import load

SOURCES = """
repositories: [{name: first, path: first}]
sources:
  - {id: ledger, compression_level: %s}
  - {id: sessions, kind: redis, compression_level: %s}
  - {id: documents, kind: files, files: {roots: [{path: /srv}]}, compression_level: %s}
"""


@pytest.mark.parametrize(("said", "used"), [("", [1, 1, 3]), ("0", [1, 1, 3]), ("1", [1, 1, 1]), ("19", [19, 19, 19])])
def test_files_are_compressed_more_than_databases_unless_the_settings_say_how_much(
    tmp_path: Path, said: str, used: list[int]
) -> None:
    (tmp_path / "mingus.yaml").write_text(SOURCES % (said, said, said))
    assert [source.zstd_level for source in load(tmp_path / "mingus.yaml").sources] == used


@pytest.mark.parametrize("said", ["-1", "20", "fast"])
def test_a_level_that_zstd_does_not_have_is_refused(tmp_path: Path, said: str) -> None:
    (tmp_path / "mingus.yaml").write_text(SOURCES % ("", "", said))
    with pytest.raises(SettingsError, match="compression_level"):
        load(tmp_path / "mingus.yaml")
