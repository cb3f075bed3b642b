"""A terminal on the other side: progress bars, prompts, Ctrl-C."""

import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.cli import signals
from mingus_engine.repository import runs
from tests.mingus_engine.cli.support import Made, make
from tests.support.processes import wait_until
from tests.support.repositories import MadeSource, noise

VERIFY = ("verify", "ledger", "--level", "L2", "--repository", "primary")


@pytest.fixture
def slow(tmp_path: Path) -> Made:
    """Three seconds of L1, then three of L2, in several requests."""
    files = {b"base/%d" % i: noise(1 << 20, i) for i in range(12)}
    return make(tmp_path, tree=MadeSource(files=files), bandwidth=4 << 20)


class Terminal:
    """A process whose stderr (or everything) is a terminal; ``text`` is what it has shown so far."""

    def __init__(self, start: Callable[[int], Any]) -> None:
        self._master, slave = pty.openpty()
        self.process = start(slave)
        os.close(slave)
        self.text = ""

    def read(self) -> str:
        """What is there, without waiting long."""
        while select.select([self._master], [], [], 0.05)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                break  # the other side is closed
            if not data:
                break
            self.text += data.decode()
        return self.text

    def wait(self, timeout_s: float = 60) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        self.read()
        return int(self.process.wait(timeout=1))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        self.process.__exit__()
        os.close(self._master)


@pytest.fixture
def terminals() -> Iterator[Callable[[Callable[[int], Any]], Terminal]]:
    made: list[Terminal] = []

    def make_terminal(start: Callable[[int], Any]) -> Terminal:
        made.append(Terminal(start))
        return made[-1]

    yield make_terminal
    for terminal in made:
        terminal.close()


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end(slow: Made, terminals: Callable[..., Terminal]) -> None:
    terminal = terminals(
        lambda tty: slow.cli.start(*VERIFY, "--json", stderr=tty, environment={"TERM": "xterm", "COLUMNS": "100"})
    )
    assert terminal.wait() == 0
    frames = terminal.text.split("\r\x1b[K")
    bars = [f for f in frames if f.startswith("verify L1  [")]
    assert len(bars) > 3
    shares = [int(m[1]) for bar in bars if (m := re.search(r"\] +(\d+) %", bar))]
    assert shares == sorted(shares)
    assert len(set(shares)) > 1
    assert any(re.search(r"of 12\.\d MiB  \d+\.\d .iB/s  ETA 0:0\d", bar) for bar in bars)
    assert all(len(bar) < 100 for bar in bars)
    # What stays: one line per phase, nothing half-drawn.
    assert re.fullmatch(r"verify L2  \d+\.\d MiB  \d\.\d s\r\n", frames[-1])
    assert terminal.text.count("\n") == 2
    assert b"verify" in terminal.process.stdout.read()


def test_quiet_shows_no_bar(slow: Made, terminals: Callable[..., Terminal]) -> None:
    terminal = terminals(lambda tty: slow.cli.start(*VERIFY, "--quiet", stderr=tty, environment={"TERM": "xterm"}))
    assert terminal.wait() == 0
    assert terminal.text == ""


def test_without_a_terminal_progress_is_whole_lines(slow: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\n"
        "from mingus_engine.cli import console, progress\n"
        "real = progress.ProgressDisplay\n"
        "console.ProgressDisplay = lambda *a, **k: real(*a, **k, interval_s=0.3)\n"
        "from mingus_engine.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [slow.cli.command()[0], "-c", code, *VERIFY]
    done = subprocess.run(command, env=slow.cli.env({}), cwd=slow.cli.directory, capture_output=True, check=False)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0
    assert len(lines) > 2
    assert "\x1b" not in done.stderr.decode()
    assert all(re.fullmatch(r"verify L[12]: \d+ %, .* of 12\.\d MiB(, .*/s)?(, ETA 0:\d\d)?", line) for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_job(number: signal.Signals, slow: Made) -> None:
    with slow.cli.start(*VERIFY) as process:
        _wait_for_run(slow)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"mingus: {number.name}: stopping and cleaning up".encode() in err
    assert b"mingus: error: the job was cancelled" in err


def test_a_signal_may_come_while_the_job_looks_at_its_cancel_event() -> None:
    # Event.wait and Event.set share a lock that the interrupted thread may hold.
    cancel, said = threading.Event(), threading.Event()
    with signals.stopping(cancel, lambda _: said.set()):
        with cancel._cond:  # type: ignore[attr-defined]  # the moment that a signal rarely hits
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        assert cancel.wait(10)
        assert said.wait(10)


def test_a_signal_that_the_caller_ignores_stays_ignored(slow: Made) -> None:
    # As nohup does it.
    with slow.cli.start(*VERIFY, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        _wait_for_run(slow)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_ctrl_c_ends_cat_although_nobody_reads_its_pipe(tmp_path: Path) -> None:
    made = make(tmp_path, tree=MadeSource(files={b"big": noise(4 << 20, "big")}))
    with made.cli.start("cat", "latest", "big") as process:
        wait_until(lambda: select.select([process.stdout], [], [], 0)[0], "cat writes")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        process.communicate()


def test_the_second_signal_ends_a_process_that_does_not_stop(slow: Made) -> None:
    fifo = slow.cli.directory / "fifo"
    os.mkfifo(fifo)
    arguments = ("keys", "add-passphrase", "primary", "--passphrase-file", str(fifo))
    with slow.cli.start(*arguments) as process:
        writer = wait_until(lambda: _opened_by_a_reader(fifo), "it opened the pipe, from which nothing comes")
        process.send_signal(signal.SIGINT)
        assert b"SIGINT: stopping" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        os.close(writer)


def test_a_passphrase_is_asked_for_without_echo(slow: Made, terminals: Callable[..., Terminal]) -> None:
    passphrase = "correct horse battery"
    terminal = terminals(lambda tty: _on_terminal(slow, tty))
    for prompt in ("New passphrase: ", "Again: "):
        wait_until(lambda prompt=prompt: prompt in terminal.read(), prompt)
        terminal.type(passphrase + "\n")
    assert terminal.wait() == 0
    assert passphrase not in terminal.text
    opened = slow.cli("ls", "latest", BACKUP_ENCRYPTION_KEY="", MINGUS_PASSPHRASE=passphrase)
    assert opened.code == 0


def test_ctrl_c_ends_the_prompt_for_a_passphrase(slow: Made, terminals: Callable[..., Terminal]) -> None:
    before = slow.repository.names("config/")
    terminal = terminals(lambda tty: _on_terminal(slow, tty))
    wait_until(lambda: "New passphrase: " in terminal.read(), "the prompt")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() == 130
    assert slow.repository.names("config/") == before


def _opened_by_a_reader(fifo: Path) -> int:
    """A descriptor for writing, once somebody reads; else 0."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def _on_terminal(made: Made, tty: int) -> Any:
    return made.cli.start(
        "keys", "add-passphrase", "primary", stdin=tty, stdout=tty, stderr=tty,
        environment={"TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip


def _wait_for_run(made: Made) -> None:
    def reading() -> bool:
        for name in made.repository.names("runs/"):
            with suppress(FileNotFoundError):
                if runs.READ.encode() in made.repository.path(name).read_bytes():
                    return True
        return False

    wait_until(reading, "the job reads")
