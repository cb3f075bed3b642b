"""Settings: one YAML file, parsed once into frozen values; an unknown key is an error naming its nearest.

``${NAME}`` and ``${NAME:-default}`` in any string are replaced from the environment. Secrets are never
written in the file: ``password_env`` / ``password_file`` name where they are. What a PostgreSQL source
leaves out is taken from ``POSTGRES_HOST/PORT/DB/USER/PASSWORD``, what an S3 repository leaves out from
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``BACKUP_S3_BUCKET``, the key from ``BACKUP_ENCRYPTION_KEY``.
``include/config/mingus.yaml`` is the commented example.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import yaml

from mingus_engine import bounds
from mingus_engine.errors import SettingsError

SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Secret:
    """A secret text that no ``repr``, log or traceback shows; ``reveal()`` gives it to who must have it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class S3Settings:
    """How an S3 service is reached.

    :param endpoint: URL of the service; empty = AWS. ``http://`` only with ``tls: false``.
    :param addressing: ``path`` works with every server; ``virtual`` where a service demands it.
    :param checksum: ``sha256`` sends ``x-amz-checksum-sha256``, ``md5`` sends ``Content-MD5``, ``none`` reads
        everything back; the probe at ``init`` proves whether the server enforces it.
    :param ca_file: PEM of a private certificate authority.
    """

    bucket: str = "${BACKUP_S3_BUCKET}"
    prefix: str = ""
    region: str = "us-east-1"
    endpoint: str = ""
    addressing: Literal["path", "virtual"] = "path"
    checksum: Literal["sha256", "md5", "none"] = "sha256"
    tls: bool = True
    ca_file: str = ""
    access_key_id_env: str = "AWS_ACCESS_KEY_ID"
    secret_access_key_env: str = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0


@dataclass(frozen=True)
class KeySettings:
    """Where the key of a repository comes from; the first that is set and opens a slot is used.

    :param environment: name of the variable with 32 bytes (hex or base64) or any passphrase.
    :param passphrase_env: name of the variable with the passphrase of the passphrase slot.
    :param passphrase_file: file with the passphrase (one line).
    """

    environment: str = "BACKUP_ENCRYPTION_KEY"
    passphrase_env: str = "MINGUS_PASSPHRASE"  # noqa: S105 - the name of a variable
    passphrase_file: str = ""


@dataclass(frozen=True)
class RepositorySettings:
    """One repository.

    :param path: directory of a ``local`` store.
    :param attempts: tries of one store call before it fails (backoff with jitter between them).
    :param bandwidth_bytes_per_s: limit of the bytes sent and fetched, 0 = none.
    """

    name: str
    store: Literal["local", "s3"] = "local"
    path: str = ""
    s3: S3Settings = field(default_factory=S3Settings)
    keys: KeySettings = field(default_factory=KeySettings)
    attempts: int = 5
    bandwidth_bytes_per_s: int = 0


@dataclass(frozen=True)
class PostgresConnection:
    """How a PostgreSQL server is reached; ``host`` may be a directory with its unix socket."""

    host: str = "${POSTGRES_HOST:-localhost}"
    port: int | str = "${POSTGRES_PORT:-5432}"
    user: str = "${POSTGRES_USER:-postgres}"
    dbname: str = "${POSTGRES_DB:-postgres}"
    password_env: str = "POSTGRES_PASSWORD"  # noqa: S105 - the name of a variable
    password_file: str = ""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    connect_timeout_s: int = 10
    password: Secret | None = None


@dataclass(frozen=True)
class Predicate:
    """SQL that must be true at any consistent moment, e.g. sum of debits = sum of credits.

    :param sql: a query of one row with one boolean.
    """

    name: str
    sql: str
    database: str = ""


@dataclass(frozen=True)
class Measurement:
    """SQL whose value is recorded with the LSN at which it was taken, and compared after a restore.

    :param sql: a query of one row with one number or text.
    :param tolerance: how far a number may lie from the recorded one when something was written in between;
        a text must then merely be there. Relative when ``tolerance_relative`` (0.01 = 1 %), else absolute.
    """

    name: str
    sql: str
    database: str = ""
    tolerance: float = 0.0
    tolerance_relative: bool = False


