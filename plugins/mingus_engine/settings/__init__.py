"""Settings: one YAML file, parsed once into frozen values; an unknown key is an error naming its nearest.

``${NAME}`` and ``${NAME:-default}`` in any string are replaced from the environment. Secrets are never
written in the file: ``password_env`` / ``password_file`` name where they are. What a PostgreSQL source
leaves out is taken from ``POSTGRES_HOST/PORT/DB/USER/PASSWORD``, what an S3 repository leaves out from
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``BACKUP_S3_BUCKET``, the key from ``BACKUP_ENCRYPTION_KEY``.
``include/config/mingus.yaml`` is the commented example.
"""

from __future__ import annotations

from mingus_engine.settings.alerts import (
    CHANNELS,
    MAIL,
    SLACK,
    SMS,
    AlertSettings,
    MailSettings,
    RouteSettings,
    SlackSettings,
    SmsSettings,
)
from mingus_engine.settings.files import FileRoot, FileSetSettings
from mingus_engine.settings.health import HealthSettings
from mingus_engine.settings.hooks import GroupSettings, HookSettings
from mingus_engine.settings.loading import file_of, load, parse
from mingus_engine.settings.model import SOURCE_ID, DestinationSettings, Settings, SourceSettings, VerifySettings
from mingus_engine.settings.postgres import Measurement, PostgresConnection, Predicate, WalSettings
from mingus_engine.settings.redis import (
    RedisConnection,
    RedisDestination,
    RedisInvariant,
    RedisSettings,
    RedisStreamSettings,
)
from mingus_engine.settings.secret import Secret, read_secret
from mingus_engine.settings.stores import KeySettings, RepositorySettings, S3Settings

__all__ = [
    "CHANNELS",
    "MAIL",
    "SLACK",
    "SMS",
    "SOURCE_ID",
    "AlertSettings",
    "DestinationSettings",
    "FileRoot",
    "FileSetSettings",
    "GroupSettings",
    "HealthSettings",
    "HookSettings",
    "KeySettings",
    "MailSettings",
    "Measurement",
    "PostgresConnection",
    "Predicate",
    "RedisConnection",
    "RedisDestination",
    "RedisInvariant",
    "RedisSettings",
    "RedisStreamSettings",
    "RepositorySettings",
    "RouteSettings",
    "S3Settings",
    "Secret",
    "Settings",
    "SlackSettings",
    "SmsSettings",
    "SourceSettings",
    "VerifySettings",
    "WalSettings",
    "file_of",
    "load",
    "parse",
    "read_secret",
]
