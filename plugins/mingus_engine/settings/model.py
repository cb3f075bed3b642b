"""The settings as a whole: sources, destinations, repositories, schedules."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mingus_engine import bounds
from mingus_engine.errors import SettingsError
from mingus_engine.settings.alerts import AlertSettings
from mingus_engine.settings.building import build, nearest
from mingus_engine.settings.files import FileSetSettings
from mingus_engine.settings.health import HealthSettings
from mingus_engine.settings.hooks import GroupSettings, HookSettings
from mingus_engine.settings.postgres import Measurement, PostgresConnection, Predicate, WalSettings
from mingus_engine.settings.redis import RedisDestination, RedisSettings
from mingus_engine.settings.stores import RepositorySettings

SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class VerifySettings:
    """How restore tests of a source run.

    :param repository: which repository is tested; empty = the last one of the shipping chain.
    :param scratch_directory: where it is restored to; empty = ``<state_directory>/scratch``.
    :param run_as: operating-system user of the throw-away server when the engine is root; empty = named as the kind.
    :param amcheck: run ``pg_amcheck --heapallindexed --parent-check``.
    :param sample_share: of kind ``files``: how much of a set one test restores; below 1 the tests take turns, so that
        1 / *sample_share* of them cover everything. What they prove counts as L1.
    :param sample_max_bytes: ... and at most about so much; 0 = no bound.
    :param open_documents: of kind ``files``: open restored PDF, pictures, office files and archives.
    """

    repository: str = ""
    level: Literal["L0", "L1", "L2", "L3", "L4"] = "L4"
    scratch_directory: str = ""
    run_as: str = ""
    amcheck: bool = True
    start_timeout_s: int = 3600
    sample_share: float = 1.0
    sample_max_bytes: int = 0
    open_documents: bool = True


@dataclass(frozen=True)
class SourceSettings:
    """One source. Its *kind* decides which of the keys mean something; a key of another kind is an error.

    :param id: ``[a-z0-9][a-z0-9-]{0,62}``; never changed, never used for another source.
    :param transport: ``local`` reads the data directory, ``replication`` uses ``BASE_BACKUP``, ``sql`` reads files by
        SQL functions.
    :param sql_connections: connections that read files at the same time, by transport ``sql``.
    :param data_directory: of a ``local`` source; empty = asked from the server.
    :param repository: the first repository; ``ship_to`` the chain of others, in order.
    :param full_every_days: an incremental backup that finds its chain this old takes a full one instead; of kind
        ``files`` see there.
    :param compression_level: zstd, 1 (fastest) to 19; 0 = by kind, see ``zstd_level``.
    :param rpo_s: its newest moment that can be restored may be so old; 0 = by section ``health``, see
        ``recovery_point_objective_s``.
    :param bin_directory: directory of the server's programs for restore tests; empty = found by version.
    :param hooks: programs before and after a backup, of any kind (not of pieces of a log).
    """

    id: str
    kind: Literal["postgres", "redis", "files"] = "postgres"
    transport: Literal["local", "replication", "sql"] = "local"
    sql_connections: int = bounds.SQL_CONNECTIONS_DEFAULT
    connection: PostgresConnection = field(default_factory=PostgresConnection)
    airflow_connection: str = ""
    data_directory: str = ""
    repository: str = ""
    ship_to: tuple[str, ...] = ()
    workers: int = bounds.WORKERS_DEFAULT
    compression_level: int = 0
    full_every_days: int = 7
    verify_page_checksums: bool = True
    max_rate_bytes_per_s: int = 0
    rpo_s: int = 0
    predicates: tuple[Predicate, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    verify: VerifySettings = field(default_factory=VerifySettings)
    wal: WalSettings = field(default_factory=WalSettings)
    bin_directory: str = ""
    redis: RedisSettings = field(default_factory=RedisSettings)
    files: FileSetSettings = field(default_factory=FileSetSettings)
    hooks: HookSettings = field(default_factory=HookSettings)

    @property
    def run_as(self) -> str:
        """Operating-system user of the throw-away server, and of restored files, when the engine is root."""
        return self.verify.run_as or self.kind

    @property
    def zstd_level(self) -> int:
        """The level that is used. 3 stores some percent less of documents and sources, and reading many small files
        takes longer than compressing them; databases are read faster than that.
        """
        return self.compression_level or (3 if self.kind == "files" else 1)

    @property
    def generation_days(self) -> int:
        """How old the chain of an incremental may be, in days; else everything is stored again."""
        return self.files.full_every_days if self.kind == "files" else self.full_every_days

    @property
    def wal_slot(self) -> str:
        """Name of the replication slot that holds WAL until it is archived; PostgreSQL takes 63 characters."""
        name = self.wal.slot or f"mingus_{self.id.replace('-', '_')}"
        return name if len(name) <= 63 else f"{name[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class DestinationSettings:
    """A server that databases, tables or keys are restored into; nothing is backed up from it.

    :param airflow_connection: as of a source. :param bin_directory: programs of its major version; empty = found.
    """

    name: str
    connection: PostgresConnection = field(default_factory=PostgresConnection)
    airflow_connection: str = ""
    bin_directory: str = ""
    kind: Literal["postgres", "redis"] = "postgres"
    redis: RedisDestination = field(default_factory=RedisDestination)


@dataclass(frozen=True)
class Settings:
    """Everything. ``state_directory`` holds spool, cache and pins; it is safe to lose, except the pins.

    :param installation_fingerprint: SHA-256 (hex) of the installation's public signing key, from `mingus init`;
        empty = the fingerprint noted in the state directory at ``init`` or at first use.
    :param spool_directory: ciphertext on its way; empty = ``<state_directory>/spool``.
    """

    time_zone: str = "UTC"
    state_directory: str = "./state"
    spool_directory: str = ""
    installation_fingerprint: str = ""
    repositories: tuple[RepositorySettings, ...] = ()
    sources: tuple[SourceSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()
    groups: tuple[GroupSettings, ...] = ()
    schedules: Mapping[str, str] = field(default_factory=dict)
    airflow: Mapping[str, Any] = field(default_factory=dict)
    health: HealthSettings = field(default_factory=HealthSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)

    @property
    def state_path(self) -> Path:
        """The state directory."""
        return Path(self.state_directory)

    @property
    def spool_path(self) -> Path:
        """The spool directory."""
        return Path(self.spool_directory) if self.spool_directory else self.state_path / "spool"

    @property
    def alerts_path(self) -> Path:
        """Where it is remembered who was told what."""
        return Path(self.alerts.directory) if self.alerts.directory else self.state_path / "alerts"

    def scratch_path(self, source: SourceSettings) -> Path:
        """Where restore tests of *source* restore to."""
        chosen = source.verify.scratch_directory
        return Path(chosen) if chosen else self.state_path / "scratch"

    def source(self, source_id: str, kind: str | None = None) -> SourceSettings:
        """The source *source_id*, which must be of *kind* where that is given.

        :raises SettingsError: there is none of that name (the nearest is named), or it is of another kind.
        """
        found = typing.cast(SourceSettings, _named("source", source_id, {s.id: s for s in self.sources}))
        if kind is not None and found.kind != kind:
            raise SettingsError(f"source {source_id!r} is of kind {found.kind}, not {kind}")
        return found

    def of_kind(self, kind: str) -> list[str]:
        """Ids of the sources of *kind*, in the order of the settings."""
        return [source.id for source in self.sources if source.kind == kind]

    def destination(self, name: str, kind: str = "postgres") -> DestinationSettings:
        """The destination *name* of *kind*; a source's id stands for the server of that source.

        :raises SettingsError: there is none of that name (the nearest is named), or it is of another kind.
        """
        known = {s.id: _as_destination(s) for s in self.sources} | {d.name: d for d in self.destinations}
        if name not in known:
            known = {n: d for n, d in known.items() if d.kind == kind}
        found = typing.cast(DestinationSettings, _named("destination", name, known))
        if found.kind != kind:
            raise SettingsError(f"destination {name!r} is of kind {found.kind}, not {kind}")
        return found

    def stored_source(self, source_id: str, kind: str | None = None) -> SourceSettings:
        """The source *source_id*, to read what is stored of it. Settings without any source need not name it: what is
        left after a disaster may be a repository and a key. Its kind is then what is asked for.

        :raises SettingsError: there are sources, none of that name, or of another *kind*; or it is no name.
        """
        if self.sources or SOURCE_ID.fullmatch(source_id) is None:
            return self.source(source_id, kind)
        chain = [repository.name for repository in self.repositories]
        return typing.cast(
            SourceSettings,
            build(
                SourceSettings,
                {"id": source_id, "kind": kind or "postgres", "ship_to": chain[1:]},
                "settings",
                os.environ,
            ),
        )

    def group(self, name: str) -> GroupSettings:
        """The group *name*.

        :raises SettingsError: there is none of that name (the nearest is named).
        """
        return typing.cast(GroupSettings, _named("group", name, {g.name: g for g in self.groups}))

    def groups_of(self, source_id: str) -> list[str]:
        """Names of the groups that *source_id* is a member of."""
        return [group.name for group in self.groups if source_id in group.members]

    def repository(self, name: str) -> RepositorySettings:
        """The repository *name*.

        :raises SettingsError: there is none of that name (the nearest is named).
        """
        return typing.cast(RepositorySettings, _named("repository", name, {r.name: r for r in self.repositories}))

    def chain(self, source_id: str) -> tuple[str, ...]:
        """Names of the repositories of a source: the first one, then the shipping chain."""
        source = self.stored_source(source_id)
        first = source.repository or self.repositories[0].name
        return (first, *(name for name in source.ship_to if name != first))

    def recovery_point_objective_s(self, source: SourceSettings) -> int:
        """How old the newest moment of *source* that can be restored may be, in seconds: its own ``rpo_s``, else that
        of section ``health``. What is backed up hourly is older than an hour before the next backup has ended: twice
        that.
        """
        archived = source.kind == "postgres" and source.wal.scheduled
        return source.rpo_s or self.health.rpo_s * (1 if archived else 2)

    def with_destination(self, destination: DestinationSettings) -> Settings:
        """These settings with one destination replaced (a caller that resolved its connection), or added."""
        others = tuple(d for d in self.destinations if d.name != destination.name)
        return dataclasses.replace(self, destinations=(*others, destination))

    def with_source(self, source: SourceSettings) -> Settings:
        """These settings with one source replaced (a caller that resolved its connection)."""
        return dataclasses.replace(self, sources=tuple(source if s.id == source.id else s for s in self.sources))


def _as_destination(source: SourceSettings) -> DestinationSettings:
    """The server of *source*, as one that is restored into."""
    return DestinationSettings(
        source.id,
        source.connection,
        source.redis.airflow_connection if source.kind == "redis" else source.airflow_connection,
        source.bin_directory,
        "redis" if source.kind == "redis" else "postgres",
        RedisDestination(source.redis.connection),
    )


def _named(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name in known:
        return known[name]
    raise SettingsError(f"no {kind} named {name!r} in the settings{nearest(name, known)}")
