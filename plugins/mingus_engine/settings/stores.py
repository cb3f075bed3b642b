"""Where backups are stored: repositories, their stores and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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