@dataclass(frozen=True)
class VerifySettings:
    """How restore tests of a source run.

    :param repository: which repository is tested; empty = the last one of the shipping chain.
    :param scratch_directory: where it is restored to; empty = ``<state_directory>/scratch``.
    :param run_as: operating-system user of the throw-away server when the engine is root; empty = named as the kind.
    :param amcheck: run ``pg_amcheck --heapallindexed --parent-check``.
    """

    repository: str = ""
    level: Literal["L0", "L1", "L2", "L3", "L4"] = "L4"
    scratch_directory: str = ""
    run_as: str = ""
    amcheck: bool = True
    start_timeout_s: int = 3600


@dataclass(frozen=True)
class WalSettings:
    """How the write-ahead log of a source is archived.

    :param scheduled: whether the DAG ``backup_postgres_wal`` archives it; off where the server pushes its log, which is
        then shipped with each snapshot.
    :param slot: name of the replication slot; empty = ``mingus_<source id>`` (see :attr:`SourceSettings.wal_slot`).
    :param slice_interval_s: a streaming archiver stores what is new of the unfinished segment this often.
    :param idle_sample_s: while nothing is written, how often "archived up to now" is stored, at most.
    :param canary: write a marker, and find it again in every repository after each drain.
    :param busy_lag_max_bytes: a drain that finds the slot held by a streaming archiver is content when no more than
        this is not stored yet.
    """

    scheduled: bool = True
    slot: str = ""
    slice_interval_s: float = 5.0
    idle_sample_s: float = 300.0
    canary: bool = True
    busy_lag_max_bytes: int = 64 * bounds.MIB


@dataclass(frozen=True)
class RedisConnection:
    """How a Redis (or Valkey) server is reached.

    :param socket: path of a unix socket; then host and port are not used.
    :param user: ACL user; empty = the default user.
    :param tls: encrypt, and verify the certificate and its name; *ca_file*: PEM of a private authority.
    :param sentinels: ``host:port`` of Sentinels to ask where the primary *sentinel_master* and its replicas are.
    :param cluster: host and port are of any node of a cluster; every primary is backed up.
    """

    host: str = "${REDIS_HOST:-localhost}"
    port: int | str = "${REDIS_PORT:-6379}"
    socket: str = ""
    user: str = "${REDIS_USER:-}"
    password_env: str = "REDIS_PASSWORD"  # noqa: S105 - the name of a variable
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    sentinels: tuple[str, ...] = ()
    sentinel_master: str = ""
    sentinel_user: str = ""
    sentinel_password_env: str = "REDIS_SENTINEL_PASSWORD"  # noqa: S105 - the name of a variable
    cluster: bool = False
    connect_timeout_s: int = 10
    password: Secret | None = None


@dataclass(frozen=True)
class RedisInvariant:
    """What a restore test asks a restored Redis; ``lua`` must return 1, or keys that match ``pattern`` are counted.

    :param lua: body of a read-only script. :param database: number of the logical database.
    :param pattern: glob of key names; *least*, *most*: bounds of their number, *most* 0 = none.
    """

    name: str
    lua: str = ""
    database: int = 0
    pattern: str = ""
    least: int = 1
    most: int = 0


@dataclass(frozen=True)
class RedisStreamSettings:
    """How the command stream of a Redis source is recorded.

    :param slice_interval_s: the service stores what is new this often.
    :param idle_sample_s: while nothing is written, how often "stored up to now" is stored, at most.
    :param busy_lag_max_bytes: a drain that finds the service at work is content when no more than this is not stored.
    """

    slice_interval_s: float = 2.0
    idle_sample_s: float = 60.0
    busy_lag_max_bytes: int = 64 * bounds.MIB


