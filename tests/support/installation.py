"""A whole installation for tests: settings with repositories and one source of a cluster, and the jobs on it.

Everything lies below one directory; its secrets are in variables of names of its own, set until ``close``, so several
may live in one process. ``state``, ``spool`` and ``tmp`` are apart, to be searched for what must not be there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from mingus_engine.jobs import places
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.initialise import initialise
from mingus_engine.jobs.postgres.archive_wal import ArchiveWalReport, archive_wal
from mingus_engine.jobs.postgres.back_up import PostgresBackUpReport
from mingus_engine.jobs.postgres.restore import RestoreReport, restore
from mingus_engine.jobs.ship import ShipReport, ship
from mingus_engine.jobs.verify import VerifyReport, verify
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import PostgresConnection, RepositorySettings, Settings, load
from mingus_engine.store import opening
from mingus_engine.store.base import Store
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support.directories import make_directory
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user
from tests.support.s3 import S3Bucket

SOURCE = "ledger"
FIRST, SECOND = "first", "second"


@dataclass
class Installation:
    """Repositories ``first`` and ``second`` (unless named otherwise) and the source ``ledger``.

    :ivar messages: what the jobs logged. :ivar environment: the variables that hold its secrets, for subprocesses.
    """

    root: Path
    cluster: PgCluster
    settings: Settings
    environment: dict[str, str]
    messages: list[str] = field(default_factory=list)
    escrow: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        root: Path,
        cluster: PgCluster,
        *,
        repositories: Mapping[str, S3Bucket | Path | None] | None = None,
        initialised: bool = True,
        tcp_user: str = "",
        connection: Mapping[str, Any] | None = None,
        repository_options: Mapping[str, Any] | None = None,
        **source: Any,
    ) -> Installation:
        """An installation below *root* (made here) that backs up *cluster*.

        :param repositories: name → bucket, directory, or ``None`` for a directory of that name; the first one is
            backed up to, the others are shipped to in order.
        :param tcp_user: connect by TCP with this role's password; default: by socket as the superuser.
        :param repository_options: settings of every repository. :param source: settings of the source.
        """
        make_directory(root)
        for name in ("state", "spool", "tmp"):
            make_directory(root / name, mode=0o711)
        made = repositories or {FIRST: None, SECOND: None}
        token = secrets.token_hex(6).upper()
        environment = {f"MINGUS_KEY_{token}": secrets.token_hex(32)}
        listed = []
        for number, (name, where) in enumerate(made.items()):
            entry: dict[str, Any] = {"name": name, "keys": {"environment": f"MINGUS_KEY_{token}"}}
            if isinstance(where, S3Bucket):
                names = {"access_key_id": f"S3_ID_{token}_{number}", "secret_access_key": f"S3_KEY_{token}_{number}"}
                environment[names["access_key_id"]] = where.server.access_key
                environment[names["secret_access_key"]] = where.server.secret_key
                entry["store"] = "s3"
                entry["s3"] = {
                    "bucket": where.name,
                    "prefix": "p",
                    "endpoint": where.server.endpoint,
                    "tls": False,
                    **{f"{key}_env": variable for key, variable in names.items()},
                }
            else:
                entry["path"] = str(where or root / name)
            listed.append({**entry, **(repository_options or {})})
        how: dict[str, Any] = {"host": str(cluster.socket_directory), "user": "postgres", "password_env": ""}
        if tcp_user:
            environment[f"PG_{token}"] = cluster.passwords.get(tcp_user) or cluster.password or ""
            how = {"host": "127.0.0.1", "user": tcp_user, "password_env": f"PG_{token}", "sslmode": "disable"}
        user = unprivileged_user()
        verification = {"run_as": user.name if user else "", **source.pop("verify", {})}
        document = {
            "state_directory": str(root / "state"),
            "spool_directory": str(root / "spool"),
            "repositories": listed,
            "sources": [
                {
                    "id": SOURCE,
                    "repository": next(iter(made)),
                    "ship_to": list(made)[1:],
                    "connection": {"port": cluster.port, "dbname": "postgres", **how, **(connection or {})},
                    "bin_directory": str(cluster.version.bin_directory),
                    "verify": verification,
                    **source,
                }
            ],
        }
        (root / "mingus.yaml").write_text(yaml.safe_dump(document))
        os.environ.update(environment)
        installation = cls(root, cluster, load(root / "mingus.yaml"), environment)
        if initialised:
            installation.initialise(*made)
        return installation

    def initialise(self, *repositories: str) -> None:
        """Make the repositories; keeps their escrow keys."""
        for name in repositories:
            self.escrow[name] = initialise(self.settings, name, context=self.context()).escrow_key

    def close(self) -> None:
        """Take its secrets out of the environment. The directory is the caller's."""
        for name in self.environment:
            os.environ.pop(name, None)

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def context(self, **values: Any) -> JobContext:
        """A context that notes what is logged; ``values`` as for ``JobContext``."""
        return JobContext(**{"log": self.messages.append, "provenance": {"host": "test"}, **values})

    def back_up(self, *, incremental: bool = False, **context: Any) -> PostgresBackUpReport:
        """Back up the source."""
        report = back_up(self.settings, SOURCE, context=self.context(**context), incremental=incremental)
        return cast(PostgresBackUpReport, report)

    def ship(self, origin: str = FIRST, destination: str = SECOND, **context: Any) -> ShipReport:
        """Ship all snapshots."""
        return ship(self.settings, SOURCE, origin=origin, destination=destination, context=self.context(**context))

    def archive_wal(
        self, *, canary: bool | None = None, ship: bool = True, context: Mapping[str, Any] | None = None
    ) -> ArchiveWalReport:
        """Archive the source's log up to now."""
        return archive_wal(self.settings, SOURCE, context=self.context(**(context or {})), canary=canary, ship=ship)

    def verify(
        self, level: str | None = "L2", repository: str = FIRST, snapshot: str | None = None, **values: Any
    ) -> VerifyReport:
        """Verify a snapshot, by default the newest, or, with ``to``, a recovery to a moment.

        :param values: as for the job, or as for ``JobContext``.
        """
        context = {name: values.pop(name) for name in ("cancel", "on_progress", "log") if name in values}
        return verify(
            self.settings,
            SOURCE,
            context=self.context(**context),
            repository=repository,
            snapshot=snapshot,
            level=level,
            **values,
        )

    def restore(self, directory: Path, repository: str | None = None, **values: Any) -> RestoreReport:
        """Restore a snapshot (by default the newest) or, with ``to``, a moment.

        :param values: as for the job, or as for ``JobContext``.
        """
        context = {name: values.pop(name) for name in ("cancel", "on_progress", "log") if name in values}
        return restore(
            self.settings,
            SOURCE,
            directory=directory,
            repository=repository,
            context=self.context(**context),
            **values,
        )

    def connection_to(self, cluster: PgCluster) -> PostgresConnection:
        """How *cluster* is reached as its superuser (a standby of the installation's, another one)."""
        host = str(cluster.socket_directory)
        return replace(self.settings.source(SOURCE).connection, host=host, port=cluster.port)

    def follow(self, cluster: PgCluster) -> None:
        """Let the source be another cluster from now on (after a promotion)."""
        source = replace(self.settings.source(SOURCE), connection=self.connection_to(cluster))
        self.settings, self.cluster = self.settings.with_source(source), cluster

    # -- looking ------------------------------------------------------------------------------------------------------

    def path(self, repository: str = FIRST) -> Path:
        """The directory of a local repository."""
        return Path(self.settings.repository(repository).path)

    def files(self, repository: str = FIRST, below: str = "") -> list[Path]:
        """The objects of a local repository, sorted by name."""
        return sorted(p for p in (self.path(repository) / below).rglob("*") if p.is_file())

    @contextmanager
    def opened(self, repository: str = FIRST) -> Iterator[Repository]:
        """A repository, open with its key."""
        with places.opened(self.settings, repository, self.context()) as found:
            yield found

    def snapshots(self, repository: str = FIRST) -> list[str]:
        """ULIDs of the snapshots that are listed."""
        with self.opened(repository) as found:
            return sorted(name.ulid for name in found.list_snapshots(SOURCE))

    # -- breaking -----------------------------------------------------------------------------------------------------

    @contextmanager
    def faults(self, *faults: Fault, repository: str = FIRST) -> Iterator[list[FaultyStore]]:
        """Inside the block the bare store of *repository*, below its retries, does as the faults say.

        :returns: the stores opened so far, for their ``calls``.
        """
        made: list[FaultyStore] = []
        with replaced_bare_store(repository, faults, made):
            yield made


@contextmanager
def replaced_bare_store(repository: str, faults: Sequence[Fault], made: list[FaultyStore]) -> Iterator[None]:
    """Let ``open_store`` put a faulty store around the bare store of *repository*."""
    bare = opening._bare

    def faulty(settings: RepositorySettings, environ: Mapping[str, str], *, create: bool) -> Store:
        store = bare(settings, environ, create=create)
        if settings.name == repository:
            store = FaultyStore(store, faults)
            made.append(store)
        return store

    opening._bare = faulty
    try:
        yield
    finally:
        opening._bare = bare


@contextmanager
def running(root: Path, restored: Path, like: PgCluster, *, arguments: Sequence[str] = ()) -> Iterator[PgCluster]:
    """A server on a restored data directory, stopped at the end."""
    with ExitStack() as stack:
        server = PgCluster.of_directory(like.version, restored, password=like.password, arguments=arguments)
        yield stack.enter_context(server).start()
