"""Redis: a snapshot beside ``redis-cli --rdb``, zstd and openssl; a million sessions into a server that runs.

The server is idle, in memory, and sends its RDB from a forked child over its unix socket, to either side alike.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import Backup, Bench, Contender, Mingus, tree_bytes
from benchmarks.figures import Target
from benchmarks.measuring import Cost
from benchmarks.rounds import Sample, said
from benchmarks.suite import Say, Served, Suite
from tests.support import directories
from tests.support.processes import unprivileged_user
from tests.support.redis import RedisServer

_MINGUS, _INTO = "mingus", "mingus restore --into"
_SHELL, _SHELL_2 = "redis-cli + zstd -1 + openssl", "redis-cli + zstd -1 -T2 + openssl"
_SESSIONS = 1_000_000
# Written by the server itself: from outside, filling would take longer than everything that is measured. Digests are as
# incompressible as tokens in hexadecimal, the words around them as compressible as JSON.
_SESSION = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local t = redis.sha1hex(i)
  local text = '{"user": ' .. i .. ', "token": "' .. redis.sha1hex(t) .. '", "roles": ["customer"],'
    .. ' "csrf": "' .. redis.sha1hex(t .. 'c') .. '", "locale": "de-DE", "seen": ' .. i * 7919 .. '}'
  redis.call('SET', 'session:' .. t, text, 'PX', 86400000 + i)
end
"""
_PAGE = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local parts = {}
  for j = 1, 60 do
    local account = redis.sha1hex(i .. ':' .. j)
    parts[j] = '<li class="posting"><a href="/account/' .. account .. '">' .. i * j .. ' EUR</a></li>'
  end
  redis.call('SET', 'page:' .. i, table.concat(parts))
end
"""
# Pages and sessions for a GB of RDB, measured.
_PAGES_PER_GB, _SESSIONS_PER_GB = 310_000, 500_000
_STEP = 10_000


def _server(directory: Path) -> RedisServer:
    return RedisServer(directory, {"unixsocketperm": "777"}, run_as=unprivileged_user()).start(timeout_s=120)


def _fill(server: RedisServer, script: str, count: int) -> None:
    with server.client(socket_timeout=300) as client:
        for first in range(1, count + 1, _STEP):
            client.eval(script, 0, first, min(first + _STEP - 1, count))


def serve(directory: Path, gb: float) -> Served:
    """A server whose RDB takes about *gb* GB."""
    server = _server(directory / "redis")
    _fill(server, _PAGE, round(gb * _PAGES_PER_GB))
    _fill(server, _SESSION, round(gb * _SESSIONS_PER_GB))
    dump = directory / "size.rdb"
    server.cli("--rdb", dump, timeout_s=600)
    size = dump.stat().st_size
    dump.unlink()
    info = server.info()
    keys = info["db0"]["keys"]
    return Served(server, f"an RDB of {keys:,} keys, Redis {info['redis_version']}", size, server.kill)


@dataclass
class MingusRedis(Mingus):
    """The engine, over the replication protocol.

    Against it: it checks CRC and end of the RDB, samples keys, authenticates what it stores, reads the manifest back.
    """

    spare: RedisServer | None = None
    restores: bool = False

    def sources(self) -> list[dict[str, Any]]:
        """What is backed up, and the server that is restored into."""
        found = [_source("bench", self.bench.cluster)]
        return [*found, _source("spare", self.spare)] if self.spare else found

    def into(self) -> tuple[Cost, dict[str, Any]]:
        """All sessions of the snapshot into the spare server; what it cost, and the job's report."""
        # The server that works for it is the one that is restored into.
        outcome = replace(self.bench, cluster=self.spare).run(
            *(sys.executable, "-m", "benchmarks.engine", "restore-into", self.settings, "bench", "spare", "session:*"),
            env=self.environment,
            cwd=self.home,
            served=True,
        )
        return outcome.cost, json.loads(outcome.output)["report"]


def _source(name: str, server: Any) -> dict[str, Any]:
    return {"id": name, "kind": "redis", "redis": {"connection": {"socket": str(server.socket)}}}


@dataclass
class Shell:
    """What an operator writes on one line: the RDB to a local file, compressed and encrypted from there.

    In its favour: nothing is checked, and what is stored is encrypted without authentication (AES-256-CTR).
    """

    bench: Bench
    name: str
    threads: int = 1
    restores: bool = False
    _home: Path = field(init=False)

    def prepare(self) -> None:
        """An empty folder."""
        self._home = self.bench.folder("shell")

    def back_up(self) -> Backup:
        """The line."""
        line = (
            'redis-cli -s "$1" --rdb dump.rdb && zstd -q -1 -T"$2" -c dump.rdb'
            " | openssl enc -aes-256-ctr -pbkdf2 -pass env:KEY -out dump.rdb.zst.enc && rm dump.rdb"
        )
        command = ("bash", "-eo", "pipefail", "-c", line, "bash", str(self.bench.cluster.socket), str(self.threads))
        outcome = self.bench.run(*command, env={"KEY": secrets.token_hex(32)}, cwd=self._home, served=True)
        return Backup(outcome.cost, tree_bytes(self._home))

    def increment(self) -> Backup:
        """The same again."""
        return self.back_up()

    def restore(self, into: Path) -> Cost:
        """Not measured."""
        raise NotImplementedError(into)

    def check(self, restored: Path) -> None:
        """Not measured."""
        raise NotImplementedError(restored)

    def remove(self) -> None:
        """The folder."""
        directories.remove(self._home)


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Say) -> Iterator[Sample]:
    """Snapshots in turn; then sessions into an empty server, as often."""
    started = time.monotonic()
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            contender.prepare()
            try:
                yield said(say, started, Sample.of(contender, "back up", number, contender.back_up()))
            finally:
                contender.remove()
    full, spare = _server(bench.directory / "sessions"), _server(bench.directory / "spare")
    with full, spare:
        _fill(full, _SESSION, _SESSIONS)
        job = MingusRedis(Bench(full, bench.directory, bench.code), _INTO, spare=spare)
        job.prepare()
        try:
            job.back_up()
            for number in range(rounds):
                spare.execute("FLUSHALL")
                cost, report = job.into()
                if report["restored"] != spare.execute("DBSIZE") or report["restored"] != _SESSIONS:
                    raise AssertionError(f"{report['restored']} of {_SESSIONS} sessions were restored")
                yield said(say, started, Sample(_INTO, "restore keys", number, cost, keys=report["restored"]))
        finally:
            job.remove()


REDIS = Suite(
    name="redis",
    title="Redis: snapshot, and keys into a running server",
    conditions=(
        "A fresh repository, or an empty directory, for every snapshot. A million sessions of some 200 bytes are"
        " restored into an empty server that shares the two cores: 50,000 keys a second are 20 µs a key, the start of"
        " the program and a first pass that looks for conflicts included."
    ),
    contenders=lambda bench: [
        MingusRedis(bench, _MINGUS),
        Shell(bench, _SHELL),
        Shell(bench, _SHELL_2, threads=2),
    ],
    play=play,
    targets=(
        Target("snapshot", "back up", "wall", _MINGUS, _SHELL, 1.15),
        Target("memory of a snapshot, whole process (MiB)", "back up", "whole memory", _MINGUS, "", 256),
        Target("sessions into a running server (µs a key)", "restore keys", "µs a key", _INTO, "", 20),
        Target("memory of that, whole process (MiB)", "restore keys", "whole memory", _INTO, "", 256),
    ),
    space_per_gb=5.0,
    gb=2.0,
    serve=serve,
)
