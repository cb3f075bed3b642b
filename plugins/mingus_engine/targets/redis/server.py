"""A throw-away Redis on a restored data directory: private, mute, and gone in every outcome."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from mingus_engine.errors import SourceError, VerificationFailed
from mingus_engine.programs.accounts import Account
from mingus_engine.programs.running import Guarded
from mingus_engine.redis.client import connect, connected
from mingus_engine.redis.programs import Programs
from mingus_engine.settings import RedisConnection
from mingus_engine.targets.paths import shown, translated
from mingus_engine.targets.places import require_passable
from mingus_engine.targets.redis import layout
from mingus_engine.targets.redis.layout import ServerFiles

# sun_path has 108 bytes on Linux, one of them the NUL.
_SOCKET_PATH_MAX_BYTES = 107
_SOCKET = "redis.sock"
_POLL_S = 0.05
_TERM_S = 15.0
_CLIENTS = 32
_LOG_LINES = 8
_LOG_TAIL_BYTES = 16 * 1024
# A server that is asked while it executes a long script or loads answers late, or that it is busy.
_ANSWER_S = 30.0


@dataclass(frozen=True)
class Started:
    """How a server came up. :param loaded_s: seconds until it answered with all data loaded; part of the RTO."""

    loaded_s: float


class ThrowAwayRedis:
    """Starts with ``start`` (or ``with``), ends with ``close``, which may be called in any state and more than once.

    It has no network, saves nothing, evicts nothing, follows nobody, and does not accept an append-only file that is
    cut off. Its configuration is not read: all is on its command line, and nothing of it is secret. When the engine
    dies, the server is killed (:mod:`mingus_engine.programs.guardian`).

    :param files: what was restored, and how it is named. :param databases: how many it had.
    :param account: who runs it when the engine is root, and owns *root*. :param work_dir: existing, for log and socket.
    :param checkpoint: called some times a second while waiting; what it raises ends the server.
    """

    def __init__(
        self,
        root: Path,
        files: ServerFiles,
        programs: Programs,
        *,
        account: Account | None,
        work_dir: Path,
        databases: int = 16,
        start_timeout_s: float = 3600,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = root.absolute() / os.fsdecode(files.below)
        self.programs, self.account = programs, account
        self._files, self._databases = files, databases
        self._work_dir = work_dir.absolute()
        self._timeout_s, self._checkpoint = start_timeout_s, checkpoint
        self._made: list[Path] = []
        self._socket = Path("/nonexistent")
        self._log = Path("/nonexistent")
        self._server: Guarded | None = None

    def start(self) -> Started:
        """Start the server and wait until it has loaded everything.

        :raises VerificationFailed: it ended, or did not come up in time; the message has its log's lines.
        :raises ComponentMissing: the program is missing. :raises TargetError: the directory is not usable by *account*.
        """
        try:
            return self._start()
        except BaseException:
            self.close()
            raise

    def client(self, database: int = 0, timeout_s: float = 600) -> redis.Redis:
        """A client over the private socket; the caller closes it.

        :raises SourceError: the server is gone.
        """
        return connect(self.connection, timeout_s=timeout_s, database=database)

    @property
    def connection(self) -> RedisConnection:
        """How it is reached; given completely, so that no variable of the engine decides anything."""
        return RedisConnection(host="", port=0, socket=str(self._socket), user="", password_env="")

    def stop(self) -> bool:
        """End the server: SIGTERM, then SIGKILL. True when it ended by itself. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return False
        server.order(b"t")
        if not server.wait(_TERM_S):
            server.kill()
        return server.code == 0

    def close(self) -> None:
        """Kill the server and remove what it needed; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.kill()
        for directory in self._made:
            shutil.rmtree(directory, ignore_errors=True)
        self._made.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Started:
        with translated(self.directory):
            if self.account is not None:
                for directory in (*self.directory.parents, *self._work_dir.parents):
                    require_passable(directory, self.account)
            run = self._make(self._work_dir)
            place = run
            if len(os.fsencode(run / _SOCKET)) > _SOCKET_PATH_MAX_BYTES:
                place = self._make(Path(tempfile.gettempdir()))
            self._socket, self._log = place / _SOCKET, run / "log"
        started = time.monotonic()
        with self._log.open("ab") as output:
            self._server = self.programs.start(
                self.programs.server, self._arguments(), account=self.account, output=output.fileno()
            )
        where = f"{self.programs.server} {self.programs.version} on {shown(self.directory)}"
        while True:
            ended = self._server.wait(_POLL_S)
            seconds = round(time.monotonic() - started, 3)
            if ended:
                raise VerificationFailed(f"{where} did not start (exit status {self._server.code}): {self._explain()}")
            if self._has_loaded():
                return Started(seconds)
            if seconds > self._timeout_s:
                raise VerificationFailed(f"{where} has not loaded after {seconds:.0f} s: {self._explain()}")
            self._checkpoint()

    def _arguments(self) -> list[str]:
        names, append = self._files.names, self._files.form == layout.AOF
        options = {
            "dir": str(self.directory),
            "dbfilename": names.dbfilename,
            "appendonly": "yes" if append else "no",
            "appenddirname": names.appenddirname,
            "appendfilename": names.appendfilename,
            "aof-load-truncated": "no",
            "auto-aof-rewrite-percentage": "0",
            "appendfsync": "no",
            "save": "",
            "port": "0",
            "bind": "",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "databases": str(self._databases),
            "maxclients": str(_CLIENTS),
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "cluster-enabled": "no",
            "daemonize": "no",
            "logfile": "",
            "crash-log-enabled": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _has_loaded(self) -> bool:
        if not self._socket.exists():
            return False
        try:
            with connected(self.connection, timeout_s=_ANSWER_S) as client:
                client.ping()
        except (redis.RedisError, SourceError):
            return False  # it loads, or does not listen yet; its end is seen elsewhere
        return True

    def _explain(self) -> str:
        """The last lines of the log, without dates and without what a server says to everybody."""
        try:
            raw = self._log.read_bytes()[-_LOG_TAIL_BYTES:]
        except OSError:
            return "it left no log"
        lines = [line.strip() for line in raw.decode(errors="replace").splitlines()]
        said = [line.partition(" # ")[2] or line for line in lines if line and "overcommit" not in line]
        return "; ".join(said[-_LOG_LINES:]) or "it said nothing"

    def _make(self, parent: Path) -> Path:
        made = Path(tempfile.mkdtemp(prefix="redis-", dir=parent))
        self._made.append(made)
        if self.account is not None:
            os.chown(made, *self.account.owner)
        return made
