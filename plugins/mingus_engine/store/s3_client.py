"""A connection to an S3 service, from settings; boto3 is imported here and nowhere else.

Retries are off: :mod:`mingus_engine.store.retrying` does them, for every store alike. Checksums are sent only as the
settings say: since 1.36 boto3 adds some that a number of S3 servers refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mingus_engine.errors import SettingsError
from mingus_engine.settings import S3Settings, Secret

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# As many threads as a source may have workers (settings), so that none waits for a connection.
_CONNECTIONS = 64


class Credentials:
    """The keys of one store: taken from where the settings say, shown to nobody.

    :raises SettingsError: a variable is named but not set. No name at all (``access_key_id_env: ""``) means the role
        of the machine, which boto3 finds by itself.
    """

    def __init__(self, settings: S3Settings, environ: Mapping[str, str]) -> None:
        self.key_id: Secret | None = None
        self.secret_key: Secret | None = None
        self.token: Secret | None = None
        if not settings.access_key_id_env:
            return
        for variable in (settings.access_key_id_env, settings.secret_access_key_env):
            if not environ.get(variable):
                raise SettingsError(
                    f"the variable {variable} with a credential for bucket {settings.bucket} is not set",
                    hint="set it, or set s3.access_key_id_env to '' where the machine has a role of its own",
                )
        self.key_id = Secret(environ[settings.access_key_id_env])
        self.secret_key = Secret(environ[settings.secret_access_key_env])
        # Temporary keys come as three; the third has but one name, which belongs to the first two's usual names.
        if settings.access_key_id_env == "AWS_ACCESS_KEY_ID" and environ.get("AWS_SESSION_TOKEN"):
            self.token = Secret(environ["AWS_SESSION_TOKEN"])

    def hidden_in(self, text: str) -> str:
        """*text* without the keys, wherever a server put them."""
        for secret in (self.secret_key, self.token, self.key_id):
            if secret is not None:
                text = text.replace(secret.reveal(), "***")
        return text


def endpoint_of(settings: S3Settings) -> str:
    """The URL of the service with its scheme; ``""`` = AWS.

    :raises SettingsError: it holds a user or password, which would end in logs.
    """
    endpoint = settings.endpoint
    if endpoint and "://" not in endpoint:
        endpoint = f"{'https' if settings.tls else 'http'}://{endpoint}"
    if "@" in urlsplit(endpoint).netloc:
        raise SettingsError(
            f"the endpoint of bucket {settings.bucket} holds a user or password",
            hint="credentials go into the variables named by access_key_id_env and secret_access_key_env",
        )
    if settings.tls and endpoint.startswith("http://"):
        raise SettingsError(
            f"the endpoint {endpoint} is without TLS, but s3.tls is on", hint="use https:// or set s3.tls: false"
        )
    return endpoint


def connect(settings: S3Settings, credentials: Credentials) -> S3Client:
    """A client that several threads may use; nothing is sent yet.

    :raises SettingsError: boto3 refuses the settings (region, profile, certificate file).
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = endpoint_of(settings)
    encrypted = endpoint.startswith("https://") if endpoint else settings.tls
    config = Config(
        signature_version="s3v4",
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Inside TLS the signed checksum header covers the body; without TLS the body itself is signed, which costs
        # one more pass over it.
        s3={"addressing_style": settings.addressing, "payload_signing_enabled": not encrypted},
    )
    try:
        session = boto3.session.Session(
            aws_access_key_id=credentials.key_id.reveal() if credentials.key_id else None,
            aws_secret_access_key=credentials.secret_key.reveal() if credentials.secret_key else None,
            aws_session_token=credentials.token.reveal() if credentials.token else None,
            region_name=settings.region,
        )
        client: S3Client = session.client(
            "s3",
            endpoint_url=endpoint or None,
            use_ssl=encrypted,
            verify=settings.ca_file or True,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"bucket {settings.bucket} cannot be used: {credentials.hidden_in(str(error))}") from None
    return client
