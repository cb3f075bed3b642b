"""The programs that are compared, each told to do the same work: compress, encrypt, restore with every block verified.

What is the same: the cluster, its idleness, the user, the file system of cluster, repository and restored files; two
workers; zstd at the same level; AES-256; a fresh repository for each backup. What differs, and to whose favour, is said
in each class.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measuring import Cost, Outcome, measure
from tests.support import directories
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

WORKERS = 2


@dataclass(frozen=True)
class Backup:
    """A backup that was taken.

    :param stored_bytes: by which the repository grew. :param own_mib: the engine's memory over its imports; ``None``
        where it cannot be told. :param wire_bytes: what the server sent, where that was counted.
    """

    cost: Cost
    stored_bytes: int
    own_mib: float | None = None
    wire_bytes: int | None = None


class Contender(Protocol):
    """One program with one set of options; used once per round: ``prepare``, ``back_up``, where that is measured
    ``increment``, ``restore``, ``remove``.

    ``check`` looks, outside of what is measured, whether the restored files are the cluster's.
    """

    name: str
    restores: bool

    def prepare(self) -> None: ...
    def back_up(self) -> Backup: ...
    def increment(self) -> Backup: ...
    def restore(self, into: Path) -> Cost: ...
    def check(self, restored: Path) -> None: ...
    def remove(self) -> None: ...


@dataclass
class Bench:
    """Where everything is: the cluster (of the Redis suite: a ``RedisServer``), an empty *directory* on the same file
    system, and the engine's *code*.
    """

    cluster: PgCluster
    directory: Path
    code: Path

    def folder(self, name: str) -> Path:
        """A new empty folder of the unprivileged user."""
        path = self.directory / name
        directories.remove(path)
        return directories.make_directory(path, owner=unprivileged_user(), mode=0o700)

    def run(self, *command: str | Path, served: bool = False, cwd: Path, **options: Any) -> Outcome:
        """Measure a command; *served*: the server's CPU time counts."""
        return measure(command, server_pid=self.cluster.pid if served else None, cwd=cwd, **options)


@dataclass
class Mingus:
    """MINGUS: the engine's jobs, as its command line calls them.

    Against it: the WAL of the backup is stored, read back and restored; keyed hashes of every 64 KiB block are kept for
    later increments; every restored block is hashed and each file gets the CRC32C of its ``backup_manifest``.
    """

    bench: Bench
    name: str
    level: int = 1
    checksums: bool = True
    transport: str = "local"
    restores: bool = True
    home: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def prepare(self) -> None:
        """Settings and an empty repository."""
        self.home = self.bench.folder(_slug(self.name))
        document = {
            "state_directory": str(self.home / "state"),
            "repositories": [{"name": "primary", "path": str(self.home / "repository")}],
            "sources": [{**source, "compression_level": self.level, "workers": WORKERS} for source in self.sources()],
        }
        self.settings.write_text(json.dumps(document))  # JSON is YAML
        self.settings.chmod(0o644)
        self.environment = {
            "PYTHONPATH": f"{self.bench.code / 'plugins'}:{self.bench.code}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BACKUP_ENCRYPTION_KEY": secrets.token_hex(32),
        }
        self._engine("init", "primary")

    def sources(self) -> list[dict[str, Any]]:
        """The sources of the settings; the first is the one that is backed up."""
        cluster = self.bench.cluster
        connection = {
            "host": str(cluster.socket_directory),
            "port": cluster.port,
            "user": "postgres",
            "dbname": "postgres",
        }
        source = {"id": "bench", "transport": self.transport, "verify_page_checksums": self.checksums}
        return [{**source, "connection": connection}]

    def back_up(self) -> Backup:
        """A full backup."""
        return self._backup("full")

    def increment(self) -> Backup:
        """What changed since."""
        return self._backup("incremental")

    def _backup(self, kind: str) -> Backup:
        before = tree_bytes(self.home / "repository")
        outcome = self._engine("back-up", "bench", kind, served=True)
        found = json.loads(outcome.output)
        report = found["report"]
        if report["kind"].partition(" ")[2] != kind:
            raise AssertionError(f"{self.name}: a {report['kind']} instead, because {report.get('reasons')}")
        imports = self.run("imports", stdin=json.dumps(found["modules"]))
        own_kib = found["peak_kib"] - json.loads(imports.output)["peak_kib"]
        stored = tree_bytes(self.home / "repository") - before
        return Backup(outcome.cost, stored, own_kib / 1024, report.get("bytes_received"))

    def restore(self, into: Path) -> Cost:
        """The snapshot into *into*."""
        return self._engine("restore", "bench", into).cost

    def check(self, restored: Path) -> None:
        """``pg_verifybackup``: every file against the manifest of the backup.

        :raises AssertionError: the restored directory is not the one that was backed up.
        """
        self.bench.cluster.tool("pg_verifybackup", restored, timeout_s=600)

    def remove(self) -> None:
        """The repository."""
        directories.remove(self.home)

    @property
    def settings(self) -> Path:
        """Its settings file."""
        return self.home / "mingus.yaml"

    def _engine(self, verb: str, *arguments: str | Path, served: bool = False) -> Outcome:
        return self.run(verb, self.settings, *arguments, served=served)

    def run(self, *arguments: str | Path, environment: dict[str, str] | None = None, **options: Any) -> Outcome:
        """Measure one run of the engine (:mod:`benchmarks.engine`)."""
        command = (sys.executable, "-m", "benchmarks.engine", *arguments)
        return self.bench.run(*command, env=environment or self.environment, cwd=self.home, **options)


