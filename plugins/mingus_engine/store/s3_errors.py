"""What an S3 service or the way to it answers, as errors of the engine's tree.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; compatible servers add some of their own.
"""

from __future__ import annotations

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from mingus_engine.errors import MingusError, ObjectMissing, StoreDenied, StoreError, StoreFull, StoreUnreachable

#: Everything a call of the client, or reading its answer, may raise.
CLIENT_ERRORS = (BotoCoreError, ClientError, ResponseParserError)

_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "EntityQuotaExceeded"}
_LATER = {
    "InternalError", "OperationAborted", "RequestLimitExceeded", "RequestTimeout", "RequestTimeoutException",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    # Somebody aborted our parts; the next try starts from the first.
    "NoSuchUpload",
}  # fmt: skip
_HINTS = {
    "NoSuchBucket": "create the bucket or correct s3.bucket; MINGUS never creates one",
    "PermanentRedirect": "set s3.region and s3.endpoint to the bucket's own",
    "AuthorizationHeaderMalformed": "set s3.region to the bucket's own",
    "IllegalLocationConstraintException": "set s3.region to the bucket's own",
    "NotImplemented": "the server does not know what was asked; try s3.checksum: md5 or none",
    "InvalidRequest": "the server may not know the checksum; try s3.checksum: md5 or none",
    "RequestTimeTooSkewed": "synchronise the clock of this machine (NTP)",
}
# What a server says is shown, but not pages of it.
_MESSAGE_MAX_CHARACTERS = 200


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer, 0 when there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """The S3 error code of an answer; HEAD answers have only their status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translated(error: Exception, deed: str, location: str, name: str) -> MingusError:
    """The error for *error* (one of :data:`CLIENT_ERRORS`), met while trying to *deed* (``put``) object *name*."""
    what = f"cannot {deed} {name or 'objects'} in {location}"
    if isinstance(error, ClientError):
        return _answered(error, what, location, name)
    return _unanswered(error, what)


def _answered(error: ClientError, what: str, location: str, name: str) -> MingusError:
    status, code = status_of(error), code_of(error)
    if status == 404 and code in {"404", "NoSuchKey", ""}:
        return ObjectMissing(f"object {name} is not in {location}")
    said = str(error.response.get("Error", {}).get("Message") or "")[:_MESSAGE_MAX_CHARACTERS]
    text = f"{what}: answer {status} {code}{': ' + said if said and said != code else ''}"
    hint = _HINTS.get(code)
    if code in _FULL or status == 507:
        return StoreFull(text, hint=hint)
    if code in _LATER or status in {408, 429} or (status >= 500 and status != 501):
        return StoreUnreachable(text, hint=hint)
    if status in {401, 403} or code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}:
        return StoreDenied(text, hint=hint)
    return StoreError(text, hint=hint)


def _unanswered(error: Exception, what: str) -> MingusError:
    if isinstance(error, botocore_errors.SSLError):
        if "CERTIFICATE" in str(error).upper():
            return StoreError(
                f"{what}: the server's certificate is not trusted ({_reason(error)})",
                hint="name the PEM file of your certificate authority in s3.ca_file",
            )
        return StoreUnreachable(f"{what}: the TLS connection failed ({_reason(error)})")
    if isinstance(error, botocore_errors.NoCredentialsError | botocore_errors.CredentialRetrievalError):
        return StoreDenied(f"{what}: this machine has no credentials", hint="set s3.access_key_id_env and its variable")
    if isinstance(error, ResponseParserError):
        # A page of a proxy, or an answer cut short: not an answer of an S3 service at all.
        return StoreUnreachable(f"{what}: the answer is not one of an S3 service")
    if isinstance(error, botocore_errors.HTTPClientError):
        inner = getattr(error, "kwargs", {}).get("error")
        if isinstance(inner, MingusError):
            return inner  # raised by the body while it was sent: a bandwidth limit that was cancelled
    if isinstance(
        error,
        botocore_errors.ConnectionError | botocore_errors.HTTPClientError | botocore_errors.IncompleteReadError,
    ):
        return StoreUnreachable(f"{what}: {_reason(error)}")
    return StoreError(f"{what}: {type(error).__name__}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error)[:_MESSAGE_MAX_CHARACTERS]
