"""How much memory a throw-away server may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.errors import TargetTooSmall
from mingus_engine.targets.redis import memory

MIB = 1 << 20


def test_the_machine_says_what_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\n")
    assert memory.available_bytes(tmp_path / "meminfo", tmp_path) == 5000 * 1024


def test_a_container_has_less_than_the_machine_and_its_cache_gives_way(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 5000000 kB\n")
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{90 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {30 * MIB}\n")
    assert memory.available_bytes(tmp_path / "meminfo", tmp_path) == 40 * MIB


def test_a_container_without_a_limit_has_what_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 5000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert memory.available_bytes(tmp_path / "meminfo", tmp_path) == 5000 * 1024


def test_where_nobody_says_nothing_is_refused(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path / "none", tmp_path) is None
    memory.require(1 << 40, None)


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    memory.require(100 * MIB, 200 * MIB)
    with pytest.raises(TargetTooSmall, match=f"needs {memory.needed_bytes(200 * MIB)} bytes .* {200 * MIB} are"):
        memory.require(200 * MIB, 200 * MIB)
