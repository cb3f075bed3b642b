"""What is left out: rule by rule, and against what pg_basebackup really sends."""

from pathlib import Path

import pytest

from mingus_engine.sources.base import FileKind
from mingus_engine.sources.postgres import exclusions
from mingus_engine.sources.postgres.connection import connect_sql
from mingus_engine.sources.postgres.exclusions import Relation
from mingus_engine.sources.postgres.facts import read_facts
from mingus_engine.sources.postgres.tree import walk
from tests.mingus_engine.sources.postgres.collecting import connection, pg_basebackup
from tests.support.directories import give_tree
from tests.support.fixtures import MakeCluster
from tests.support.processes import unprivileged_user


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"base/5/16384", Relation(16384, "main", 0)),
        (b"base/5/16384.12", Relation(16384, "main", 12)),
        (b"base/5/16384_fsm", Relation(16384, "fsm", 0)),
        (b"base/5/16384_vm.1", Relation(16384, "vm", 1)),
        (b"base/5/16384_init", Relation(16384, "init", 0)),
        (b"global/1260", Relation(1260, "main", 0)),
        (b"pg_tblspc/16400/PG_15_202209061/5/16401", Relation(16401, "main", 0)),
        (b"base/5/PG_VERSION", None),
        (b"base/5/pg_filenode.map", None),
        (b"base/5/pg_internal.init", None),
        (b"global/pg_control", None),
        (b"base/5/t3_16384", None),
        (b"base/5/16384_other", None),
        (b"base/5/16384.x", None),
        (b"base/5/below/16384", None),
        (b"pg_xact/0000", None),
        (b"pg_wal/000000010000000000000001", None),
        (b"16384", None),
    ],
)
def test_relation_files_are_told_by_their_names(path: bytes, expected: Relation | None) -> None:
    assert exclusions.relation(path) == expected


@pytest.mark.parametrize(
    ("name", "out"),
    [
        (b"pgsql_tmp", True),
        (b"pgsql_tmp123.4", True),
        (b"pg_internal.init", True),
        (b"pg_internal.init.99", True),
        (b"postmaster.pid", True),
        (b"postmaster.opts", True),
        (b"backup_label", True),
        (b"tablespace_map", True),
        (b"backup_manifest", True),
        (b"postgresql.auto.conf.tmp", True),
        (b"current_logfiles.tmp", True),
        (b"backup_label.old", False),
        (b"current_logfiles", False),
        (b"postgresql.auto.conf", False),
        (b"PG_VERSION", False),
        (b"16384", False),
    ],
)
def test_names_are_left_out_everywhere(name: bytes, out: bool) -> None:
    assert exclusions.leaves_out_name(name) is out


@pytest.mark.parametrize(
    ("directory", "name", "out"),
    [
        (b"base/5", b"t3_16384", True),
        (b"base/5", b"t3_16384_fsm.1", True),
        (b"base/5", b"100", True),
        (b"base/5", b"100.1", True),
        (b"base/5", b"100_fsm", True),
        (b"base/5", b"100_init", False),
        (b"base/5", b"1001", False),
        (b"pg_tblspc/7/PG_15_1/5", b"100", True),
        (b"global", b"100", False),
        (b"pg_xact", b"100", False),
    ],
)
def test_temporary_and_unlogged_relations_are_left_out_of_databases(directory: bytes, name: bytes, out: bool) -> None:
    unlogged = exclusions.unlogged_filenodes(b"base/5", [b"100", b"100_init", b"200", b"x_init", b"300_initial"])
    assert unlogged == {b"100"}
    assert exclusions.leaves_out_relation(directory, name, unlogged) is out


def test_the_walk_finds_what_pg_basebackup_sends(make_cluster: MakeCluster, pg_version: object, tmp_path: Path) -> None:
    major = pg_version.major  # type: ignore[attr-defined]
    cluster = make_cluster(major, conf={"autovacuum": "off"})
    cluster.create_tablespace("ts")
    cluster.execute(
        "create table kept (a int primary key)",
        "create unlogged table lost (a int primary key)",
        "create unlogged table lost_too (a int) tablespace ts",
        "create table in_space (a int primary key) tablespace ts",
        "insert into kept values (1); insert into lost values (1); insert into in_space values (1)",
        "create database second",
    )
    data = cluster.data_directory
    for junk in ("postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label.old", "base/pgsql_tmp/x", "note"):
        (data / junk).parent.mkdir(exist_ok=True)
        (data / junk).write_text("junk")
    (data / "pg_stat_tmp" / "x").write_text("junk")
    (data / "link").symlink_to("note")
    give_tree(data, unprivileged_user())
    with cluster.connect() as session:
        session.execute("create temporary table temp as select 1")
        expected = pg_basebackup(cluster, data.parent / "bb")
        with connect_sql(connection(cluster)) as ours:
            catalog = read_facts(ours, connection(cluster)).catalog
        found = {entry.path: entry for entry in walk(data, major, catalog)}
    assert set(found) == set(expected) - {b"backup_label", b"tablespace_map", b"backup_manifest", b"global/pg_control"}
    assert any(entry.kind == FileKind.SYMLINK for entry in found.values())
    for path, content in expected.items():
        if path in found and found[path].kind == FileKind.FILE:
            assert content is not None
            assert found[path].size == len(content), path
