"""How long the certificates of TLS endpoints are still valid. They are read without being trusted; whether they are
shows the real connection.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509

from mingus_engine.jobs.health.findings import CRITICAL, WARN, Finding
from mingus_engine.settings import RepositorySettings, Settings, SourceSettings

_TIMEOUT_S = 10.0
_DAY_S = 86400
# PostgreSQL: "SSLRequest" of the frontend/backend protocol.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


@dataclass(frozen=True)
class Endpoint:
    """Where a certificate is shown. :param asks: PostgreSQL wants to be asked for TLS first."""

    host: str
    port: int
    asks: bool = False


def endpoints(settings: Settings, source: SourceSettings | None = None, repository: str = "") -> Iterator[Endpoint]:
    """Those of one source, or of one repository, that are to be reached by TLS."""
    if source is None:
        yield from _of_repository(settings.repository(repository))
    elif source.kind == "postgres":
        conn = source.connection
        if conn.sslmode not in {"disable", "allow"} and not conn.host.startswith("/"):
            yield Endpoint(conn.host, int(conn.port), asks=True)
    elif source.kind == "redis" and source.redis.connection.tls and not source.redis.connection.socket:
        yield Endpoint(source.redis.connection.host, int(source.redis.connection.port))


def _of_repository(repository: RepositorySettings) -> Iterator[Endpoint]:
    if repository.store == "s3" and repository.s3.tls:
        endpoint = repository.s3.endpoint or f"https://s3.{repository.s3.region}.amazonaws.com"
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        yield Endpoint(parts.hostname or "", parts.port or 443)


def look(
    endpoint: Endpoint, least_days: int, now: datetime, *, source: str = "", repository: str = ""
) -> list[Finding]:
    """Days left; nothing, where the server speaks no TLS and need not."""
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        expires = _expires(endpoint)
    except (OSError, ValueError) as error:
        return [Finding("certificate", False, f"{where}: not read: {error}", source, repository, known=False)]
    if expires is None:
        return []
    days = (expires - now).total_seconds() / _DAY_S
    said = (
        f"{where}: expires {expires:%Y-%m-%d}, in {days:.0f} days"
        if days >= 0
        else f"{where}: expired {expires:%Y-%m-%d}"
    )
    return [Finding(
        "certificate", days >= least_days, said, source, repository, severity=CRITICAL if days < 0 else WARN,
        hint="renew it before backups fail",
    )]  # fmt: skip


def _expires(endpoint: Endpoint) -> datetime | None:
    context = ssl.create_default_context()
    # Only dates are read of it; an expired or private certificate must be readable, too.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(socket.create_connection((endpoint.host, endpoint.port), _TIMEOUT_S)) as plain:
        if endpoint.asks:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
        with context.wrap_socket(plain, server_hostname=endpoint.host) as link:
            raw = link.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(raw).not_valid_after_utc if raw else None
