"""What a server is: version, identity, settings that a restore needs, databases and tablespaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mingus_engine.bounds import PAGE_BYTES, POSTGRES_VERSIONS
from mingus_engine.errors import SourceUnsupported
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.postgres.connection import Session, mapped, place

# A server in recovery needs at least the primary's values of the first five (PostgreSQL documentation, "Hot Standby");
# the others decide whether the restored cluster starts, reads and behaves alike.
SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "wal_log_hints",
    "wal_segment_size",
    "data_checksums",
    "data_directory_mode",
    "full_page_writes",
    "shared_preload_libraries",
    "session_preload_libraries",
    "local_preload_libraries",
    "server_encoding",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "TimeZone",
    "default_text_search_config",
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "archive_mode",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "summarize_wal",
    "shared_buffers",
    "huge_pages",
    "port",
)
PLACES = ("data_directory", "config_file", "hba_file", "ident_file")

_DATABASES = """
SELECT d.oid::bigint, d.datname, pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       d.datlocprovider::text, coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', ''),
       CASE WHEN has_database_privilege(d.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(d.oid) END
FROM pg_database d ORDER BY d.oid
"""
_TABLESPACES = """
SELECT oid::bigint, spcname, pg_tablespace_location(oid) FROM pg_tablespace
WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid
"""
_IDENTITY = """
SELECT s.system_identifier, s.catalog_version_no::bigint, i.database_block_size, i.bytes_per_wal_segment,
       i.data_page_checksum_version <> 0, pg_is_in_recovery(), (SELECT rolname FROM pg_roles WHERE oid = 10)
FROM pg_control_system() s, pg_control_init() i
"""


@dataclass(frozen=True)
class ServerFacts:
    """Facts about a running server.

    :param system_id: identifies the cluster and its physical copies. :param catalog: catalog version number.
    :param standby: the server is in recovery. :param superuser: the role that ``initdb`` made (OID 10).
    :param settings: name → value in the server's base units; what the role may not see is missing.
    :param databases, tablespaces: JSON-able descriptions; sizes in bytes, ``None`` where the role may not ask.
    """

    version: str
    version_number: int
    system_id: int
    catalog: int
    wal_segment_bytes: int
    checksums: bool
    standby: bool
    superuser: str
    settings: Mapping[str, str]
    databases: Sequence[Mapping[str, Any]]
    tablespaces: Sequence[Mapping[str, Any]]

    @property
    def major(self) -> int:
        """15 to 18."""
        return self.version_number // 10000

    @property
    def database_bytes(self) -> int:
        """What the databases whose size is known hold together."""
        return sum(d["bytes"] or 0 for d in self.databases)

    def as_facts(self) -> dict[str, Any]:
        """JSON types, for a manifest. The system id is text: it does not fit a JSON number everywhere."""
        return {
            "server_version": self.version,
            "server_version_number": self.version_number,
            "system_id": str(self.system_id),
            "catalog_version": self.catalog,
            "block_bytes": PAGE_BYTES,
            "wal_segment_bytes": self.wal_segment_bytes,
            "data_checksums": self.checksums,
            "standby": self.standby,
            "superuser": self.superuser,
            "data_directory": self.settings.get("data_directory", ""),
            "settings": {k: v for k, v in self.settings.items() if k not in PLACES},
            "databases": list(self.databases),
            "tablespaces": list(self.tablespaces),
        }


def read_facts(session: Session, conn: PostgresConnection) -> ServerFacts:
    """Ask a server what it is. Needs no more right than to connect.

    :raises SourceUnsupported: its version or block size is not one we know.
    :raises SourceError: a query failed.
    """
    check_version(session, conn)
    with mapped(conn, "reading the server's facts"):
        identity = session.execute(_IDENTITY).fetchone()
        settings = session.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", ([*SETTINGS, *PLACES],)
        ).fetchall()
        databases = session.execute(_DATABASES).fetchall()
        tablespaces = session.execute(_TABLESPACES).fetchall()
    if identity is None or identity[2] != PAGE_BYTES:
        raise SourceUnsupported(f"{place(conn)}: block size is not {PAGE_BYTES} bytes")
    names = ("oid", "name", "encoding", "collate", "ctype", "locale_provider", "locale", "bytes")
    return ServerFacts(
        version=session.info.parameter_status("server_version") or "",
        version_number=session.info.server_version,
        system_id=identity[0] & 0xFFFFFFFFFFFFFFFF,
        catalog=identity[1],
        wal_segment_bytes=identity[3],
        checksums=identity[4],
        standby=identity[5],
        superuser=identity[6],
        settings={name: value for name, value in settings if value is not None},
        databases=[dict(zip(names, row, strict=True)) for row in databases],
        tablespaces=[dict(zip(("oid", "name", "location"), row, strict=True)) for row in tablespaces],
    )


def check_version(session: Session, conn: PostgresConnection) -> None:
    """Refuse a server of a version that was not tried.

    :raises SourceUnsupported: older than 15 or newer than 18.
    """
    number = session.info.server_version
    if number // 10000 not in POSTGRES_VERSIONS:
        first, last = POSTGRES_VERSIONS[0], POSTGRES_VERSIONS[-1]
        shown = (
            f"{number // 10000}.{number % 10000}" if number >= 100000 else f"{number // 10000}.{number // 100 % 100}"
        )
        raise SourceUnsupported(f"{place(conn)}: version {shown} is not one of {first} to {last}")
