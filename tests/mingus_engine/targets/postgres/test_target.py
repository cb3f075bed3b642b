"""Restores of real base backups: byte for byte, replayed by real servers, and unable to start when incomplete."""

import os
import pickle
import signal
import stat
import subprocess
import sys
from pathlib import Path

import crc32c
import pytest

from mingus_engine.errors import Damaged, SettingsError, TargetNotEmpty, TargetTooSmall
from mingus_engine.postgres import backup_manifest, tablespace_map
from mingus_engine.postgres.backup_manifest import ManifestFile
from mingus_engine.targets.base import EntryKind, TargetFile
from tests.mingus_engine.targets.postgres.backups import SUM, everywhere, fill, restore, target_for
from tests.support.directories import give_tree
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user


def start(version, data, *arguments):
    return PgCluster.of_directory(version, data, arguments=arguments)


def cannot_start(version, data):
    cluster = start(version, data)
    with cluster, pytest.raises(AssertionError):
        cluster.start(timeout_s=20)
    return cluster.log_tail()


def test_a_restored_tree_is_the_backed_up_one_byte_for_byte_and_its_server_replays(workspace, backup, pg_version):
    places = everywhere(workspace, backup)
    target, sums = restore(backup, workspace / "data", tablespaces=places)
    assert sums == {path: crc32c.crc32c(content) for path, content in backup.files.items()}

    rewritten = {b"tablespace_map", b"backup_manifest"}
    on_disk = {}
    for path in walk(workspace / "data"):
        name = os.fsencode(path.relative_to(workspace / "data"))
        if path.is_file() and not name.startswith(b"pg_wal/"):
            on_disk[name] = path.read_bytes()
    listed = {p: c for p, c in backup.files.items() if not p.startswith(b"pg_wal/")}
    assert set(on_disk) == set(listed) | rewritten
    assert {p for p in listed if on_disk[p] != listed[p]} == {b"tablespace_map"}
    assert tablespace_map.parse(on_disk[b"tablespace_map"]) == {oid: bytes(p) for oid, p in places.items()}
    assert {(workspace / "data/pg_wal" / name).read_bytes() for name, _ in backup.wal} == {c for _, c in backup.wal}
    modes = {(p.is_dir(), stat.S_IMODE(p.stat().st_mode)) for p in walk(workspace / "data")}
    assert modes == {(True, 0o700), (False, 0o600)}
    assert not target.left_out

    pg_version_tools = start(pg_version, workspace / "data")
    pg_version_tools.tool("pg_verifybackup", workspace / "data")
    for place in places.values():
        give(place)
    with pg_version_tools.start() as server:
        assert server.value(SUM) == 20000 * 1000
        assert server.value("select count(*) from far_away") == 5000
        ((accounts, tellers),) = server.rows(
            "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers)"
        )
        assert accounts == tellers
        assert Path(server.value("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'far'")) in {
            *places.values()
        }


def walk(directory):
    for folder, names, files in os.walk(directory, followlinks=True):
        yield from (Path(folder, name) for name in (*names, *files))


def give(path):
    give_tree(path, unprivileged_user())


def test_the_servers_own_manifest_and_ours_agree_about_every_file(workspace, backup):
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    ours = backup_manifest.parse((workspace / "data/backup_manifest").read_bytes())
    assert (ours.version, ours.system_identifier) == (backup.manifest.version, backup.manifest.system_identifier)
    assert ours.wal_ranges == backup.manifest.wal_ranges
    # The map has other places now, and so other bytes.
    assert compared(ours) == compared(backup.manifest)


def compared(manifest):
    return {(f.path, f.size, f.crc32c) for f in manifest.files if f.path != b"tablespace_map"}


def test_tablespaces_that_keep_their_places_keep_the_map_as_it_is(workspace, backups):
    backup = backups(15)
    content = tablespace_map.generate({oid: bytes(workspace / f"ts{oid}") for oid in backup.tablespaces})
    same = backup.having(b"tablespace_map", content)
    restore(same, workspace / "data", tablespaces=everywhere(workspace, backup))
    assert (workspace / "data/tablespace_map").read_bytes() == content


