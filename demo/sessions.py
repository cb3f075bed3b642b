"""The demo's Redis: sessions with times to live; lost on purpose, restored, and compared key by key."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo import processes
from demo.errors import DemoError
from demo.places import Places, free_ports

SESSIONS = 50_000
_SETTINGS = 500
_BATCH = 5_000
_START_TIMEOUT_S = 30.0
#: Database, name of a key → when it expires (ms since 1970, -1 = never) and the digest of its content.
Keys = dict[tuple[int, bytes], tuple[int, bytes]]


class Sessions:
    """One ``redis-server`` below ``places.servers``, reached over loopback with a password."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._process: subprocess.Popen[bytes] | None = None
        self.home = places.servers / "sessions"
        self.restored = places.servers / "sessions-restored"
        self.port = 0
        self.password = secrets.token_urlsafe(24)

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._places.logs / "redis.log"

    def start(self, directory: Path | None = None) -> None:
        """Start the server on its directory, or on a restored one; call it in the main thread (see ``demo.processes``).

        :raises DemoError: it does not answer in time.
        """
        directory = directory or self.home
        if not directory.exists():
            directory.mkdir(mode=0o700)
            self._own(directory)
        configuration = self._places.servers / "sessions.conf"
        configuration.touch(mode=0o600)
        self._own(configuration)
        for attempt in (1, 2, 3):
            # Started again it is where the settings say, unless somebody else is there now.
            self.port = self.port if attempt == 1 and self.port else free_ports(1)[0]
            # The password is not on the command line, where everybody on this machine could read it.
            lines = [f"port {self.port}", "bind 127.0.0.1", f'requirepass "{self.password}"', f'dir "{directory}"']
            lines += ['save ""', "appendonly no", "repl-diskless-sync-delay 0", "databases 4"]
            configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self._process = processes.start(
                ["redis-server", configuration],
                mark=self._places.root,
                log=self.log,
                account=self._places.account,
                cwd=directory,
            )
            if self._answers():
                return
            self.stop()
            if attempt == 3:
                raise DemoError(f"Redis did not start:\n{processes.log_tail(self.log)}")

    def stop(self) -> None:
        """End the server; idempotent."""
        if self._process is not None:
            processes.stop([self._process])
            self._process = None

    def fill(self) -> None:
        """Sessions that expire within a day (database 0), and settings that never do (database 1)."""
        with self._client(0) as client:
            for first in range(0, SESSIONS, _BATCH):
                batch = client.pipeline(transaction=False)
                for number in range(first, first + _BATCH):
                    key = f"session:{hashlib.sha256(str(number).encode()).hexdigest()[:24]}"
                    user = json.dumps({"id": number, "name": f"user{number}@example.com", "roles": ["customer"]})
                    batch.hset(key, mapping={"user": user, "csrf": secrets.token_hex(16), "seen": number * 7919})
                    batch.pexpire(key, 3_600_000 + number * 1013 % 82_800_000)
                batch.execute()
        with self._client(1) as client:
            batch = client.pipeline(transaction=False)
            for number in range(_SETTINGS):
                batch.set(f"setting:{number}", secrets.token_hex(20))
            batch.execute()

    def keys(self) -> Keys:
        """Everything the server holds."""
        found: Keys = {}
        for database, read in ((0, "HGETALL"), (1, "GET")):
            with self._client(database) as client:
                names = list(client.scan_iter(count=_BATCH))
                for some in _batches(names):
                    # Not by DUMP: each server process has an order of its own for the fields of a hash.
                    batch = client.pipeline(transaction=False)
                    for name in some:
                        batch.pexpiretime(name)
                        batch.execute_command(read, name)
                    answers = batch.execute()
                    for name, expires, content in zip(some, answers[::2], answers[1::2], strict=True):
                        fields = sorted(content.items()) if isinstance(content, dict) else content
                        found[database, name] = (int(expires), hashlib.sha256(repr(fields).encode()).digest())
        return found

    def lose(self) -> None:
        """What nobody wants: every key flushed, the server killed, its files gone."""
        with self._client(0) as client:
            client.flushall()
        if self._process is not None:
            processes.stop([self._process], first=signal.SIGKILL)
            self._process = None
        shutil.rmtree(self.home)

    def _client(self, database: int) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            db=database,
            socket_timeout=60,
            retry=Retry(NoBackoff(), 0),
        )

    def _answers(self) -> bool:
        """Wait until the server answers; ``False`` when it ended instead.

        :raises DemoError: neither in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._process is not None and self._process.poll() is None:
            try:
                with self._client(0) as client:
                    client.ping()
                return True
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise DemoError(f"Redis does not answer:\n{processes.log_tail(self.log)}") from None
                time.sleep(0.05)
        return False

    def _own(self, path: Path) -> None:
        if self._places.account is not None:
            shutil.chown(path, self._places.account.uid, self._places.account.gid)


def compare(before: Keys, after: Keys, now_ms: int) -> str:
    """What is the same, in words.

    :param now_ms: when *after* was read; what had expired by then is missed by nobody.
    :raises DemoError: it is not.
    """
    alive = {key: value for key, value in before.items() if value[0] < 0 or value[0] > now_ms}
    missing, foreign = alive.keys() - after.keys(), after.keys() - before.keys()
    wrong = [key for key, value in alive.items() if key in after and after[key] != value]
    if missing or foreign or wrong or not alive:
        raise DemoError(
            f"of {len(alive)} keys {len(missing)} are missing, {len(wrong)} differ; {len(foreign)} should not be there"
        )
    lasting = sum(1 for expires, _ in alive.values() if expires > 0)
    return f"{len(alive)} keys with their content, {lasting} of them with their time to live to the millisecond"


def _batches(names: list[bytes]) -> Iterator[list[bytes]]:
    for first in range(0, len(names), _BATCH):
        yield names[first : first + _BATCH]
