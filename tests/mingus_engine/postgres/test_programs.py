"""Finding and running PostgreSQL's programs, and the guardian that ends them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mingus_engine.errors import ComponentMissing, Damaged, MingusError
from mingus_engine.postgres import control_data, programs
from mingus_engine.programs import accounts, running
from tests.support.directories import make_directory
from tests.support.processes import is_running, unprivileged_user, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


@pytest.fixture
def scripts(workspace):
    """Makes `Programs` of shell scripts."""
    folder = make_directory(workspace / "bin")

    def make(**texts):
        for name, text in texts.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        return programs.Programs(15, folder)

    return make


def account():
    user = unprivileged_user()
    return accounts.account(user.name) if user else None


def test_every_tested_version_is_found_in_its_directory(pg_version):
    found = programs.find(pg_version.major, str(pg_version.bin_directory))
    assert found.run("postgres", ["--version"], account=None, timeout_s=30).code == 0
    assert found.library_directory is not None
    assert (found.library_directory / "plpgsql.so").exists()


def test_debians_layout_and_the_path_are_looked_through(pg_versions, monkeypatch):
    assert programs.find(15).directory == pg_versions[15].bin_directory
    monkeypatch.setenv("PATH", str(pg_versions[16].bin_directory))
    assert programs.find(16).directory == pg_versions[16].bin_directory


def test_a_directory_with_another_version_is_named(pg_versions):
    with pytest.raises(ComponentMissing, match=r"PostgreSQL 18 is not installed.*\(PostgreSQL 15\)"):
        programs.find(18, str(pg_versions[15].bin_directory))


def test_a_missing_program_is_named_with_its_package(scripts):
    with pytest.raises(ComponentMissing, match=r"program pg_amcheck of PostgreSQL 15 .*postgresql-15"):
        scripts().run("pg_amcheck", [], account=None, timeout_s=1)


def test_nothing_of_the_engines_environment_reaches_a_program(scripts, monkeypatch):
    monkeypatch.setenv("BACKUP_ENCRYPTION_KEY", "hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    done = scripts(show="env").run("show", [], account=account(), timeout_s=10, environment={"PGOPTIONS": "-c a=b"})
    names = {line.split("=")[0] for line in done.output.splitlines()}
    assert "hunter2" not in done.output
    assert names <= {"PATH", "HOME", "LC_ALL", "TZ", "PGOPTIONS", "PWD", "OLDPWD", "SHLVL", "_"}


@needs_root
def test_root_runs_programs_as_the_account_without_roots_groups(scripts):
    user = account()
    done = scripts(who="id -u; id -g; id -G").run("who", [], account=user, timeout_s=10)
    assert done.output.split() == [str(user.uid), str(user.gid), str(user.gid)]
    with pytest.raises(ComponentMissing, match="nobody_knows"):
        accounts.account("nobody_knows")
    with pytest.raises(ComponentMissing, match="is root"):
        accounts.account("root")


def test_exit_status_signal_and_output_are_told(scripts):
    run = scripts(fail="echo out; echo err >&2; exit 3", crash="kill -SEGV $$")
    done = run.run("fail", [], account=None, timeout_s=10)
    assert (done.code, done.first_lines(5)) == (3, "out; err")
    assert run.run("crash", [], account=None, timeout_s=10).code == -signal.SIGSEGV


def test_output_without_end_is_cut(scripts):
    done = scripts(talk="head -c 3000000 /dev/zero | tr '\\0' x").run("talk", [], account=None, timeout_s=30)
    assert len(done.output) == running.OUTPUT_MAX_BYTES


def test_a_program_that_hangs_is_killed_with_its_children(scripts, workspace):
    run = scripts(hang=f"setsid sleep 1000 & echo $! > {workspace}/pid; wait")
    with pytest.raises(MingusError, match="hang did not end within 1 s"):
        run.run("hang", [], account=None, timeout_s=1)
    assert not is_running(int((workspace / "pid").read_text()))


def test_what_a_checkpoint_raises_ends_the_program(scripts, workspace):
    run = scripts(hang=f"echo $$ > {workspace}/pid; exec sleep 1000")

    def cancel():
        if (workspace / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run("hang", [], account=None, timeout_s=100, checkpoint=cancel)
    assert not is_running(int((workspace / "pid").read_text()))


PARENT = """
import sys
sys.path[:0] = ["plugins"]
from pathlib import Path
from mingus_engine.postgres import programs
programs.Programs(15, Path(sys.argv[1])).run("hang", [], account=None, timeout_s=100)
"""


@pytest.mark.parametrize("victim", ["engine", "guardian"])
def test_a_program_does_not_outlive_the_engine_or_its_guardian(scripts, workspace, victim):
    run = scripts(
        hang=f"echo $$ $PPID > {workspace}/pids.new; mv {workspace}/pids.new {workspace}/pids; exec sleep 1000"
    )
    engine = subprocess.Popen([sys.executable, "-c", PARENT, run.directory])
    try:
        wait_until((workspace / "pids").exists, "the program runs")
        pid, guardian = (int(text) for text in (workspace / "pids").read_text().split())
        os.kill(engine.pid if victim == "engine" else guardian, signal.SIGKILL)
        wait_until(lambda: not is_running(pid) and not is_running(guardian), "both are gone", timeout_s=5)
    finally:
        engine.kill()
        engine.wait()


def test_a_guardian_costs_little(scripts):
    run = scripts(nothing="exit 0")
    run.run("nothing", [], account=None, timeout_s=10)
    began = time.monotonic()
    for _ in range(5):
        run.run("nothing", [], account=None, timeout_s=10)
    assert (time.monotonic() - began) / 5 < 2


def test_the_control_file_is_read_by_the_versions_own_program(make_cluster, pg_version):
    cluster = make_cluster(pg_version.major, start=False, wal_segment_mib=1)
    found = control_data.read(
        cluster.data_directory, programs.find(pg_version.major, str(pg_version.bin_directory)), account()
    )
    raw = (cluster.data_directory / "global/pg_control").read_bytes()
    assert control_data.system_identifier(raw) == found.system_identifier
    assert (found.state, found.checksums, found.wal_segment_bytes) == ("shut down", True, 1 << 20)
    assert found.minimums["max_connections"] > 0
    assert set(found.minimums) == set(control_data.STANDBY_PARAMETERS.values())


def test_a_damaged_control_file_is_refused(make_cluster, pg_version):
    cluster = make_cluster(pg_version.major, start=False)
    control = cluster.data_directory / "global/pg_control"
    content = bytearray(control.read_bytes())
    content[100] ^= 1
    control.write_bytes(content)
    used = programs.find(pg_version.major, str(pg_version.bin_directory))
    with pytest.raises(Damaged, match="pg_control"):
        control_data.read(cluster.data_directory, used, account())
    with pytest.raises(Damaged, match="3 bytes"):
        control_data.system_identifier(b"abc")
    assert isinstance(used.directory, Path)