@dataclass(frozen=True)
class RedisSettings:
    """What a source of kind ``redis`` adds.

    :param transport: ``replication`` streams the RDB as a replica would; ``bgsave`` lets the server write it and reads
        it from *data_directory*.
    :param data_directory: where the server's files can be read; empty = nowhere. The append-only file is read there;
        else the command stream is recorded.
    :param config_file: the server's configuration file, where it can be read; it is stored with a snapshot.
    :param prefer_replica: take snapshots from a healthy replica where there is one.
    :param may_be_empty: a snapshot without a key is no failure.
    :param shrink_alarm_share: alarm when there are fewer keys than this share of the last snapshot's; 0 = never.
    :param sample_keys: of how many keys the ``DUMP`` digests are recorded, for restore tests to compare.
    :param save_timeout_s: how long the server may take to fork and begin to send, or to save.
    :param aof_scheduled: whether the DAG ``backup_redis_aof`` backs up the append-only file or the command stream.
    :param stream: how the command stream is recorded.
    """

    connection: RedisConnection = field(default_factory=RedisConnection)
    airflow_connection: str = ""
    transport: Literal["replication", "bgsave"] = "replication"
    data_directory: str = ""
    config_file: str = ""
    prefer_replica: bool = True
    may_be_empty: bool = False
    shrink_alarm_share: float = 0.1
    sample_keys: int = 1000
    save_timeout_s: int = 3600
    aof_scheduled: bool = True
    stream: RedisStreamSettings = field(default_factory=RedisStreamSettings)
    invariants: tuple[RedisInvariant, ...] = ()


@dataclass(frozen=True)
class FileRoot:
    """A directory (or a file) that is backed up with everything below it.

    :param path: absolute. :param label: what its paths begin with in snapshots; never change it; empty = the last part
        of *path*.
    """

    path: str
    label: str = ""

    @property
    def name(self) -> str:
        """The label, as it stands in snapshots."""
        return self.label or self.path.rstrip("/").rpartition("/")[2] or "root"


