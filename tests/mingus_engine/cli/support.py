"""Running the command line as a process of its own, and small repositories for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mingus_engine.repository.manifests import Manifest
from tests.support import repositories
from tests.support.repositories import TEST_KEY, MadeRepository, MadeSource

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
_OURS = ("MINGUS_", "EMAIL_", "SLACK_", "BACKUP_", "POSTGRES_", "AWS_", "REDIS_", "PG")


@dataclass(frozen=True)
class Result:
    """How a process ended and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Process(subprocess.Popen[bytes]):
    """A process that does not outlive its ``with`` block: a failed test must not wait for it."""

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self.wait()


@dataclass
class Cli:
    """``cli("list", "ledger")``: runs it in ``directory``, with ``mingus.yaml`` there as its settings.

    ``secrets`` are texts that no output may ever hold.
    """

    directory: Path
    environment: dict[str, str] = field(default_factory=lambda: {"BACKUP_ENCRYPTION_KEY": TEST_KEY})
    secrets: list[str] = field(default_factory=lambda: [TEST_KEY])

    def __call__(self, *arguments: str, timeout_s: float = 120, **environment: str) -> Result:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, env=self.env(environment), cwd=self.directory,
            timeout=timeout_s, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout, done.stderr.decode())
        for secret in self.secrets:
            assert secret.encode() not in done.stdout + done.stderr
        return result

    def start(self, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE, **options: Any) -> Process:
        """A running process; the caller waits for it. As a context: killed in the end."""
        return Process(
            self.command(*arguments), stdout=stdout, stderr=options.pop("stderr", subprocess.PIPE),
            stdin=options.pop("stdin", subprocess.DEVNULL), env=self.env(options.pop("environment", {})),
            cwd=self.directory, **options,
        )  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mingus_engine", *arguments]

    def env(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        config = {"MINGUS_CONFIG": str(self.directory / "mingus.yaml"), "PYTHONPATH": str(PLUGINS)}
        return {**kept, **config, **self.environment, **more}

    def write_settings(self, text: str) -> None:
        (self.directory / "mingus.yaml").write_text(text)


@dataclass
class Made:
    """A repository with one snapshot of a made-up tree, and a command line whose settings name it ``primary``."""

    cli: Cli
    repository: MadeRepository
    tree: MadeSource
    manifest: Manifest

    @property
    def ulid(self) -> str:
        return self.manifest.ulid


def make(directory: Path, *, tree: MadeSource | None = None, bandwidth: int = 0, more: Sequence[str] = ()) -> Made:
    """A repository in *directory*. :param more: further repositories of the settings, not made; the chain has all."""
    tree = tree or repositories.small_source()
    repository = repositories.make_repository(directory)
    manifest = repositories.backed_up(repository, tree)
    cli = Cli(directory, secrets=[TEST_KEY, repository.escrow])
    places = [f"- {{name: primary, path: {repository.root}, bandwidth_bytes_per_s: {bandwidth}}}"]
    places += [f"- {{name: {name}, path: {directory / name}}}" for name in more]
    chain = f"[{', '.join(more)}]"
    cli.write_settings(
        "state_directory: state\nrepositories:\n" + "\n".join(places)
        + f"\nsources:\n- {{id: ledger, repository: primary, ship_to: {chain}}}\n"
    )  # fmt: skip
    return Made(cli, repository, tree, manifest)
