"""Finding the server that can prove a snapshot, and which RDB each reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.errors import ComponentMissing
from mingus_engine.redis import programs, versions


def in_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(programs.os, "get_exec_path", lambda: [str(folder) for folder in folders])


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Programs that only tell their version; nothing else is installed."""
    monkeypatch.setattr(programs, "_DIRECTORIES", ())
    found = {}
    for version in ("7.0.15", "7.2.4", "7.4.1", "8.0.2"):
        for engine in ("redis", "valkey"):
            if engine == "valkey" and version != "8.0.2":
                continue
            folder = tmp_path / f"{engine}-{version}"
            folder.mkdir()
            path = folder / f"{engine}-server"
            path.write_text(f"#!/bin/sh\necho '{engine.capitalize()} server v={version} sha=0:0 malloc=x bits=64'\n")
            path.chmod(0o755)
            found[f"{engine} {version}"] = folder
    in_path(monkeypatch, *found.values())
    return found


@pytest.mark.parametrize(
    ("engine", "version", "rdb", "found"),
    [
        ("redis", "7.0.11", 10, "7.0.15"),
        ("redis", "7.2.0", 11, "7.2.4"),
        ("redis", "7.3.0", 11, "7.4.1"),
        ("redis", "7.9.0", 11, "7.4.1"),
        ("redis", "7.0.0", 12, "7.4.1"),
        ("redis", "8.1.0", 12, "8.0.2"),
        ("valkey", "8.1.0", 11, "8.0.2"),
    ],
)
def test_the_nearest_that_reads_it_is_taken(
    servers: dict[str, Path], engine: str, version: str, rdb: int, found: str
) -> None:
    chosen = programs.find(engine, version, rdb)
    assert (chosen.engine, chosen.version, chosen.directory) == (engine, found, servers[f"{engine} {found}"])


def test_what_is_installed_instead_is_named(servers: dict[str, Path]) -> None:
    with pytest.raises(ComponentMissing, match=r"no server of Redis 7 that reads RDB version 13.*Redis 7\.4\.1 in "):
        programs.find("redis", "7.6.0", 13)
    folder = servers["redis 7.0.15"]
    with pytest.raises(ComponentMissing, match=r"found: Redis 7\.0\.15 in"):
        programs.find("redis", "7.4.0", 12, str(folder))
    with pytest.raises(ComponentMissing, match="found: none"):
        programs.find("redis", "7.0.0", 10, str(folder.parent))


def test_a_program_that_is_something_else_is_not_found(
    servers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretender = tmp_path / "pretender"
    pretender.mkdir()
    (pretender / "redis-server").write_text("#!/bin/sh\necho 'Valkey server v=8.0.2 sha=0'\n")
    (pretender / "redis-server").chmod(0o755)
    in_path(monkeypatch, pretender)
    assert programs.installed() == []


@pytest.mark.parametrize(
    ("engine", "version", "rdb", "reads"),
    [
        ("redis", "7.0.15", 10, True),
        ("redis", "7.0.15", 11, False),
        ("redis", "7.2.0", 11, True),
        ("redis", "7.4.0", 12, True),
        ("redis", "8.2.0", 12, True),
        ("redis", "8.2.0", 80, False),
        ("redis", "99.0.0", 99, True),
        ("valkey", "7.2.5", 11, True),
        ("valkey", "8.1.0", 12, False),
        ("valkey", "9.0.0", 12, False),
        ("valkey", "9.0.0", 80, True),
        ("valkey", "8.0.0", 80, False),
    ],
)
def test_which_server_reads_which_rdb(engine: str, version: str, rdb: int, reads: bool) -> None:
    assert versions.can_read(engine, version, rdb) is reads


@pytest.mark.parametrize(
    ("head", "version"), [(b"REDIS0010\xfa", 10), (b"VALKEY080\xfa", 80), (b"REDIS0099", 99), (b"RDB", 0), (b"", 0)]
)
def test_the_version_of_an_rdb_is_read_even_if_nothing_reads_it(head: bytes, version: int) -> None:
    assert versions.rdb_version(head) == version
