"""The throw-away server on real restores: comes up, says nothing, reaches nobody, and is gone in every outcome."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from mingus_engine.errors import ComponentMissing, TargetError, VerificationFailed
from mingus_engine.postgres import programs as pg_programs
from mingus_engine.programs import accounts
from mingus_engine.targets.postgres import libraries, workplace
from mingus_engine.targets.postgres import server as server_module
from mingus_engine.targets.postgres.server import ThrowAwayServer
from mingus_engine.targets.postgres.server_log import ServerLog
from tests.mingus_engine.targets.postgres.backups import SUM, everywhere, restore
from tests.support.directories import give_tree, make_directory
from tests.support.processes import children, is_running, unprivileged_user, wait_until


def account():
    user = unprivileged_user()
    return accounts.account(user.name) if user else None


@pytest.fixture
def work(workspace):
    return make_directory(workspace / "work")


@pytest.fixture
def programs(pg_version):
    return pg_programs.find(pg_version.major, str(pg_version.bin_directory))


@pytest.fixture
def programs15(pg_versions):
    return pg_programs.find(15, str(pg_versions[15].bin_directory))


@pytest.fixture
def data15(workspace, backups):
    """A restored data directory of PostgreSQL 15."""
    return lambda backup=None: restored(workspace, backup or backups(15))


def restored(workspace, backup):
    restore(backup, workspace / "data", tablespaces=everywhere(workspace, backup))
    return workspace / "data"


def server_on(data, programs, work, **options):
    return ThrowAwayServer(data, programs, account=account(), work_dir=work, **{"start_timeout_s": 60, **options})


def postgres_processes(data):
    """Processes that work in a data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(data) and is_running(int(entry.name)):  # noqa: PTH115
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def segments(data):
    """System V shared memory segments of a data directory: PostgreSQL takes the directory's inode as their key."""
    lines = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    inode = data.stat().st_ino if data.exists() else -1
    return {line[1] for line in lines if int(line[0]) & 0xFFFFFFFF == inode & 0xFFFFFFFF}


@pytest.fixture
def nothing_is_left(workspace, work):
    yield
    assert not postgres_processes(workspace / "data")
    assert not list(work.iterdir())
    assert not children(os.getpid()) or all(not is_running(pid) or is_ours(pid) for pid in children(os.getpid()))
    assert not segments(workspace / "data")


def is_ours(pid):
    return b"guardian" not in command_line(pid)


def command_line(pid):
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# -- coming up --------------------------------------------------------------------------------------------------------


def test_a_restore_comes_up_consistent_with_the_right_sums_and_is_gone_afterwards(
    workspace, backup, programs, work, nothing_is_left
):
    server = server_on(restored(workspace, backup), programs, work)
    with server:
        with server.connect() as connection:
            assert segments(workspace / "data")  # so that finding none afterwards means something
            assert connection.execute(SUM).fetchone() == (20000 * 1000,)
            assert connection.execute("select count(*) from far_away").fetchone() == (5000,)
            assert connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
            shown = dict(
                connection.execute("select name, setting from pg_settings where name = any(%s)", [list(EXPECTED)])
            )
            assert shown == EXPECTED
        assert "postgres" in server.databases()
        (run,) = work.iterdir()
        assert oct(run.stat().st_mode & 0o777) == "0o700"
        assert server.stop() is True
    assert not (workspace / "data/postmaster.pid").exists()


EXPECTED = {
    "listen_addresses": "",
    "archive_mode": "off",
    "ssl": "off",
    "autovacuum": "off",
    "fsync": "off",
    "primary_conninfo": "",
    "max_logical_replication_workers": "0",
    "max_connections": "40",
    "restart_after_crash": "off",
}


def test_it_says_when_it_was_consistent_and_how_far_it_replayed(workspace, backup, programs, work):
    server = server_on(restored(workspace, backup), programs, work)
    try:
        started = server.start()
    finally:
        server.close()
    (needed,) = backup.manifest.wal_ranges
    assert 0 <= started.consistent_s <= started.accepting_s < 60
    assert lsn(started.consistent_lsn) >= needed.end
    assert lsn(started.redo_lsn) >= needed.start
    assert not started.dropped_libraries


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def test_a_recovery_target_is_reached_and_the_server_promoted(workspace, backup, programs, work, nothing_is_left):
    data = restored(workspace, backup)
    target = {"recovery_target": "immediate"}
    with server_on(data, programs, work, recovery=target) as server, server.connect() as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
        assert connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchone()[0].startswith("00000002")
        assert connection.execute(SUM).fetchone() == (20000 * 1000,)


