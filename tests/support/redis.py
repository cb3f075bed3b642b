"""Throw-away Redis servers: each in a directory of its own, with a unix socket and a loopback port, gone afterwards.

A server is a direct child of the test process and dies with it. It saves nothing by itself (``save ""``), appends
nothing, and sends replicas their data at once; any directive can be given. Sentinels and clusters are made of the same
class.
"""

import itertools
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import processes
from tests.support.directories import make_directory
from tests.support.processes import wait_until

SERVER = "redis-server"
CLI = "redis-cli"
START_TIMEOUT_S = 30.0
#: Directives of redis.conf; a test's own come after them.
DEFAULTS: dict[str, str] = {
    "bind": "127.0.0.1",
    "protected-mode": "no",
    "save": '""',
    "appendonly": "no",
    "databases": "16",
    "repl-diskless-sync-delay": "0",
    "enable-debug-command": "yes",
    "maxclients": "256",
}
#: What a user needs to take snapshots and check them beforehand; docs/OPERATIONS.md has the same.
BACKUP_RIGHTS = (
    "~* +ping +psync +replconf +info +config|get +acl|list +acl|whoami +acl|dryrun +function|dump +function|list"
    " +module|list +select +scan +type +pexpiretime +memory|usage +get +lrange +smembers +zrange +hgetall +xinfo|stream"
)


