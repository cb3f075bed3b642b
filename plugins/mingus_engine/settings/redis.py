"""What a source of kind ``redis`` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mingus_engine import bounds
from mingus_engine.settings.secret import Secret


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
class RedisDestination:
    """What a destination of kind ``redis`` adds. A cluster is told by ``cluster`` of its connection."""

    connection: RedisConnection = field(default_factory=RedisConnection)
