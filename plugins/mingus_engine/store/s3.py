"""An S3 bucket (or a prefix of one) as a store: AWS and every server that speaks its protocol.

``put`` asks first whether the name is there: S3 would replace it silently, and a retry after a lost answer finds its
object without sending it again. Then it sends (:mod:`mingus_engine.store.s3_upload`), and reads back in full what the
server's answer did not prove. ``delete`` is plain; versions and Object Lock are not used yet.

Keys are never created, buckets neither; nothing is cached: what a call returns, the server said now.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from mingus_engine.errors import Damaged, StoreError, StoreUnreachable
from mingus_engine.settings import S3Settings
from mingus_engine.store import bodies, s3_listing, s3_upload
from mingus_engine.store.base import Body, Features, ObjectInfo, checked_name, checked_prefix, is_name
from mingus_engine.store.bodies import Incoming
from mingus_engine.store.s3_client import Credentials, connect, endpoint_of
from mingus_engine.store.s3_errors import CLIENT_ERRORS, code_of, status_of, translated
from mingus_engine.store.s3_upload import Upload

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3Store:
    """The bucket of *settings* as a :class:`mingus_engine.store.base.Store`; connects at the first call.

    :param environ: where the credentials named in the settings are.
    :raises SettingsError: a credential is not set, or the endpoint is not usable.
    """

    def __init__(self, settings: S3Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._credentials = Credentials(settings, environ)
        self._bucket = settings.bucket
        folder = settings.prefix.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        host = urlsplit(endpoint_of(settings)).netloc
        self._location = f"s3://{self._bucket}/{self._prefix}".rstrip("/") + (f" at {host}" if host else "")
        self._lock = threading.Lock()
        self._connected: S3Client | None = None
        self._swept = False

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``, and the server where it is not AWS."""
        return self._location

    @property
    def features(self) -> Features:
        return Features(put_proves_content=True, durable_local_path=False)

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        key = self._key(name)
        incoming = Incoming(self._location, name, body, size, sha256)
        incoming.check()
        with self._translating("put", name):
            if self._is_there(key, incoming):
                return
            if not self._send(key, incoming):
                self._prove(key, incoming)

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        with self._translating("get", name):
            answer: dict[str, Any] = dict(self._client.get_object(Bucket=self._bucket, Key=self._key(name)))
            with contextlib.closing(answer["Body"]) as stream:
                size = int(answer["ContentLength"])
                if max_bytes is not None and size > max_bytes:
                    raise Damaged(
                        f"object {name} in {self._location} has {size} bytes, at most {max_bytes} are expected"
                    )
                return self._received(stream, size, name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: {length} bytes from {offset}")
        if length == 0:  # HTTP has no empty range
            self._refuse_beyond(name, self.stat(name).size, offset, 0)
            return b""
        with self._translating("get", name):
            try:
                answer: dict[str, Any] = dict(
                    self._client.get_object(
                        Bucket=self._bucket, Key=self._key(name), Range=f"bytes={offset}-{offset + length - 1}"
                    )
                )
            except ClientError as error:
                if status_of(error) == 416:
                    raise Damaged(
                        f"object {name} in {self._location} ends before byte {offset}, "
                        f"wanted were {length} bytes from there"
                    ) from None
                raise
            with contextlib.closing(answer["Body"]) as stream:
                first, end, size = _content_range(answer)
                self._refuse_beyond(name, size, offset, length)
                if (first, end) != (offset, offset + length):
                    raise StoreError(
                        f"{self._location} answered bytes {first} to {end} of {name}, asked for were {offset} to "
                        f"{offset + length}",
                        hint="this server does not honour ranges; it cannot be used as a repository",
                    )
                return self._received(stream, length, name)

    def stat(self, name: str) -> ObjectInfo:
        key = self._key(name)
        with self._translating("get", name):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    # A HEAD has no body to tell a missing bucket from a missing object: a listing has.
                    self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
                raise
            return ObjectInfo(name, int(answer["ContentLength"]), answer["LastModified"].astimezone(UTC))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = self._prefix + checked_prefix(prefix)
        skip = len(self._prefix)
        with self._translating("list", prefix):
            for entry in s3_listing.objects(self._client, self._bucket, start, self._location):
                name = entry.name[skip:]
                if is_name(name):  # else a folder marker of some tool: no object of ours has such a name
                    yield ObjectInfo(name, entry.size, entry.modified)

    def delete(self, name: str) -> None:
        with self._translating("delete", name):
            try:
                self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
            except ClientError as error:
                if code_of(error) not in {"404", "NoSuchKey"}:
                    raise

    def now(self) -> datetime:
        """The ``Date`` of an answer, whole seconds. A listing is asked for: the right to it may end at the prefix."""
        with self._translating("ask the time of", ""):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            return parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            raise StoreError(f"{self._location} does not tell its time (Date header {date[:40]!r})") from None

    def free_bytes(self) -> int | None:
        """S3 does not tell."""
        return None

    def honours_if_none_match(self, name: str) -> bool:
        """Whether the server refuses a conditional put of a used name (:mod:`mingus_engine.store.probe`)."""
        key = self._key(name)
        with self._translating("put", name):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=b"first")
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=b"second", IfNoneMatch="*")
            except ClientError as error:
                return status_of(error) == 412
            return False

    def close(self) -> None:
        with self._lock:
            client, self._connected = self._connected, None
        if client is not None:
            client.close()

    @property
    def _client(self) -> S3Client:
        with self._lock:
            if self._connected is None:
                self._connected = connect(self._settings, self._credentials)
            return self._connected

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    @contextlib.contextmanager
    def _translating(self, deed: str, name: str) -> Iterator[None]:
        try:
            yield
        except CLIENT_ERRORS as error:
            known = translated(error, deed, self._location, name)
            # Without the cause: its own text and the request in it were not cleared of the keys.
            raise type(known)(self._credentials.hidden_in(known.message), hint=known.hint) from None

    def _is_there(self, key: str, incoming: Incoming) -> bool:
        """Whether the object is there already, with the promised bytes.

        :raises Damaged: it is there with others.
        """
        try:
            size = int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if status_of(error) == 404:
                return False  # or no bucket: then the put says so
            raise
        if size != incoming.size or self._stored_sha256(key) != incoming.sha256:
            raise Damaged(f"{self._location} has other bytes under the name {incoming.name}; nothing was replaced")
        return True

    def _send(self, key: str, incoming: Incoming) -> bool:
        """Send the bytes; whether the server's answer proves that they arrived."""
        if incoming.size > s3_upload.SINGLE_MAX_BYTES:
            self._abort_stale_once()
        try:
            return Upload(self._client, self._bucket, key, incoming, self._settings.checksum).send()
        except ClientError as error:
            if code_of(error) in {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}:
                raise self._garbled(incoming) from None
            raise

    def _prove(self, key: str, incoming: Incoming) -> None:
        """Read the object back in full; if it is not what was sent, it goes again: a failed put leaves nothing.

        Read twice before that: bytes changed on their way back must not delete a good object, which may be another
        writer's by now.

        :raises StoreUnreachable: it is not what was sent.
        :raises Damaged: it is what was sent, but not what was promised.
        """
        if any(self._stored_sha256(key) == incoming.sha256 for _ in range(2)):
            return
        self._client.delete_object(Bucket=self._bucket, Key=key)
        raise self._garbled(incoming)

    def _garbled(self, incoming: Incoming) -> Exception:
        """Why other bytes arrived than were promised: the body is another, or they were changed on the way."""
        try:
            incoming.check_digest(bodies.sha256_of(incoming.body, incoming.size))
        except Damaged as error:
            return error
        return StoreUnreachable(f"the bytes of {incoming.name} arrived changed in {self._location}; nothing was stored")

    def _stored_sha256(self, key: str) -> bytes:
        digest = hashlib.sha256()
        with contextlib.closing(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]) as stream:
            for piece in stream.iter_chunks(bodies.PIECE_BYTES):
                digest.update(piece)
        return digest.digest()

    def _abort_stale_once(self) -> None:
        """Clear left-over parts of dead processes, once per store; a server that cannot list them keeps them."""
        with self._lock:
            swept, self._swept = self._swept, True
        if not swept:
            with contextlib.suppress(*CLIENT_ERRORS):
                s3_upload.abort_stale(self._client, self._bucket, self._prefix)

    def _received(self, stream: Any, length: int, name: str) -> bytes:
        data: bytes = stream.read()
        if len(data) != length:
            raise StoreUnreachable(f"of {name} in {self._location} {len(data)} bytes came instead of {length}")
        return data

    def _refuse_beyond(self, name: str, size: int, offset: int, length: int) -> None:
        if offset + length > size:
            raise Damaged(
                f"object {name} in {self._location} ends at byte {size}, wanted were {length} bytes from {offset}"
            )


def _content_range(answer: dict[str, Any]) -> tuple[int, int, int]:
    """First byte, end (exclusive) and whole size that an answer holds; without the header it is the whole object."""
    length = int(answer["ContentLength"])
    text = answer.get("ContentRange", "")
    try:
        place, size = text.removeprefix("bytes ").split("/")
        first, last = place.split("-")
        return int(first), int(last) + 1, int(size)
    except ValueError:
        return 0, length, length