@dataclass
class MingusTask(Mingus):
    """The same backup as a task of Airflow: its process is measured with all that Airflow loads into it."""

    restores: bool = False

    def back_up(self) -> Backup:
        """A full backup by ``PgBaseBackupOperator``."""
        self.environment["AIRFLOW_HOME"] = str(self.home / "airflow")
        outcome = self._engine("task", "bench", served=True)
        return Backup(outcome.cost, tree_bytes(self.home / "repository"))


@dataclass
class PgBackRest:
    """pgBackRest with ``process-max=2``, zstd, ``repo-cipher-type=aes-256-cbc``.

    In its favour: no archive is kept, so it neither stores nor restores the WAL that the backup needs
    (``--no-archive-check``), and it waits for none.
    """

    bench: Bench
    name: str
    level: int = 1
    checksums: bool = True
    restores: bool = True
    _home: Path = field(init=False)

    def prepare(self) -> None:
        """Configuration and stanza."""
        self._home = self.bench.folder(_slug(self.name))
        cluster = self.bench.cluster
        options = {
            "repo1-path": self._home / "repository",
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-retention-full": 1,
            "process-max": WORKERS,
            "compress-type": "zst",
            "compress-level": self.level,
            "checksum-page": "y" if self.checksums else "n",
            "start-fast": "y",
            "log-level-console": "warn",
            "log-level-file": "off",
            "log-path": self._home,
            "lock-path": self._home / "lock",
            "spool-path": self._home / "spool",
        }
        stanza = {
            "pg1-path": cluster.data_directory,
            "pg1-port": cluster.port,
            "pg1-socket-path": cluster.socket_directory,
            "pg1-user": "postgres",
        }
        self._configuration.write_text("[global]\n" + _lines(options) + "\n[bench]\n" + _lines(stanza))
        self._configuration.chmod(0o644)
        self._secret = {"PGBACKREST_REPO1_CIPHER_PASS": secrets.token_hex(32)}
        self._run("--no-online", "stanza-create")

    def back_up(self) -> Backup:
        """A full backup."""
        return self._backup("full")

    def increment(self) -> Backup:
        """What changed since."""
        return self._backup("incr")

    def _backup(self, kind: str) -> Backup:
        before = tree_bytes(self._home / "repository")
        outcome = self._run(f"--type={kind}", "--no-archive-check", "backup", served=True)
        return Backup(outcome.cost, tree_bytes(self._home / "repository") - before)

    def restore(self, into: Path) -> Cost:
        """The backup into *into*."""
        directories.make_directory(into, owner=unprivileged_user(), mode=0o700)
        return self._run(f"--pg1-path={into}", "restore").cost

    def check(self, restored: Path) -> None:
        """It has what the cluster has."""
        require_like(self.bench.cluster, restored)

    def remove(self) -> None:
        """The repository."""
        directories.remove(self._home)

    @property
    def _configuration(self) -> Path:
        return self._home / "pgbackrest.conf"

    def _run(self, *arguments: str, served: bool = False) -> Outcome:
        command = ("pgbackrest", f"--config={self._configuration}", "--stanza=bench", *arguments)
        return self.bench.run(*command, env=self._secret, cwd=self._home, served=served)