def test_a_recovery_target_that_is_not_reached_is_a_failure(data15, programs15, work, nothing_is_left):
    server = server_on(data15(), programs15, work, recovery={"recovery_target_lsn": "FF/0"})
    with pytest.raises(VerificationFailed, match="recovery ended before configured recovery target was reached"):
        server.start()


@pytest.mark.parametrize("mebibytes", [1, 64, 256])
def test_segments_of_any_size_are_fine(make_cluster, programs15, work, mebibytes):
    cluster = make_cluster(15, wal_segment_mib=mebibytes, conf={"min_wal_size": "512MB", "max_wal_size": "1GB"})
    cluster.stop()
    with server_on(cluster.data_directory, programs15, work) as server, server.connect() as connection:
        assert connection.execute(
            "select setting::int >> 20 from pg_settings where name = 'wal_segment_size'"
        ).fetchone() == (mebibytes,)


def test_more_connections_and_prepared_transactions_than_the_control_file_knows_are_allowed(data15, programs15, work):
    primary = {"max_connections": "77", "max_prepared_transactions": "5", "max_worker_processes": "odd"}
    with server_on(data15(), programs15, work, primary=primary) as server, server.connect() as connection:
        assert connection.execute("show max_connections").fetchone() == ("77",)
        assert connection.execute("show max_prepared_transactions").fetchone() == ("5",)
        assert connection.execute("show max_worker_processes").fetchone() == ("8",)


# -- hostile data directories -----------------------------------------------------------------------------------------

HOSTILE = b"""
archive_mode = on
archive_command = 'touch %(marker)s/archive'
restore_command = 'touch %(marker)s/restore'
recovery_end_command = 'touch %(marker)s/end'
primary_conninfo = 'host=127.0.0.1 password=hunter2'
ssl = on
ssl_cert_file = '/nonexistent'
listen_addresses = '*'
port = 5433
shared_preload_libraries = 'no_such_library, pg_cron'
session_preload_libraries = 'no_such_library'
logging_collector = on
log_directory = '%(marker)s'
external_pid_file = '%(marker)s/pid'
shared_buffers = '1000TB'
lc_messages = 'xx_XX'
huge_pages = on
unknown_setting = 1
hba_file = '/nonexistent'
data_directory = '/nonexistent'
unix_socket_directories = '/nonexistent'
synchronous_standby_names = '*'
this is not even a setting
"""


def test_settings_of_the_data_directory_have_no_effect(workspace, backup, programs, work, nothing_is_left):
    marker = make_directory(workspace / "marker", owner=unprivileged_user())
    hostile = HOSTILE % {b"marker": bytes(marker)}
    changed = backup.having(b"postgresql.auto.conf", hostile).having(b"postgresql.conf", hostile)
    data = restored(workspace, changed.having(b"pg_hba.conf", b"garbage"))
    give_tree(make_file(data / "standby.signal"), unprivileged_user())
    with server_on(data, programs, work) as server, server.connect() as connection:
        assert connection.execute(SUM).fetchone() == (20000 * 1000,)
        connection.execute("create table written as select 1")
        assert connection.execute("show archive_command").fetchone()[0] in {"", "(disabled)"}
    assert not list(marker.iterdir())
    assert (data / "postgresql.auto.conf").read_bytes() == hostile


def make_file(path):
    path.write_text("")
    return path


def test_libraries_that_roles_and_databases_ask_for_do_not_stop_anybody(make_cluster, workspace, work, programs):
    cluster = make_cluster(programs.version)
    cluster.execute(
        "alter system set session_preload_libraries = 'no_such_library'",
        "alter role postgres set statement_timeout = '1ms'",
        "alter role postgres set local_preload_libraries = 'neither_this'",
    )
    cluster.stop()
    with server_on(cluster.data_directory, programs, work) as server, server.connect() as connection:
        connection.execute("select pg_sleep(0.05)")