# -- what must not start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [b"backup_label", b"global/pg_control", b"PG_VERSION"])
def test_a_snapshot_without_what_a_start_needs_is_refused_and_cannot_start(workspace, backup, pg_version, missing):
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    fill(target, backup.without(missing))
    with pytest.raises(Damaged, match=missing.decode()):
        target.finish(backup.manifest.wal_ranges)
    target.close()
    assert not (workspace / "data/global/pg_control").exists()
    assert (workspace / "data/.mingus-restore-incomplete").exists()
    log = cannot_start(pg_version, workspace / "data")
    assert "pg_control" in log or "PG_VERSION" in log


def test_a_label_that_is_none_is_refused(workspace, backups):
    backup = backups(15)
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    fill(target, backup.having(b"backup_label", b"").having(b"PG_VERSION", b"14\n"))
    with pytest.raises(Damaged, match="backup_label"):
        target.finish([])


def test_a_control_file_of_another_cluster_is_refused(workspace, backups):
    backup = backups(15)
    other = bytes(8) + backup.content(b"global/pg_control")[8:]
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    fill(target, backup.having(b"global/pg_control", other))
    with pytest.raises(Damaged, match=f"cluster 0, not of {backup.cluster_id}"):
        target.finish([])


KILLED = """
import os, pickle, sys
sys.path[:0] = ["plugins", "."]
from pathlib import Path
from tests.mingus_engine.targets.postgres.backups import fill, target_for
backup, places = pickle.load(sys.stdin.buffer)
target = target_for(backup, Path(sys.argv[1]), tablespaces=places)
stop_at = int(sys.argv[2])
target.prepare(0)
real = target.open_file
count = 0
def counting(entry):
    global count
    count += 1
    if count == stop_at:
        os.kill(os.getpid(), 9)
    return real(entry)
target.open_file = counting
fill(target, backup)
if stop_at == -1:
    target._write = lambda *_: os.kill(os.getpid(), 9)
target.finish(backup.manifest.wal_ranges)
"""


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, None])
def test_a_restore_killed_at_any_moment_leaves_a_directory_that_cannot_start(workspace, backup, pg_version, share):
    places = everywhere(workspace, backup)
    stop_at = -1 if share is None else max(1, int(len(backup.files) * share))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, workspace / "data", str(stop_at)],
        input=pickle.dumps((backup, places)),
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert "pg_control" in cannot_start(pg_version, workspace / "data") or share == 0.01
    with pytest.raises(TargetNotEmpty, match="interrupted"):
        target_for(backup, workspace / "data", tablespaces=places).prepare(0)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["data", "ts", "data.mingus-config"])
def test_nothing_is_written_when_a_directory_is_not_empty(workspace, backups, place):
    backup = backups(15)
    (workspace / place).mkdir()
    (workspace / place / "keep").write_text("mine")
    target = target_for(backup, workspace / "data", tablespaces={next(iter(backup.tablespaces)): workspace / "ts"})
    with pytest.raises(TargetNotEmpty, match="keep"):
        target.prepare(0)
    target.abandon()
    assert [p.relative_to(workspace).as_posix() for p in sorted(workspace.rglob("*"))] == [place, f"{place}/keep"]


def test_nothing_is_written_when_there_is_no_space(workspace, backups):
    target = target_for(backups(15), workspace / "data")
    with pytest.raises(TargetTooSmall):
        target.prepare(1 << 60)
    assert not list(workspace.iterdir())


@pytest.mark.parametrize(
    "entry",
    [
        TargetFile(b"base/link", EntryKind.SYMLINK, target=b"/etc"),
        TargetFile(b"pg_tblspc/99", EntryKind.SYMLINK, target=b"/etc"),
        TargetFile(b"mingus-config/../x"),
        TargetFile(b"pg_tblspc/99/PG_15/1/2"),
        TargetFile(b"global/pg_control", size=1 << 20),
        TargetFile(b"mingus-config"),
    ],
    ids=lambda entry: entry.path.decode(),
)
def test_entries_that_no_data_directory_has_are_refused(workspace, backups, entry):
    backup = backups(15)
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    with pytest.raises(Damaged):
        (target.make_symlink if entry.kind == EntryKind.SYMLINK else target.open_file)(entry)
    target.abandon()
    assert not list(workspace.iterdir())


