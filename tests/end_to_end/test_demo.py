"""``python -m demo``: its own directory, its own processes, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import places, processes, traces
from demo.errors import DemoError
from tests.support.processes import is_running, wait_until

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]


@pytest.fixture
def home(workspace: Path) -> Iterator[Path]:
    """A directory for a demo; what it leaves is ended."""
    home = workspace / "demo"
    yield home
    if home.exists():
        traces.end(home, home / "servers", timeout_s=1)


def demo(home: Path, verb: str, **options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", verb],
        env={**os.environ, "MINGUS_DEMO_DIR": str(home), "MINGUS_DEMO_SIZE_MB": "20", **options},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


class TestPlaces:
    def test_a_directory_with_somebody_elses_files_is_refused_and_left_alone(self, home: Path) -> None:
        home.mkdir()
        (home / "thesis.tex").write_text("dear")
        with pytest.raises(DemoError, match="holds files that are not the demo's"):
            places.make(home)
        for verb in ("up", "down"):
            process = demo(home, verb)
            assert "holds files that are not the demo's" in process.communicate(timeout=60)[0]
            assert process.returncode == 1
        assert (home / "thesis.tex").read_text() == "dear"

    def test_what_was_made_is_found_again_and_removed_completely(self, home: Path) -> None:
        made = places.make(home)
        assert places.find(home) == made
        places.remove(made)
        assert places.find(home) is None
        assert not home.exists()
        assert not made.servers.exists()

    def test_servers_go_elsewhere_when_their_account_cannot_pass(self, workspace: Path) -> None:
        if places.server_account() is None:
            pytest.skip("servers run as whoever runs the tests")
        closed = workspace / "closed"
        closed.mkdir(mode=0o700)
        made = places.make(closed / "demo")
        assert not made.servers.is_relative_to(closed)
        places.remove(made)
        assert not made.servers.exists()

    def test_one_demo_at_a_time_and_the_kernel_forgets_a_dead_one(self, home: Path) -> None:
        places.make(home)
        assert places.runner(home) is None
        with places.running(home):
            assert places.runner(home) == os.getpid()
            with pytest.raises(DemoError, match="running already"), places.running(home):
                pass
        assert places.runner(home) is None

    def test_ports_are_free_and_different(self) -> None:
        assert len(set(places.free_ports(20))) == 20


class TestTraces:
    def test_a_process_is_found_by_its_mark_wherever_it_works(self, home: Path) -> None:
        places.make(home)
        process = subprocess.Popen(SLEEP, env={**os.environ, traces.MARK: str(home)}, cwd="/", start_new_session=True)
        assert traces.find(home) == [process.pid]
        assert traces.find(home.parent / "another") == []
        assert traces.end(home) == 1
        assert process.wait(10) == -signal.SIGTERM

    def test_a_process_that_lost_its_mark_is_found_by_its_session(self, home: Path) -> None:
        places.make(home)
        child = "import subprocess, sys; subprocess.run(['env', '-i', *sys.argv[1:]])"
        process = processes.start([sys.executable, "-c", child, *SLEEP], mark=home, log=home / "log", cwd=home)
        wait_until(lambda: len(traces.find(home)) == 2, "the child is there")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        (orphan,) = traces.find(home)
        assert traces.end(home) == 1
        wait_until(lambda: not is_running(orphan), "the orphan has ended")

    def test_a_redis_in_the_demos_directory_is_found_whoever_started_it(self, home: Path) -> None:
        places.make(home)
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", "s.sock", "--save", ""],
            cwd=home / "servers",
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert traces.find(home, home / "servers") == [process.pid]
        assert traces.end(home, home / "servers") == 1
        assert process.wait(10) is not None

    def test_a_shell_of_the_user_in_the_demos_directory_is_left_alone(self, home: Path) -> None:
        places.make(home)
        shell = subprocess.Popen(SLEEP, cwd=home, start_new_session=True)
        assert traces.find(home) == []
        shell.kill()
        shell.wait(10)

    def test_a_number_that_another_process_has_now_is_no_trace(self, home: Path) -> None:
        places.make(home)
        stranger = subprocess.Popen(SLEEP, cwd=home, start_new_session=True)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (home / "sessions").write_text(f"{boot} {stranger.pid} 1\nanother-boot {stranger.pid} 1\n")
        assert traces.find(home) == []
        stranger.kill()
        stranger.wait(10)

    def test_started_processes_end_when_who_started_them_is_killed(self, home: Path) -> None:
        places.make(home)
        starter = (
            "import sys, time; from pathlib import Path; from demo import processes;"
            f"home = Path({str(home)!r});"
            f"print(processes.start({SLEEP!r}, mark=home, log=home / 'log').pid, flush=True); time.sleep(300)"
        )
        parent = subprocess.Popen([sys.executable, "-c", starter], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait(10)
        parent.stdout.close()
        wait_until(lambda: not is_running(pid), "the child has ended with its parent")


@pytest.mark.airflow
@pytest.mark.slow
@pytest.mark.timeout(600)
class TestUpAndDown:
    def test_up_proves_a_backup_and_down_leaves_nothing(self, home: Path) -> None:
        process = demo(home, "up", MINGUS_DEMO_ONCE="1")
        output, _ = process.communicate(timeout=540)
        assert process.returncode == 0, output
        assert output.count("PROVEN") == 5
        assert re.search(r"RESTORED from offsite: 50500 keys .* 50000 of them with their time to live", output)
        assert re.search(
            r"RESTORED from offsite: 42 files and directories made again; all 282 files with their content", output
        )
        for said in ("RTO", "checks", "ratio", "login: admin / ", "escrow key of primary"):
            assert said in output
        assert "FAILED" not in output
        wait_until(lambda: not traces.find(home, home / "servers"), "all processes have ended")
        key = re.search(r"BACKUP_ENCRYPTION_KEY='(\w+)'", (home / "env").read_text())
        assert key
        assert key[1] not in output
        for private in ("env", "escrow-keys.txt", "ledger-password", "sessions-password"):
            assert (home / private).stat().st_mode & 0o077 == 0
        down = demo(home, "down")
        assert "removed" in down.communicate(timeout=60)[0]
        assert not home.exists()

    def test_down_cleans_up_after_an_up_that_was_killed(self, home: Path) -> None:
        process = demo(home, "up")
        wait_until(
            lambda: len(traces.find(home, home / "servers")) > 12, "Airflow and PostgreSQL are there", timeout_s=120
        )
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        began = time.monotonic()
        down = demo(home, "down")
        output, _ = down.communicate(timeout=120)
        assert down.returncode == 0, output
        assert traces.find(home, home / "servers") == []
        assert not home.exists()
        assert time.monotonic() - began < 60