@dataclass(frozen=True)
class FileSetSettings:
    """What a source of kind ``files`` adds.

    :param set: what kind of files they are; it decides at which time of the night the DAGs back them up.
    :param include: where given, only files that match one of these patterns (as in ``.gitignore``, from each root).
    :param exclude: what matches is left out, directories with all that is below them.
    :param one_file_system: do not go into what is mounted below a root.
    :param links: ``keep`` symbolic links, or ``follow`` them and back up what they lead to.
    :param file_max_bytes: larger files are left out and counted; 0 = no limit.
    :param full_every_days: after so long an incremental stores everything again.
    :param reread_every_days: after so long an incremental reads also files that seem unchanged, to find content that
        changed although nothing else did (a disk that rots); 0 = never.
    :param may_be_empty: a set without any file is no alarm.
    :param shrink_alarm_share: alarm when there are fewer files, or fewer bytes, than this share of the last time's.
    :param unreadable_max_share: the backup fails when more of the files than this share cannot be read.
    :param burst_alarm_share: alarm when so large a share of the files was replaced by content that looks encrypted
        since the last time; 0 = never.
    :param dedup_index_max_bytes: of a temporary file that says where stored chunks lie; what does not fit into it is
        stored again.
    """

    set: Literal["documents", "configuration", "code"] = "documents"
    roots: tuple[FileRoot, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = False
    links: Literal["keep", "follow"] = "keep"
    file_max_bytes: int = 0
    full_every_days: int = 90
    reread_every_days: int = 7
    may_be_empty: bool = False
    shrink_alarm_share: float = 0.5
    unreadable_max_share: float = 0.01
    burst_alarm_share: float = 0.2
    dedup_index_max_bytes: int = bounds.GIB


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
    :param compression_level: zstd; 1 is fastest, 3 stores some percent less.
    :param bin_directory: directory of the server's programs for restore tests; empty = found by version.
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
    compression_level: int = 1
    full_every_days: int = 7
    verify_page_checksums: bool = True
    max_rate_bytes_per_s: int = 0
    predicates: tuple[Predicate, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    verify: VerifySettings = field(default_factory=VerifySettings)
    wal: WalSettings = field(default_factory=WalSettings)
    bin_directory: str = ""
    redis: RedisSettings = field(default_factory=RedisSettings)
    files: FileSetSettings = field(default_factory=FileSetSettings)

    @property
    def run_as(self) -> str:
        """Operating-system user of the throw-away server, and of restored files, when the engine is root."""
        return self.verify.run_as or self.kind

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
class RedisDestination:
    """What a destination of kind ``redis`` adds. A cluster is told by ``cluster`` of its connection."""

    connection: RedisConnection = field(default_factory=RedisConnection)


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
    schedules: Mapping[str, str] = field(default_factory=dict)
    airflow: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        """The state directory."""
        return Path(self.state_directory)

    @property
    def spool_path(self) -> Path:
        """The spool directory."""
        return Path(self.spool_directory) if self.spool_directory else self.state_path / "spool"

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
            _build(
                SourceSettings,
                {"id": source_id, "kind": kind or "postgres", "ship_to": chain[1:]},
                "settings",
                os.environ,
            ),
        )

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

    def with_destination(self, destination: DestinationSettings) -> Settings:
        """These settings with one destination replaced (a caller that resolved its connection), or added."""
        others = tuple(d for d in self.destinations if d.name != destination.name)
        return dataclasses.replace(self, destinations=(*others, destination))

    def with_source(self, source: SourceSettings) -> Settings:
        """These settings with one source replaced (a caller that resolved its connection)."""
        return dataclasses.replace(self, sources=tuple(source if s.id == source.id else s for s in self.sources))


def file_of(path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Where :func:`load` reads the settings from."""
    environ = os.environ if environ is None else environ
    return Path(path or environ.get("MINGUS_CONFIG") or "include/config/mingus.yaml")


def load(path: Path | str | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of *path*, or of ``MINGUS_CONFIG``, or of ``include/config/mingus.yaml``.

    :raises SettingsError: not there, not YAML, an unknown key, a wrong value; the message names the place.
    """
    environ = os.environ if environ is None else environ
    chosen = file_of(path, environ)
    try:
        text = chosen.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot read settings {chosen}: {error.strerror}", hint="name the file by --config or MINGUS_CONFIG"
        ) from None
    return parse(text, where=str(chosen), environ=environ, base=chosen.parent)


def parse(
    text: str, *, where: str = "settings", environ: Mapping[str, str] | None = None, base: Path | None = None
) -> Settings:
    """Parse YAML *text*. Relative paths are taken from *base* (the settings file's directory).

    :raises SettingsError: see :func:`load`.
    """
    environ = os.environ if environ is None else environ
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{where}: must be a mapping of settings")
    settings = typing.cast(Settings, _build(Settings, document, where, environ))
    _refuse_foreign_keys(document, where)
    if base is not None:
        settings = _absolute(settings, base.absolute())
    _check(settings, where)
    return settings


def read_secret(
    environ_name: str, file_name: str = "", *, environ: Mapping[str, str] | None = None, what: str = "secret"
) -> Secret | None:
    """The secret of a variable, else of a file (its first line), else ``None``.

    :raises SettingsError: the file is named but cannot be read.
    """
    environ = os.environ if environ is None else environ
    if environ_name and environ.get(environ_name):
        return Secret(environ[environ_name])
    if file_name:
        try:
            return Secret(Path(file_name).read_text(encoding="utf-8").splitlines()[0])
        except (OSError, IndexError):
            raise SettingsError(f"cannot read the {what} from file {file_name}") from None
    return None


# Keys of a source that mean something for one kind alone.
_KIND_KEYS = {
    "postgres": {
        "transport", "sql_connections", "connection", "airflow_connection", "data_directory", "verify_page_checksums",
        "max_rate_bytes_per_s", "predicates", "measurements", "wal",
    },
    "redis": {"redis"},
    "files": {"files"},
}  # fmt: skip


# ... and of a destination.
_DESTINATION_KEYS = {"postgres": {"connection", "bin_directory"}, "redis": {"redis"}}


def _refuse_foreign_keys(document: Mapping[str, Any], where: str) -> None:
    """:raises SettingsError: an entry has a key that its kind does not know; it would do nothing."""
    for list_name, of_kinds in (("sources", _KIND_KEYS), ("destinations", _DESTINATION_KEYS)):
        for i, raw in enumerate(document.get(list_name) or ()):
            kind = raw.get("kind", "postgres")
            for other, keys in of_kinds.items():
                if other != kind and (foreign := sorted(keys & raw.keys())):
                    raise SettingsError(
                        f"{where}.{list_name}[{i}]: {foreign[0]!r} is a key of {other} {list_name}, not of {kind}"
                    )


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
    raise SettingsError(f"no {kind} named {name!r} in the settings{_nearest(name, known)}")


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names) or 'none'}"