class RedisServer:
    """One directory and, between ``start`` and ``stop``, the server on it.

    :param config: directives, ``_`` for ``-``; a list is a directive given several times, ``None`` leaves a default
        out. ``port`` 0 = unix socket only; without it a free one. ``replicaof`` may be a :class:`RedisServer`.
    :param sentinel: run as a Sentinel. :param run_as: account it runs under, default: this process's.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        *,
        sentinel: bool = False,
        run_as: processes.User | None = None,
    ) -> None:
        self.directory = make_directory(directory, owner=run_as)
        self.socket = directory / "redis.sock"
        self.log = directory / "server.log"
        self.config_file = directory / "redis.conf"
        self._sentinel, self._user = sentinel, run_as
        given = {name.replace("_", "-"): value for name, value in config.items()}
        self._port_given = "port" in given
        self.port = int(given.pop("port", 0) or 0) or (0 if self._port_given else free_port())
        self.tls_port = int(given.get("tls-port", 0))
        self.password: str | None = given.get("requirepass")
        master = given.get("replicaof")
        if isinstance(master, RedisServer):
            given["replicaof"] = f"127.0.0.1 {master.port}"
        base = {} if sentinel else DEFAULTS
        self._directives = {**base, **given}
        self._write_config()
        self._process: subprocess.Popen[bytes] | None = None

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, timeout_s: float = START_TIMEOUT_S) -> "RedisServer":
        """Start the server and wait until it answers and has loaded its data; returns self.

        Raises AssertionError with the end of its log if it ends or stays silent.
        """
        for attempt in itertools.count(1):
            self._launch()
            if not wait:
                return self
            try:
                wait_until(self._ready_or_ended, f"Redis in {self.directory} answers", timeout_s=timeout_s)
            except processes.DeadlineExceededError as error:
                self.kill()
                raise AssertionError(f"{error}\n{self.log_tail()}") from None
            if self.is_running:
                return self
            # Another process took the port between free_port() and the bind.
            if attempt == 3 or self._port_given or "in use" not in self.log_tail():
                raise AssertionError(f"Redis in {self.directory} did not start\n{self.log_tail()}")
            self.port = free_port()
            self._write_config()
        raise AssertionError("unreachable")

    def stop(self, *, timeout_s: float = 20) -> None:
        """Shut down as SIGTERM does (with ``save`` points set it writes its RDB). Idempotent."""
        if self._process is not None:
            self.resume()
            processes.stop(self._process, first=signal.SIGTERM, timeout_s=timeout_s)

    def kill(self) -> None:
        """``kill -9`` of the server and the children it forked, as a power cut would. Idempotent."""
        if self._process is not None:
            processes.stop(self._process, first=signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> "RedisServer":
        """Stop (or kill) and start on the same port; returns self."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: it accepts connections, as the kernel does that, and answers nothing."""
        processes.kill_group(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.is_running:
            processes.kill_group(self.pid, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        """True while the server lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's pid; raises AssertionError when it was not started."""
        if self._process is None:
            raise AssertionError(f"Redis in {self.directory} was not started")
        return self._process.pid

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # -- asking -------------------------------------------------------------------------------------------------------

    def client(self, database: int = 0, **options: Any) -> redis.Redis:
        """A client by the unix socket that gives bytes and repeats nothing; closes itself when it is forgotten."""
        options = {"password": self.password, "socket_timeout": 30, "protocol": 2, **options}
        return redis.Redis(unix_socket_path=str(self.socket), db=database, retry=Retry(NoBackoff(), 0), **options)

    def execute(self, *command: str | int | bytes, database: int = 0, raw: bool = False) -> Any:
        """The answer to one command, over a connection of its own; *raw*: as the server gave it."""
        with self.client(database) as client:
            if raw:
                client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self) -> dict[str, Any]:
        """INFO, as redis-py parses it."""
        with self.client() as client:
            found: dict[str, Any] = client.info("everything")
            return found

    def cli(self, *arguments: str | Path, timeout_s: float = 60, check: bool = True) -> str:
        """Output of ``redis-cli`` by the unix socket."""
        secret = {"REDISCLI_AUTH": self.password} if self.password else {}
        line = [CLI, "-s", self.socket, *arguments]
        return processes.run(line, env=secret, timeout_s=timeout_s, check=check).stdout

    def fill(self, keys: int, *, prefix: str = "session:", ttl_s: int = 0, size: int = 100, database: int = 0) -> None:
        """*keys* string keys ``<prefix><n>`` of *size* bytes, each with a TTL if *ttl_s*."""
        with self.client(database) as client:
            for first in range(0, keys, 10000):
                batch = client.pipeline(transaction=False)
                for n in range(first, min(first + 10000, keys)):
                    batch.set(f"{prefix}{n}", f"{n:020d}".encode() * (size // 20 + 1), ex=ttl_s or None)
                batch.execute()

    def connection(self) -> dict[str, Any]:
        """How it is reached by its unix socket, as fields of ``RedisConnection``; the password apart (``password``)."""
        return {"socket": str(self.socket), "user": ""}

    def tcp(self) -> dict[str, Any]:
        """The same over TCP."""
        return {"host": "127.0.0.1", "port": self.port, "user": ""}

    # -- inside -------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = processes.start(
                [SERVER, self.config_file, *(["--sentinel"] if self._sentinel else [])],
                log=log, user=self._user, cwd=self.directory,
            )  # fmt: skip

    def _ready_or_ended(self) -> bool:
        if not self.is_running:
            return True
        try:
            with self.client(socket_timeout=5) as client:
                client.ping()
        except redis.RedisError as error:
            # One that asks for a password, or for another user, is up; one that loads is not.
            return isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError)
        return True

    def _write_config(self) -> None:
        """Directives as CONFIG REWRITE would write them; kept if the server has rewritten the file meanwhile."""
        lines = [f"port {self.port}", f'unixsocket "{self.socket}"', f'dir "{self.directory}"']
        for name, value in self._directives.items():
            if value is None:
                continue
            several: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
            lines.extend(f"{name} {one}" for one in several)
        self.config_file.write_text("\n".join(lines) + "\n")


def free_port() -> int:
    """A free loopback port below 55536: a cluster node's bus listens 10000 above."""
    for _ in range(1000):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55536:
            return port
    raise AssertionError("no free port below 55536")


class RedisCluster:
    """Primaries that share the slots evenly, in their order, and replicas; made of running servers.

    :param nodes: with ``cluster-enabled yes``; the first *primaries* of them, then replicas of them in turn.
    """

    def __init__(self, nodes: Sequence[RedisServer], primaries: int) -> None:
        self.nodes = list(nodes)
        self.primaries, self.replicas = self.nodes[:primaries], self.nodes[primaries:]
        for n, node in enumerate(self.primaries):
            first, last = n * 16384 // primaries, (n + 1) * 16384 // primaries - 1
            node.execute("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for other in self.nodes[1:]:
            self.nodes[0].execute("CLUSTER", "MEET", "127.0.0.1", other.tls_port or other.port)
        wait_until(lambda: all(len(self._known(node)) == len(self.nodes) for node in self.nodes), "the nodes have met")
        for n, replica in enumerate(self.replicas):
            primary = self.primaries[n % primaries].execute("CLUSTER", "MYID")
            replica.execute("CLUSTER", "REPLICATE", primary)
        wait_until(lambda: all(map(self.is_up, self.nodes)), "the cluster is up")
        wait_until(lambda: all(r.info()["master_link_status"] == "up" for r in self.replicas), "replicas follow")

    @staticmethod
    def is_up(node: RedisServer) -> bool:
        """Whether *node* thinks that every slot has an owner."""
        return b"cluster_state:ok" in bytes(node.execute("CLUSTER", "INFO", raw=True))

    def fill(self, keys: int, *, prefix: str = "session:", ttl_s: int = 0) -> None:
        """*keys* string keys, each on the node of its slot."""
        with redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port, protocol=2) as client:
            for n in range(keys):
                client.set(f"{prefix}{n}", n, ex=ttl_s or None)

    def tcp(self) -> dict[str, Any]:
        """How it is reached, as fields of ``RedisConnection``."""
        return {**self.nodes[0].tcp(), "cluster": True}

    @staticmethod
    def _known(node: RedisServer) -> list[bytes]:
        listing = bytes(node.execute("CLUSTER", "NODES", raw=True))
        return [line for line in listing.splitlines() if b"handshake" not in line]