@dataclass
class Restic:
    """restic of the data directory, without WAL; two threads (``GOMAXPROCS``), its own compression and encryption.

    In its favour: it asks nothing of the server, checks no page and knows no consistency: of a server that is written
    to, what it makes is no backup. Against it: it cuts the data into content-defined chunks, for which a first backup
    has no use.
    """

    bench: Bench
    name: str
    restores: bool = True
    _home: Path = field(init=False)

    def prepare(self) -> None:
        """An empty repository."""
        self._home = self.bench.folder(_slug(self.name))
        self._environment = {
            "RESTIC_PASSWORD": secrets.token_hex(16),
            "RESTIC_REPOSITORY": str(self._home / "repository"),
            "RESTIC_CACHE_DIR": str(self._home / "cache"),
            "GOMAXPROCS": str(WORKERS),
            "TMPDIR": str(self._home),
        }
        self._run("init", "--repository-version", "2")

    def back_up(self) -> Backup:
        """The data directory as it is."""
        data = self.bench.cluster.data_directory
        before = tree_bytes(self._home / "repository")
        outcome = self._run("backup", "--quiet", f"--exclude={data}/pg_wal/*", f"--exclude={data}/postmaster.pid", data)
        return Backup(outcome.cost, tree_bytes(self._home / "repository") - before)

    def increment(self) -> Backup:
        """The same again: restic finds by itself what it has."""
        return self.back_up()

    def restore(self, into: Path) -> Cost:
        """The snapshot into *into*."""
        directories.make_directory(into, owner=unprivileged_user(), mode=0o700)
        return self._run("restore", "latest", "--quiet", "--target", into).cost

    def check(self, restored: Path) -> None:
        """It has what the cluster has, below the whole path of its data directory."""
        require_like(self.bench.cluster, restored / self.bench.cluster.data_directory.relative_to("/"))

    def remove(self) -> None:
        """The repository."""
        directories.remove(self._home)

    def _run(self, *arguments: str | Path) -> Outcome:
        return self.bench.run("restic", *arguments, env=self._environment, cwd=self._home)


def _slug(name: str) -> str:
    """A folder for each contender: several may have a repository at the same time."""
    return "-".join(re.findall("[a-z0-9]+", name.lower()))


def tree_bytes(directory: Path) -> int:
    """What the files of a repository take."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def require_like(cluster: PgCluster, restored: Path) -> None:
    """:raises AssertionError: a relation file of the idle *cluster* is not in *restored*, or is of another size."""
    base = cluster.data_directory / "base"
    for path in base.rglob("[0-9]*"):
        twin = restored / "base" / path.relative_to(base)
        if path.is_file() and (not twin.is_file() or twin.stat().st_size != path.stat().st_size):
            raise AssertionError(f"{twin} is not the cluster's file")


def _lines(options: dict[str, Any]) -> str:
    return "".join(f"{name}={value}\n" for name, value in options.items())