def _build(cls: type, raw: Any, where: str, environ: Mapping[str, str]) -> Any:
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}: must be a mapping, not {type(raw).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if hints[f.name] != Secret | None}
    for key in raw:
        if key not in fields:
            raise SettingsError(f"{where}: unknown key {str(key)!r}{_nearest(str(key), fields)}")
    values = {}
    for name, spec in fields.items():
        place = f"{where}.{name}"
        if name in raw and raw[name] is not None:
            values[name] = _convert(hints[name], raw[name], place, environ)
        elif spec.default is not dataclasses.MISSING:
            values[name] = _convert(hints[name], spec.default, place, environ)
        elif spec.default_factory is not dataclasses.MISSING:
            default = spec.default_factory()
            values[name] = _build(type(default), {}, place, environ) if dataclasses.is_dataclass(default) else default
        else:
            raise SettingsError(f"{where}: missing key {name!r}")
    return cls(**values)


def _convert(hint: Any, raw: Any, where: str, environ: Mapping[str, str]) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), raw, where, environ)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(raw, list | tuple):
            raise SettingsError(f"{where}: must be a list, not {type(raw).__name__}")
        return tuple(_convert(item, value, f"{where}[{i}]", environ) for i, value in enumerate(raw))
    if isinstance(raw, str):
        raw = _expand(raw, environ)
    if origin is Literal:
        if raw not in typing.get_args(hint):
            raise SettingsError(f"{where}: {raw!r} is not one of {', '.join(map(str, typing.get_args(hint)))}")
        return raw
    if origin in (typing.Union, types.UnionType):  # only `int | str`: a number that may be a ${VARIABLE}
        hint = int
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(raw, dict):
            raise SettingsError(f"{where}: must be a mapping, not {type(raw).__name__}")
        return raw
    return _scalar(hint, raw, where)


def _scalar(hint: type, raw: Any, where: str) -> Any:
    if hint is bool and isinstance(raw, bool):
        return raw
    if hint is str and isinstance(raw, str | int | float) and not isinstance(raw, bool):
        return str(raw)
    if hint in (int, float) and not isinstance(raw, bool):
        try:
            return hint(raw)
        except (TypeError, ValueError):
            pass
    raise SettingsError(f"{where}: {raw!r} is not a valid {hint.__name__}")


def _expand(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda m: environ.get(m[1]) or m[2] or "", text)


def _absolute(settings: Settings, base: Path) -> Settings:
    def absolute(path: str) -> str:
        return str(base / Path(path).expanduser()) if path else ""

    return dataclasses.replace(
        settings,
        state_directory=absolute(settings.state_directory),
        spool_directory=absolute(settings.spool_directory),
        repositories=tuple(dataclasses.replace(r, path=absolute(r.path)) for r in settings.repositories),
    )


def _check(settings: Settings, where: str) -> None:
    try:
        ZoneInfo(settings.time_zone)
    except (KeyError, ValueError, OSError):
        raise SettingsError(f"{where}.time_zone: {settings.time_zone!r} is not a time zone") from None
    for kind, names in (
        ("repository", [r.name for r in settings.repositories]),
        ("source", [s.id for s in settings.sources]),
        ("destination", [*(d.name for d in settings.destinations), *(s.id for s in settings.sources)]),
    ):
        for name in names:
            if SOURCE_ID.fullmatch(name) is None:
                raise SettingsError(f"{where}: {kind} name {name!r} must be [a-z0-9][a-z0-9-]{{0,62}}")
            if names.count(name) > 1:
                raise SettingsError(f"{where}: two {kind} entries are named {name!r}")
    _check_places(settings, where)
    for source in settings.sources:
        for name in (source.repository, source.verify.repository, *source.ship_to):
            if name:
                settings.repository(name)
        if not settings.repositories:
            raise SettingsError(f"{where}: source {source.id!r} has no repository to go to")
        _check_numbers(source, where)