def test_preload_libraries_are_kept_when_installed_and_dropped_with_a_reason_otherwise(data15, programs15, work):
    primary = {"shared_preload_libraries": 'pg_stat_statements, "no such", pg_cron'}
    server = server_on(data15(), programs15, work, primary=primary)
    try:
        started = server.start()
        with server.connect() as connection:
            assert connection.execute("show shared_preload_libraries").fetchone() == ('"pg_stat_statements"',)
    finally:
        server.close()
    assert started.dropped_libraries == {"no such": "it is not installed here", "pg_cron": "it runs jobs by itself"}


def test_lists_of_libraries_are_read_as_postgres_writes_them(tmp_path):
    assert libraries.names('a, "b, ""c""",$libdir/d ,, ') == ["a", 'b, "c"', "$libdir/d"]
    (tmp_path / "d.so").touch()
    installed = libraries.installed_in(tmp_path)
    assert [installed(name) for name in ("d", "$libdir/d", "d.so", str(tmp_path / "d"), "../d", "e")] == [
        *(True, True, True, True, False, False)
    ]
    assert not libraries.installed_in(None)("d")


# -- failures ---------------------------------------------------------------------------------------------------------


def test_wal_that_ends_too_early_is_a_failure_with_the_servers_words(
    workspace, backup, programs, work, nothing_is_left
):
    data = restored(workspace, backup)
    for segment in (data / "pg_wal").glob("0*"):
        segment.unlink()
    with pytest.raises(VerificationFailed, match=r"did not start.*(could not locate|could not find) .*checkpoint"):
        server_on(data, programs, work).start()


def test_a_server_that_never_becomes_consistent_is_a_failure_in_time(data15, programs15, work, nothing_is_left):
    data = data15()
    fake = fake_programs(
        programs15, work.parent, "echo '2026-01-01 00:00:00.000 UTC [1] LOG:  waiting password=hunter2'; sleep 60"
    )
    began = time.monotonic()
    with pytest.raises(VerificationFailed, match=r"not consistent but not up after [12] s: LOG: waiting") as caught:
        server_on(data, fake, work, start_timeout_s=1).start()
    assert time.monotonic() - began < 30
    assert "hunter2" not in caught.value.message


def fake_programs(real, folder, script):
    """The same programs, but `postgres` is a shell script."""
    fake = make_directory(folder / "fake-bin")
    for program in real.directory.iterdir():
        if program.name != "postgres":
            (fake / program.name).symlink_to(program)
    postgres = fake / "postgres"
    postgres.write_text(f"#!/bin/sh\n{script}\n")
    postgres.chmod(0o755)
    return pg_programs.Programs(real.version, fake)


def test_a_cancelled_wait_ends_the_server(data15, programs15, work, nothing_is_left):
    fake = fake_programs(programs15, work.parent, "sleep 60")

    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server_on(data15(), fake, work, checkpoint=cancel).start()


def test_a_superuser_that_does_not_exist_is_named(data15, programs15, work, nothing_is_left):
    with pytest.raises(VerificationFailed, match="role 'nobody_here' cannot log in"):
        server_on(data15(), programs15, work, superuser="nobody_here").start()


def test_a_damaged_control_file_is_named(data15, programs15, work, nothing_is_left):
    data = data15()
    with (data / "global/pg_control").open("r+b") as control:
        control.write(os.urandom(64))
    with pytest.raises(Exception, match="pg_control"):
        server_on(data, programs15, work).start()


def test_a_data_directory_in_use_is_refused(make_cluster, pg_versions, programs15, work):
    cluster = make_cluster(15)
    with pytest.raises(TargetError, match=f"in use by process {cluster.pid}"):
        server_on(cluster.data_directory, programs15, work).start()
    assert cluster.value("select 1") == 1


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


@needs_root
def test_a_data_directory_of_another_user_or_out_of_reach_is_refused(data15, programs15, work, workspace):
    data = data15()
    workspace.chmod(0o700)
    with pytest.raises(TargetError, match="cannot pass directory"):
        server_on(data, programs15, work).start()
    workspace.chmod(0o755)
    os.chown(data, 0, 0)
    with pytest.raises(TargetError, match="belongs to user 0"):
        server_on(data, programs15, work).start()


