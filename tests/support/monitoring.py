"""The real monitoring: statsd_exporter, Prometheus and Alertmanager with the very files that compose mounts.

Replaced in a copy of those files are addresses (``statsd-exporter:9102`` and the like → loopback) and the pace
(15 s and 5 min → 1 s), nothing else; what is to be replaced must be there, so that a renamed service fails a test.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.processes import free_port, wait_until
from tests.support.receivers import Mailbox, Posts, mailbox, posts

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "include" / "monitoring"
MAPPING = FILES / "statsd-mapping.yml"


def program(name: str, *others: str) -> Path:
    """The path of a program of the monitoring, in ``.venv`` or on the path; ``scripts/setup.sh dev`` brings all."""
    for candidate in (name, *others):
        found = shutil.which(candidate) or shutil.which(candidate, path=str(ROOT / ".venv" / "bin"))
        if found:
            return Path(found)
    pytest.fail(f"{name} is not installed (scripts/setup.sh dev)")


def get(url: str, timeout_s: float = 10) -> str:
    """The body behind a loopback URL."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())


def _answers(url: str) -> bool:
    try:
        get(url, timeout_s=2)
    except OSError:
        return False
    return True


class Recorder:
    """A UDP socket that keeps what Airflow sends to StatsD, and passes it on to an exporter once there is one."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._exporter: Exporter | None = None
        self._thread = threading.Thread(target=self._run, name="statsd recorder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while datagram := self._socket.recv(65536):
            lines = [line for line in datagram.decode(errors="replace").split("\n") if line]
            with self._lock:
                self._lines += lines
                if self._exporter is not None:
                    self._exporter.send(lines)

    def lines(self) -> list[str]:
        """Everything sent so far, in order."""
        with self._lock:
            return list(self._lines)

    @contextmanager
    def passing_to(self, exporter: Exporter) -> Iterator[None]:
        """Pass on what was sent so far, then what comes, as it comes."""
        with self._lock:
            exporter.send(self._lines)
            self._exporter = exporter
        try:
            yield
        finally:
            with self._lock:
                self._exporter = None

    def close(self) -> None:
        """End it; an empty datagram wakes the thread up."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()


