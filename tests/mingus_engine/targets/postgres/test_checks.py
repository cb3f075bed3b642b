"""What the checks find in real restores, and what they say when a program is missing."""

import dataclasses
import re
from pathlib import Path

import psycopg
import pytest

from mingus_engine.postgres import backup_manifest
from mingus_engine.postgres.backup_manifest import ManifestFile
from mingus_engine.targets.postgres import checks, own_manifest
from tests.mingus_engine.targets.postgres.backups import everywhere, restore
from tests.mingus_engine.targets.postgres.test_server import account, data15, programs, programs15, server_on, work
from tests.support.directories import give_tree, make_directory
from tests.support.processes import unprivileged_user

__all__ = ["data15", "programs", "programs15", "work"]


def without(programs, folder, *names):
    """The same PostgreSQL, some of its programs not installed."""
    made = make_directory(folder / "few-programs")
    for program in programs.directory.iterdir():
        if program.name not in names:
            (made / program.name).symlink_to(program)
    return dataclasses.replace(programs, directory=made)


def test_a_good_restore_passes_every_check(workspace, backup, programs, work, pg_version):
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    data = workspace / "data"
    found = checks.manifest(data, programs, account())
    assert (found.ok, found.data["by"]) == (True, "pg_verifybackup"), found.detail
    mine = own_manifest.check(data)
    assert mine.ok, mine.detail
    assert mine.data["files"] == len(backup.manifest.files)
    with server_on(data, programs, work) as server:
        found = checks.amcheck(server)
        if pg_version.has_amcheck:
            assert found.ok, found.detail
            assert found.data["databases"] >= 2
        else:
            assert not found.ok
            assert found.data == {"available": False}
            assert "extension amcheck is not installed" in found.detail
        assert server.stop()
    found = checks.page_checksums(data, programs, account())
    assert found.ok, found.detail
    assert found.data["bad_pages"] == 0
    assert found.data["pages"] > 1000


def flip(path, position=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"x")


DAMAGES = {
    "flipped byte": (lambda data: flip(data / "global/1260", 100), "global/1260"),
    "longer file": (lambda data: lengthen(data / "PG_VERSION"), "PG_VERSION"),
    "missing label": (lambda data: (data / "backup_label").unlink(), "backup_label"),
    "missing control file": (lambda data: (data / "global/pg_control").unlink(), "pg_control"),
    "extra file": (lambda data: (data / "base/1/99999").write_bytes(b"x"), "base/1/99999"),
    "extra file in a tablespace": (
        lambda data: (next((data / "pg_tblspc").iterdir()) / "x").write_text(""),
        "pg_tblspc",
    ),
    "altered manifest": (lambda data: flip(data / "backup_manifest", 60), "manifest"),
    "missing manifest": (lambda data: (data / "backup_manifest").unlink(), "manifest"),
    "missing wal": (lambda data: [p.unlink() for p in (data / "pg_wal").glob("0*")], "WAL|pg_wal"),
}


@pytest.mark.parametrize("by", ["pg_verifybackup", "mingus"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_by_the_program_and_by_our_own_reading(workspace, backups, programs15, damage, by):
    backup = backups(15)
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    harm, named = DAMAGES[damage]
    harm(workspace / "data")
    give_tree(workspace / "data", unprivileged_user())
    for place in everywhere(workspace, backup).values():
        give_tree(place, unprivileged_user())
    used = programs15 if by == "pg_verifybackup" else without(programs15, workspace, "pg_verifybackup")
    found = checks.manifest(workspace / "data", used, account())
    assert not found.ok
    assert found.data["by"] == by
    assert re.search(named, found.detail)


def test_the_own_reading_says_that_it_is_that_and_ignores_what_the_program_ignores(workspace, backups, programs15):
    backup = backups(15)
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    (workspace / "data/postgresql.auto.conf").write_text("changed = 1")
    (workspace / "data/recovery.signal").write_text("")
    found = checks.manifest(workspace / "data", without(programs15, workspace, "pg_verifybackup"), account())
    assert found.ok, found.detail
    assert "pg_verifybackup is not installed, so MINGUS compared the files" in found.detail


def test_a_program_that_cannot_run_here_is_replaced_and_named(workspace, backups, programs15):
    backup = backups(15)
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    used = without(programs15, workspace, "pg_verifybackup")
    crashing = used.directory / "pg_verifybackup"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    found = checks.manifest(workspace / "data", used, account())
    assert found.ok
    assert "ended by signal 11" in found.data["why"]


def test_a_row_that_an_index_does_not_have_is_found(make_cluster, workspace, programs15, work):
    cluster = make_cluster(15)
    cluster.execute(
        "create table t as select g from generate_series(1, 1000) g", "create index i on t (g)", "checkpoint"
    )
    index = cluster.data_directory / cluster.value("select pg_relation_filepath('i')")
    old = index.read_bytes()
    cluster.execute("insert into t select g from generate_series(1001, 1200) g")
    cluster.stop()
    index.write_bytes(old)
    with server_on(cluster.data_directory, programs15, work) as server:
        found = checks.amcheck(server)
    assert not found.ok
    assert "lacks matching index tuple" in found.detail
    assert found.data["databases"] >= 2


def test_bad_pages_are_counted(make_cluster, programs):
    cluster = make_cluster(programs.version)
    cluster.execute("create table t as select g from generate_series(1, 1000) g", "checkpoint")
    path = cluster.data_directory / cluster.value("select pg_relation_filepath('t')")
    cluster.stop()
    flip(path, 5000)
    found = checks.page_checksums(cluster.data_directory, programs, account())
    assert not found.ok
    assert found.data["bad_pages"] == 1
    assert "block 0" in found.detail


def test_a_cluster_without_checksums_is_said_to_have_none(make_cluster, programs15):
    cluster = make_cluster(15, checksums=False, start=False)
    found = checks.page_checksums(cluster.data_directory, programs15, account())
    assert (found.ok, found.data) == (True, {"enabled": False})


def test_checks_whose_program_is_missing_are_not_available(make_cluster, workspace, programs15, work, backups):
    few = without(programs15, workspace, "pg_amcheck", "pg_checksums")
    cluster = make_cluster(15)
    cluster.stop()
    assert checks.page_checksums(cluster.data_directory, few, account()).data == {"available": False}
    with server_on(cluster.data_directory, few, work) as server:
        found = checks.amcheck(server)
    assert (found.ok, found.data) == (False, {"available": False})
    assert "postgresql-15" in found.detail


def test_amcheck_on_a_server_that_went_away_is_a_failed_check(make_cluster, programs15, work):
    cluster = make_cluster(15)
    cluster.stop()
    server = server_on(cluster.data_directory, programs15, work)
    server.start()
    server.stop()
    found = checks.amcheck(server)
    server.close()
    assert not found.ok
    assert "available" not in found.data
    with pytest.raises(psycopg.OperationalError):
        server.connect()


def test_a_hostile_manifest_reads_nothing_outside(workspace, backups):
    backup = backups(15)
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    manifest = workspace / "data/backup_manifest"
    manifest.write_bytes(
        backup_manifest.generate(
            [ManifestFile(b"../../../etc/passwd", Path("/etc/passwd").stat().st_size, 0)],
            [backup_manifest.WalRange(1, 0, (1 << 64) - 1)],
            server_version=15,
            system_identifier=0,
        )
    )
    found = own_manifest.check(workspace / "data")
    assert not found.ok
    assert "leads out of the target" in found.detail