def test_a_path_too_long_for_a_socket_does_not_matter(data15, programs15, work, nothing_is_left):
    long = make_directory(work / ("x" * 100))
    with server_on(data15(), programs15, long) as server, server.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        place = Path(server.connection_parameters()["host"])
        assert not place.is_relative_to(long)
    assert not place.exists()
    assert not list(long.iterdir())
    long.rmdir()


def test_variables_of_the_engine_do_not_redirect_connections(data15, programs15, work, monkeypatch):
    for name, value in {
        "PGHOST": "/nonexistent",
        "PGPORT": "1",
        "PGUSER": "x",
        "PGSSLMODE": "verify-full",
        "PGOPTIONS": "-c x",
        "PGPASSWORD": "hunter2",
        "PGTARGETSESSIONATTRS": "standby",
    }.items():
        monkeypatch.setenv(name, value)
    with server_on(data15(), programs15, work) as server:
        (pid,) = [pid for pid in postgres_processes(server.data_directory) if b"-D" in command_line(pid)]
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_server_killed_from_outside_leaves_nothing(data15, programs15, work, nothing_is_left):
    server = server_on(data15(), programs15, work)
    server.start()
    pid = int((server.data_directory / "postmaster.pid").read_text().split()[0])
    with server.connect() as connection:
        connection.execute("create table t as select 1")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not postgres_processes(server.data_directory), "the backends are gone, too")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert server.stop() is False
    server.close()


PARENT = """
import os, signal, sys, threading
sys.path[:0] = ["plugins", "."]
from pathlib import Path
from mingus_engine.postgres import programs
from tests.mingus_engine.targets.postgres.test_server import server_on
def work():
    server = server_on(Path(sys.argv[1]), programs.find(15, sys.argv[3]), Path(sys.argv[2]))
    server.start()
    os.kill(os.getpid(), signal.SIGKILL)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_the_server_ends_when_the_engine_is_killed(data15, programs15, work):
    data = data15()
    run = subprocess.run([sys.executable, "-c", PARENT, data, work, programs15.directory], check=False)
    assert run.returncode == -signal.SIGKILL
    wait_until(lambda: not postgres_processes(data), "the server is gone")
    wait_until(lambda: not segments(data), "its shared memory is gone")
    assert not [p for p in work.rglob("*") if p.is_socket()]


def test_a_thread_that_started_the_server_may_end_before_it(data15, programs15, work, nothing_is_left):
    server = server_on(data15(), programs15, work)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert server.stop() is True
    server.close()


def test_a_server_that_does_not_stop_is_killed_with_all_its_children(
    data15, programs15, work, nothing_is_left, monkeypatch
):
    monkeypatch.setattr(server_module, "_FAST", (b"f", 0.2))
    monkeypatch.setattr(server_module, "_IMMEDIATELY", ((b"i", 0.2),))
    server = server_on(data15(), programs15, work)
    server.start()
    pid = int((server.data_directory / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    assert server.stop() is False
    server.close()


def test_nobody_listens_on_the_network(data15, programs15, work):
    with server_on(data15(), programs15, work), socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        inodes = {
            line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        }
        held = set()
        for pid in postgres_processes(work.parent / "data"):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    held.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
                except OSError:
                    continue
        assert not inodes & held


def test_a_missing_version_is_named_with_its_package(tmp_path):
    with pytest.raises(ComponentMissing, match=r"PostgreSQL 99 is not installed.*postgresql-99"):
        pg_programs.find(99)
    with pytest.raises(ComponentMissing, match="no postgres"):
        pg_programs.find(15, str(tmp_path))


def test_the_log_is_followed_in_bounded_memory_and_without_statements(tmp_path):
    path = tmp_path / "log"
    stamp = "2026-01-01 00:00:00.000 UTC [7]"
    path.write_text(
        f"{stamp} FATAL:  the database system is starting up\n"
        f"{stamp} STATEMENT:  select secret\n"
        f"{stamp} LOG:  consistent recovery state reached at 0/30000A0\n" + f"{stamp} LOG:  noise\n" * 50_000
    )
    log = ServerLog(path)
    log.follow()
    with path.open("a") as more:
        more.write(f"{stamp} FATAL:  role failed, Password = 'x y'\n{stamp} HINT:  try again\n{stamp} LOG:  unfinished")
    log.follow()
    assert log.explain() == "FATAL: role failed, Password = *** | HINT: try again"
    assert len(log.last) == 20
    assert workplace.PORT == 5432
