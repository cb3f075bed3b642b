"""The programs that are compared, each told to do the same work: compress, encrypt, restore with every block verified.

What is the same: the cluster, its idleness, the user, the file system of cluster, repository and restored files; two
workers; zstd at the same level; AES-256; a fresh repository for each backup. What differs, and to whose favour, is said
in each class.
"""

from __future__ import annotations

import json
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
    """A backup that was taken. ``own_mib``: the engine's memory over its imports; ``None`` where it cannot be told."""

    cost: Cost
    stored_bytes: int
    own_mib: float | None = None


class Contender(Protocol):
    """One program with one set of options; used once per round: ``prepare``, ``back_up``, ``restore``, ``remove``.

    ``check`` looks, outside of what is measured, whether the restored files are the cluster's.
    """

    name: str
    restores: bool

    def prepare(self) -> None: ...
    def back_up(self) -> Backup: ...
    def restore(self, into: Path) -> Cost: ...
    def check(self, restored: Path) -> None: ...
    def remove(self) -> None: ...


@dataclass
class Bench:
    """Where everything is: the cluster, an empty *directory* on the same file system, and the engine's *code*."""

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
    _home: Path = field(init=False)

    def prepare(self) -> None:
        """Settings and an empty repository."""
        self._home = self.bench.folder("mingus")
        cluster = self.bench.cluster
        document = {
            "state_directory": str(self._home / "state"),
            "repositories": [{"name": "primary", "path": str(self._home / "repository")}],
            "sources": [
                {
                    "id": "bench",
                    "transport": self.transport,
                    "compression_level": self.level,
                    "workers": WORKERS,
                    "verify_page_checksums": self.checksums,
                    "connection": {
                        "host": str(cluster.socket_directory),
                        "port": cluster.port,
                        "user": "postgres",
                        "dbname": "postgres",
                    },
                }
            ],
        }
        self._settings.write_text(json.dumps(document))  # JSON is YAML
        self._settings.chmod(0o644)
        self._environment = {
            "PYTHONPATH": f"{self.bench.code / 'plugins'}:{self.bench.code}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BACKUP_ENCRYPTION_KEY": secrets.token_hex(32),
        }
        self._engine("init", "primary")

    def back_up(self) -> Backup:
        """A full backup."""
        outcome = self._engine("back-up", "bench", served=True)
        found = json.loads(outcome.output)
        imports = self._run("imports", stdin=json.dumps(found["modules"]))
        own_kib = found["peak_kib"] - json.loads(imports.output)["peak_kib"]
        return Backup(outcome.cost, tree_bytes(self._home / "repository"), own_kib / 1024)

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
        directories.remove(self._home)

    @property
    def _settings(self) -> Path:
        return self._home / "mingus.yaml"

    def _engine(self, verb: str, *arguments: str | Path, served: bool = False) -> Outcome:
        return self._run(verb, self._settings, *arguments, served=served)

    def _run(self, *arguments: str | Path, **options: Any) -> Outcome:
        command = (sys.executable, "-m", "benchmarks.engine", *arguments)
        return self.bench.run(*command, env=self._environment, cwd=self._home, **options)


@dataclass
class MingusTask(Mingus):
    """The same backup as a task of Airflow: its process is measured with all that Airflow loads into it."""

    restores: bool = False

    def back_up(self) -> Backup:
        """A full backup by ``PgBaseBackupOperator``."""
        self._environment["AIRFLOW_HOME"] = str(self._home / "airflow")
        outcome = self._engine("task", "bench", served=True)
        return Backup(outcome.cost, tree_bytes(self._home / "repository"))


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
        self._home = self.bench.folder("pgbackrest")
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
        outcome = self._run("--type=full", "--no-archive-check", "backup", served=True)
        return Backup(outcome.cost, tree_bytes(self._home / "repository"))

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
        self._home = self.bench.folder("restic")
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
        outcome = self._run("backup", "--quiet", f"--exclude={data}/pg_wal/*", f"--exclude={data}/postmaster.pid", data)
        return Backup(outcome.cost, tree_bytes(self._home / "repository"))

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


def all_contenders(bench: Bench) -> list[Contender]:
    """In the order of a round."""
    return [
        Mingus(bench, "mingus local zstd 1"),
        PgBackRest(bench, "pgbackrest zstd 1"),
        Mingus(bench, "mingus replication zstd 1", transport="replication", restores=False),
        Restic(bench, "restic"),
        Mingus(bench, "mingus local zstd 1, no page checksums", checksums=False, restores=False),
        PgBackRest(bench, "pgbackrest zstd 1, no page checksums", checksums=False, restores=False),
        Mingus(bench, "mingus local zstd 3", level=3),
        PgBackRest(bench, "pgbackrest zstd 3", level=3),
        MingusTask(bench, "mingus local zstd 1, in an Airflow task"),
    ]


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
