"""What a long chain of increments costs at restore: a snapshot 48 increments deep beside a fresh full of the same data.

Both repositories are made once, then restored round after round: from the disk, and from an S3 server over the same
directory with 30 ms added to every request, as on a line to a data centre.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import Bench, Contender, Mingus
from benchmarks.figures import Target
from benchmarks.incremental import change
from benchmarks.measuring import Cost
from benchmarks.rounds import Sample, restored, said
from benchmarks.suite import Say, Suite
from tests.support.s3 import rclone_server

_DEPTH = 48
_LATENCY_MS = 30
# One increment changes so much of the pages: an hour of a busy day.
_SHARE = 0.002
_DEEP, _FRESH = f"mingus, {_DEPTH} deep", "mingus, fresh full"
_DISTANT = f", S3 at {_LATENCY_MS} ms"


@dataclass
class Distant:
    """Restores of another contender's repository through an S3 server with latency."""

    bench: Bench
    name: str
    origin: Mingus
    restores: bool = True
    _server: ExitStack = field(default_factory=ExitStack)

    def prepare(self) -> None:
        """The server, and settings that name it."""
        server = self._server.enter_context(rclone_server(self.origin.home, "--copy-links", "--etag-hash="))
        (server.directory / "repository").symlink_to(self.origin.home / "repository")
        repository = {
            "name": "primary",
            "store": "s3",
            "s3": {
                "bucket": "repository", "endpoint": server.endpoint, "tls": False, "checksum": "md5",
                "access_key_id_env": "BENCH_S3_ID", "secret_access_key_env": "BENCH_S3_KEY",
            },
        }  # fmt: skip
        document = json.loads(self.origin.settings.read_text())
        self.settings = self.origin.home / "distant.yaml"
        self.settings.write_text(json.dumps({**document, "repositories": [repository]}))
        self.settings.chmod(0o644)
        self.environment = {
            **self.origin.environment, "BENCH_S3_ID": server.access_key, "BENCH_S3_KEY": server.secret_key,
        }  # fmt: skip

    def restore(self, into: Path) -> Cost:
        """The newest snapshot into *into*."""
        command = ("restore", self.settings, "bench", into, str(_LATENCY_MS))
        return self.origin.run(*command, environment=self.environment).cost

    def check(self, restored: Path) -> None:
        """As the origin's."""
        self.origin.check(restored)

    def remove(self) -> None:
        """The server."""
        self._server.close()


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Say) -> Iterator[Sample]:
    """Make the two repositories, then restore all contenders in turn."""
    started = time.monotonic()
    deep, fresh = Mingus(bench, _DEEP), Mingus(bench, _FRESH)
    wanted = {contender.name for contender in contenders}
    runners = [deep, fresh, Distant(bench, _DEEP + _DISTANT, deep), Distant(bench, _FRESH + _DISTANT, fresh)]
    with ExitStack() as stack:
        for runner in (deep, fresh):
            stack.callback(runner.remove)
            runner.prepare()
        yield said(say, started, Sample.of(deep, "back up", 0, deep.back_up()))
        for number in range(_DEPTH):
            share = change(bench.cluster, _SHARE, number)
            increment = deep.increment()
            say(
                f"{time.monotonic() - started:5.0f} s  increment {number + 1}: {share:.2%} of the pages,"
                f" {increment.cost.wall_s:.1f} s, {increment.stored_bytes / 1e6:.1f} MB"
            )
        yield said(say, started, Sample.of(fresh, "back up", 0, fresh.back_up()))
        for runner in runners[2:]:
            stack.callback(runner.remove)
            runner.prepare()
        chosen = [runner for runner in runners if runner.name in wanted]
        for number in range(rounds):
            turn = number % len(chosen)
            for runner in (*chosen[turn:], *chosen[:turn]):
                for sample in restored(bench, runner, number):
                    yield said(say, started, sample)


def _contenders(bench: Bench) -> list[Contender]:
    """By name; what is played is made by :func:`play`."""
    return [Mingus(bench, name + where) for where in ("", _DISTANT) for name in (_DEEP, _FRESH)]


DEPTH = Suite(
    name="depth",
    title=f"Restore of a snapshot {_DEPTH} increments deep",
    conditions=(
        f"A full backup and {_DEPTH} increments of 0.4 % of the pages each, beside a fresh full of the same data; from"
        f" the local directory, and from rclone's S3 server over it with {_LATENCY_MS} ms added to every request."
    ),
    contenders=_contenders,
    play=play,
    targets=(
        Target("restore, 48 deep, local repository", "restore", "wall", _DEEP, _FRESH, 1.15),
        Target("restore, 48 deep, S3 at 30 ms", "restore", "wall", _DEEP + _DISTANT, _FRESH + _DISTANT, 1.50),
    ),
    space_per_gb=3.5,
)