def test_a_tablespace_without_a_place_is_named(workspace, backups):
    backup = backups(15)
    (oid,) = backup.tablespaces
    only_map = backup.having(b"tablespace_map", b"%d /a\n77 /b\n" % oid)
    target = target_for(only_map, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    fill(target, only_map)
    with pytest.raises(Damaged, match="tablespace 77 at /b"):
        target.finish([])


# -- details ----------------------------------------------------------------------------------------------------------


def test_leftovers_of_the_old_server_are_left_out_and_named(workspace, backups):
    backup = backups(15)
    names = [b"standby.signal", b"recovery.signal", b"postmaster.pid", b"postmaster.opts", b"backup_manifest"]
    for name in names:
        backup = backup.having(name, b"old")
    target, sums = restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    assert sorted(target.left_out) == sorted(names)
    assert sums[b"standby.signal"] == crc32c.crc32c(b"old")
    for name in names[:-1]:
        assert not (workspace / "data" / name.decode()).exists()
    assert (workspace / "data/backup_manifest").read_bytes() != b"old"


def test_configuration_from_outside_goes_beside_the_data_directory(workspace, backups):
    backup = backups(15).having(b"mingus-config/etc/postgresql.conf", b"port = 1\n")
    target, _ = restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    beside = workspace / "data.mingus-config"
    assert target.configuration_directory == beside
    assert [p for p in beside.rglob("*") if p.is_file()] == [beside / "etc/postgresql.conf"]
    assert not (workspace / "data/mingus-config").exists()
    manifest = backup_manifest.parse((workspace / "data/backup_manifest").read_bytes())
    assert not [f for f in manifest.files if f.path.startswith(b"mingus-config")]
    target.abandon()
    assert not list(workspace.iterdir())


def test_settings_are_appended_so_that_the_server_reads_them_as_given(workspace, backup, pg_version):
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    fill(target, backup)
    value = "it's a \\ back\\'slash #"
    target.configure({"restore_command": "false", "my.value": value, "recovery_target": "immediate"}, signal="recovery")
    with pytest.raises(SettingsError):
        target.configure({"a": "x\ny = 1"})
    with pytest.raises(SettingsError):
        target.configure({"a b": "x"})
    with pytest.raises(SettingsError):
        target.configure({}, signal="promote")
    target.finish(backup.manifest.wal_ranges)
    with start(pg_version, workspace / "data", "-c", "recovery_target_action=promote") as server:
        for place in everywhere(workspace, backup).values():
            give(place)
        server.tool("pg_verifybackup", workspace / "data")
        server.start()
        assert server.value("show my.value") == value
        assert server.value("show recovery_target") == "immediate"


def test_a_slice_of_a_segment_is_filled_up_and_not_marked_as_archived(workspace, backups):
    backup = backups(15)
    target = target_for(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    target.prepare(0)
    size = 16 << 20
    history = b"1\t0/3000000\tno reason\n"
    files = [
        ("000000010000000000000001", size, [b"x" * size]),
        ("000000010000000000000002", 5, [b"ab", b"cde"]),
        ("00000002.history", len(history), [history]),
    ]
    assert target.write_wal(files) == (3, size + 5 + len(history))
    wal = workspace / "data/pg_wal"
    assert (wal / "000000010000000000000002").read_bytes() == b"abcde" + bytes(size - 5)
    assert (wal / "00000002.history").read_bytes() == history
    done = {p.name for p in (wal / "archive_status").iterdir()}
    assert done == {"000000010000000000000001.done", "00000002.history.done"}


@pytest.mark.parametrize(
    "file",
    [
        ("../../evil", 1, [b"x"]),
        ("000000010000000000000001.partial", 1, [b"x"]),
        ("000000010000000000000001", 2, [b"x"]),
        ("000000010000000000000001", 2, [b"xyz"]),
        ("000000010000000000000001", (16 << 20) + 1, []),
        ("000000010000000000000001", 0, []),
    ],
)
def test_wal_that_is_not_what_it_says_is_refused(workspace, backups, file):
    target = target_for(backups(15), workspace / "data")
    target.prepare(0)
    with pytest.raises(Damaged, match="WAL file"):
        target.write_wal([file])
    target.abandon()


def test_the_manifest_of_a_restore_lists_odd_names(workspace, backups):
    backup = backups(15).having(b"base/caf\xe9", b"1").having('base/"\\\n\x01é'.encode(), b"2")
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    manifest = backup_manifest.parse((workspace / "data/backup_manifest").read_bytes())
    found = {f.path: f for f in manifest.files}
    for path, content in ((b"base/caf\xe9", b"1"), ('base/"\\\n\x01é'.encode(), b"2")):
        assert isinstance(found[path], ManifestFile)
        assert found[path].crc32c == crc32c.crc32c(content)