@dataclass(frozen=True)
class Exporter:
    """A running statsd_exporter; lines go by TCP, which loses none."""

    web: int
    statsd: int

    def send(self, lines: Iterable[str]) -> None:
        """Send StatsD lines; returns when they are on the way."""
        text = "".join(f"{line}\n" for line in lines)
        with socket.create_connection(("127.0.0.1", self.statsd), timeout=10) as connection:
            connection.sendall(text.encode())

    def series(self) -> dict[str, float]:
        """What it exposes: ``name{labels}`` → value."""
        found = {}
        for line in get(f"http://127.0.0.1:{self.web}/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def wait_for(self, name: str, *, timeout_s: float = 20) -> float:
        """The value of a series, once it is there (events are flushed five times a second)."""
        return wait_until(lambda: [v for n, v in self.series().items() if n == name], name, timeout_s=timeout_s)[0]


@contextmanager
def running_exporter(directory: Path, mapping: Path = MAPPING) -> Iterator[Exporter]:
    """A statsd_exporter with a mapping, for the time of the context."""
    exporter = Exporter(free_port(), free_port())
    command: list[str | Path] = [
        program("statsd_exporter"),
        f"--statsd.mapping-config={mapping}",
        f"--web.listen-address=127.0.0.1:{exporter.web}",
        f"--statsd.listen-tcp=127.0.0.1:{exporter.statsd}",
        f"--statsd.listen-udp=127.0.0.1:{exporter.statsd}",
    ]
    with running_program(command, directory / "statsd_exporter.log", f"http://127.0.0.1:{exporter.web}/metrics"):
        yield exporter


@contextmanager
def running_program(
    command: list[str | Path], log: Path, url: str, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A program that answers at *url*, for the time of the context. :param env: added to this process's."""
    with log.open("wb") as output:
        process = processes.start(command, log=output, env=env)
        try:

            def ready() -> bool:
                assert process.poll() is None, f"{command[0]} ended:\n{log.read_text(errors='replace')}"
                return _answers(url)

            wait_until(ready, f"{url} answers; see {log}", timeout_s=60)
            yield
        finally:
            processes.stop(process)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The result of an instant query: vectors' elements. :param at: Unix time; default: now.

        :raises AssertionError: Prometheus refused it; the text holds why.
        """
        when = {} if at is None else {"time": str(at)}
        return list(self._get("query", {"query": expression, **when})["result"])

    def range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """The result of a query over a time: one element a series.

        :raises AssertionError: Prometheus refused it; the text holds why.
        """
        over = {"start": str(start), "end": str(end), "step": str(step_s)}
        return list(self._get("query_range", {"query": expression, **over})["result"])

    def firing(self) -> set[str]:
        """The names of alerts that fire."""
        return {a["labels"]["alertname"] for a in self._get("alerts", {})["alerts"] if a["state"] == "firing"}

    def targets(self) -> dict[str, str]:
        """Job → health of its target."""
        return {t["labels"]["job"]: t["health"] for t in self._get("targets", {})["activeTargets"]}

    def _get(self, what: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            answer: dict[str, Any] = json.loads(get(url, timeout_s=30))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        found: dict[str, Any] = answer["data"]
        return found


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    """*text* with every key replaced; a key that is not there is an error."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} is to be replaced and is not there"
        text = text.replace(old, new)
    return text


@contextmanager
def running_prometheus(
    directory: Path, addresses: Mapping[str, str], *flags: str, own_pace: bool = False
) -> Iterator[Prometheus]:
    """A Prometheus with the files of compose, for the time of the context.

    :param addresses: service of compose (``statsd-exporter:9102``) → what answers for it here.
    :param own_pace: leave the intervals as they are.
    """
    home = directory / "prometheus"
    shutil.copytree(FILES / "rules", home / "rules")
    port = free_port()
    text = replaced((FILES / "prometheus.yml").read_text(), {"localhost:9090": f"127.0.0.1:{port}", **addresses})
    text = text if own_pace else replaced(text, {"_interval: 15s": "_interval: 1s"})
    (home / "prometheus.yml").write_text(text)
    targets = home / "rules" / "targets.yml"
    if not own_pace:
        targets.write_text(replaced(targets.read_text(), {"interval: 5m": "interval: 1s", "d:5m]": "d:1s]"}))
    command: list[str | Path] = [
        program("prometheus"),
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.resend-delay=1s",
        *flags,
    ]
    url = f"http://127.0.0.1:{port}"
    with running_program(command, directory / "prometheus.log", f"{url}/-/ready"):
        yield Prometheus(url)


@contextmanager
def running_alertmanager(directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """An Alertmanager started by the entry script of compose, with *environment*; its address, ``host:port``."""
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        *("sh", FILES / "alertmanager-entry.sh"),
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    environment = {
        "ALERTMANAGER_PROGRAM": str(program("alertmanager", "prometheus-alertmanager")),
        "ALERTMANAGER_TEMPLATE": str(FILES / "alertmanager.yml"),
        "ALERTMANAGER_CONFIG": str(directory / "alertmanager.yml"),
        **environment,
    }
    with running_program(command, directory / "alertmanager.log", f"http://{address}/-/ready", environment):
        yield address


@dataclass(frozen=True)
class Monitoring:
    """Everything from StatsD to the message received."""

    exporter: Exporter
    prometheus: Prometheus
    mails: Mailbox
    posts: Posts

    def mail_about(self, words: str, *, timeout_s: float = 90) -> str:
        """The text of the first mail whose subject contains *words*."""

        def found() -> list[str]:
            return [text for subject, text in self.mails.texts() if words in subject]

        return wait_until(found, f"a mail about {words!r}", timeout_s=timeout_s)[0]

    def slack_about(self, words: str, *, timeout_s: float = 90) -> str:
        """The first message to Slack that contains *words*."""
        return wait_until(
            lambda: [body for body in self.posts.to("/slack") if words in body],
            f"a message to Slack about {words!r}",
            timeout_s=timeout_s,
        )[0]


@contextmanager
def running_monitoring(directory: Path) -> Iterator[Monitoring]:
    """statsd_exporter, Prometheus, Alertmanager, an SMTP server, and an HTTP server as Slack and dead man's service."""
    with ExitStack() as stack:
        exporter = stack.enter_context(running_exporter(directory))
        mails = stack.enter_context(mailbox())
        received = stack.enter_context(posts())
        channels = {
            "EMAIL_ALERTS_ENABLED": "true",
            "EMAIL_SMTP_SERVER": f"127.0.0.1:{mails.port}",
            "EMAIL_TO": "operators@example.com",
            "EMAIL_FROM": "mingus@example.com",
            "EMAIL_REQUIRE_TLS": "false",
            "SLACK_WEBHOOK_URL": f"{received.url}/slack",
            "DEADMAN_URL": f"{received.url}/deadman",
        }
        alertmanager = stack.enter_context(running_alertmanager(directory, channels))
        addresses = {"statsd-exporter:9102": f"127.0.0.1:{exporter.web}", "alertmanager:9093": alertmanager}
        prometheus = stack.enter_context(running_prometheus(directory, addresses))
        yield Monitoring(exporter, prometheus, mails, received)