def _check_numbers(source: SourceSettings, where: str) -> None:
    limits = (("workers", 64), ("sql_connections", 16), ("compression_level", 19), ("full_every_days", 366))
    for key, most in limits:
        if not 1 <= getattr(source, key) <= most:
            raise SettingsError(f"{where}: {key} of source {source.id!r} must be 1 to {most}")
    if _SLOT.fullmatch(source.wal_slot) is None:
        raise SettingsError(f"{where}: wal.slot of source {source.id!r} must be [a-z0-9_]{{1,63}}")
    if source.wal.slice_interval_s <= 0 or source.wal.idle_sample_s <= 0 or source.wal.busy_lag_max_bytes < 0:
        raise SettingsError(f"{where}: the intervals of wal of source {source.id!r} must be above 0")
    stream = source.redis.stream
    if stream.slice_interval_s <= 0 or stream.idle_sample_s <= 0 or stream.busy_lag_max_bytes < 0:
        raise SettingsError(f"{where}: the intervals of redis.stream of source {source.id!r} must be above 0")
    if not 0 <= source.redis.shrink_alarm_share <= 1:
        raise SettingsError(f"{where}: redis.shrink_alarm_share of source {source.id!r} must be 0 to 1")
    if source.kind == "files":
        _check_file_set(source, where)


def _check_file_set(source: SourceSettings, where: str) -> None:
    files, where = source.files, f"{where}: files of source {source.id!r}"
    if not files.roots:
        raise SettingsError(f"{where}: name at least one root")
    names = [root.name for root in files.roots]
    for root in files.roots:
        if not root.path.startswith("/"):
            raise SettingsError(f"{where}: root {root.path!r} is not an absolute path")
        if "/" in root.name or root.name in {".", "..", ".mingus-restore-incomplete"}:
            raise SettingsError(f"{where}: {root.name!r} cannot be the label of a root")
        if names.count(root.name) > 1:
            raise SettingsError(f"{where}: two roots are called {root.name!r}", hint="give one of them another `label`")
    for key, most in (("full_every_days", 366), ("reread_every_days", 366)):
        if not (0 if key.startswith("reread") else 1) <= getattr(files, key) <= most:
            raise SettingsError(f"{where}: {key} must be at most {most}")
    for key in ("shrink_alarm_share", "unreadable_max_share", "burst_alarm_share"):
        if not 0 <= getattr(files, key) <= 1:
            raise SettingsError(f"{where}: {key} must be 0 to 1")
    if files.file_max_bytes < 0 or files.dedup_index_max_bytes < bounds.MIB:
        raise SettingsError(f"{where}: file_max_bytes must be 0 or more, dedup_index_max_bytes at least {bounds.MIB}")


def _check_places(settings: Settings, where: str) -> None:
    places: dict[tuple[str, ...], str] = {}
    for repository in settings.repositories:
        if repository.store == "local":
            if not repository.path:
                raise SettingsError(f"{where}: repository {repository.name!r} needs a path")
            place: tuple[str, ...] = ("local", os.path.realpath(repository.path))
        else:
            if not repository.s3.bucket:
                raise SettingsError(f"{where}: repository {repository.name!r} needs s3.bucket or BACKUP_S3_BUCKET")
            if repository.s3.tls and repository.s3.endpoint.startswith("http://"):
                raise SettingsError(f"{where}: repository {repository.name!r} has an http:// endpoint but tls is on")
            place = ("s3", repository.s3.endpoint, repository.s3.bucket, repository.s3.prefix.strip("/"))
        if place in places:
            raise SettingsError(
                f"{where}: repositories {places[place]!r} and {repository.name!r} have the same place {place[-1]!r}"
            )
        places[place] = repository.name
