"""An installation for tests of Redis: settings with local repositories and one source, and what is stored of it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from subprocess import Popen
from typing import Any

import yaml

from mingus_engine.jobs import places
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.initialise import initialise
from mingus_engine.jobs.redis.back_up import RedisBackUpReport
from mingus_engine.repository import names, records, state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings, load
from mingus_engine.store.faulty import Fault
from tests.support import processes
from tests.support.directories import make_directory
from tests.support.installation import replaced_bare_store
from tests.support.redis import RedisServer

SOURCE = "sessions"
FIRST, SECOND = "first", "second"
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@dataclass
class RedisInstallation:
    """Repositories ``first`` and ``second`` and the source ``sessions``, below one directory.

    :ivar messages: what the jobs logged. :ivar environment: the variables that hold its secrets, for subprocesses.
    """

    root: Path
    settings: Settings
    environment: dict[str, str]
    messages: list[str] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        root: Path,
        server: RedisServer,
        *,
        connection: Mapping[str, Any] | None = None,
        repository_options: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        **redis: Any,
    ) -> RedisInstallation:
        """An installation below *root* (made here) that backs up *server*.

        :param connection: default: the server's unix socket. :param source: settings of the source.
        :param redis: settings of its section ``redis``.
        """
        make_directory(root)
        make_directory(root / "tmp")
        token = secrets.token_hex(6).upper()
        environment = {f"MINGUS_KEY_{token}": secrets.token_hex(32)}
        if server.password:
            environment[f"REDIS_{token}"] = server.password
        how = {"password_env": f"REDIS_{token}", **(connection or server.connection())}
        document = {
            "state_directory": str(root / "state"),
            "spool_directory": str(root / "spool"),
            "repositories": [
                {
                    "name": name,
                    "path": str(root / name),
                    "keys": {"environment": f"MINGUS_KEY_{token}"},
                    **(repository_options or {}),
                }
                for name in (FIRST, SECOND)
            ],
            "sources": [
                {
                    "id": SOURCE,
                    "kind": "redis",
                    "repository": FIRST,
                    "ship_to": [SECOND],
                    "redis": {"connection": how, **redis},
                    **(source or {}),
                }
            ],
        }
        (root / "mingus.yaml").write_text(yaml.safe_dump(document))
        os.environ.update(environment)
        made = cls(root, load(root / "mingus.yaml"), environment)
        for name in (FIRST, SECOND):
            initialise(made.settings, name, context=made.context())
        return made

    def close(self) -> None:
        """Take its secrets out of the environment. The directory is the caller's."""
        for name in self.environment:
            os.environ.pop(name, None)

    def __enter__(self) -> RedisInstallation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def context(self, **values: Any) -> JobContext:
        """A context that notes what is logged; ``values`` as for ``JobContext``."""
        return JobContext(**{"log": self.messages.append, "provenance": {"host": "test"}, **values})

    @contextmanager
    def opened(self, repository: str = FIRST) -> Iterator[Repository]:
        """A repository, open with its key."""
        with places.opened(self.settings, repository, self.context()) as found:
            yield found

    def manifests(self, repository: str = FIRST) -> list[Manifest]:
        """The snapshots, oldest first."""
        with self.opened(repository) as found:
            return list(state.look(found, SOURCE).manifests)

    def files(self, manifest: Manifest, repository: str = FIRST) -> dict[str, bytes]:
        """Path → content of every regular file of a snapshot (small ones only)."""
        with self.opened(repository) as found:
            reader = SnapshotReader(found, manifest)
            return {
                file.entry.path.decode(): b"".join(
                    bytes(length) if data is None else bytes(data) for _, data, length in reader.data(file)
                )
                for file in reader.files()
                if file.entry.kind == 1
            }

    def facts(self, manifest: Manifest, repository: str = FIRST) -> dict[str, Any]:
        """The facts of a snapshot."""
        with self.opened(repository) as found:
            return dict(found.manifest_body(manifest).facts)

    def audits(self, event: str, repository: str = FIRST) -> list[dict[str, Any]]:
        """The facts of the audit records of *event*, oldest first."""
        with self.opened(repository) as found:
            listed = [names.record(info.name) for info in found.store.list(f"records/{SOURCE}/")]
            audits = [found.get_record(name) for name in listed if name and name.kind == records.AUDIT]
            return [dict(record.facts) for record in audits if record.facts["event"] == event]

    @contextmanager
    def faults(self, *faults: Fault, repository: str = FIRST) -> Iterator[None]:
        """Inside the block the bare store of *repository*, below its retries, does as the faults say."""
        with replaced_bare_store(repository, faults, []):
            yield

    def start(self, *arguments: str) -> tuple[Popen[bytes], Path]:
        """``mingus *arguments*`` as a process of its own (the caller stops it), and the file of its output."""
        log = self.root / f"process-{secrets.token_hex(4)}.log"
        with log.open("wb") as file:
            process = processes.start(
                [sys.executable, "-m", "mingus_engine", *arguments, "--config", str(self.root / "mingus.yaml")],
                log=file, env={**self.environment, "PYTHONPATH": str(PLUGINS)}, cwd=self.root,
            )  # fmt: skip
        return process, log

    @contextmanager
    def running(self, *arguments: str) -> Iterator[tuple[Popen[bytes], Path]]:
        """:meth:`start`, stopped at the end of the block if it still runs."""
        process, log = self.start(*arguments)
        try:
            yield process, log
        finally:
            processes.stop(process)


def serve(make: Any, files: Mapping[str, bytes], **config: Any) -> RedisServer:
    """A server on *files* (relative path → content) in a new data directory; *make* is ``make_redis``."""
    server: RedisServer = make(start=False, **{"appendonly": "yes", "aof_load_truncated": "no", **config})
    for name, content in files.items():
        path = server.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return server.start()


def digest(server: RedisServer) -> str:
    """``DEBUG DIGEST``: equal for servers with the same keys and values in all databases."""
    found = server.execute("DEBUG", "DIGEST")
    return str(found.decode() if isinstance(found, bytes) else found)


@contextmanager
def installations(workspace: Path) -> Iterator[Callable[..., RedisInstallation]]:
    """``install(server, …)`` as ``RedisInstallation.make``, each in a directory of its own; closed afterwards."""
    with ExitStack() as made:
        numbers = count()

        def install(server: RedisServer, **options: Any) -> RedisInstallation:
            return made.enter_context(RedisInstallation.make(workspace / f"i{next(numbers)}", server, **options))

        yield install


def snapshot(mingus: RedisInstallation, **context: Any) -> RedisBackUpReport:
    """Back it up. :param context: as for ``JobContext``."""
    report = back_up(mingus.settings, SOURCE, context=mingus.context(**context))
    assert isinstance(report, RedisBackUpReport)
    return report
