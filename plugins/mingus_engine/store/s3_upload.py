"""Sending one object to S3 so that it is proven to be there: whole, and byte for byte.

The proof is the server's own: its answer repeats the SHA-256 it computed, or its ETag is the MD5 of what arrived. A
server that answers neither is read back in full. (One that repeats a checksum without computing it is found out by
:mod:`mingus_engine.store.probe`; ``checksum: none`` in the settings then always reads back.)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from mingus_engine import bounds
from mingus_engine.store import bodies
from mingus_engine.store.bodies import Incoming, Window
from mingus_engine.store.s3_errors import CLIENT_ERRORS

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

Checksum = Literal["sha256", "md5", "none"]

# A pack (64 MiB) goes in one request: half the requests, and its checksum is that of the whole object.
SINGLE_MAX_BYTES = 128 * bounds.MIB
# What is sent again when a connection breaks. 10,000 parts (the most S3 takes) of this size are 625 GiB.
PART_BYTES = 64 * bounds.MIB
PARTS_MAX = 10_000
# Parts of an upload that nobody finishes cost money and are not listed. No upload takes a week.
_STALE_AFTER = timedelta(days=7)
_CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Sent:
    """A part (or a whole object) to send: its place and the headers that carry its checksum.

    :param md5_hex: what an ETag must be to prove the content; ``""`` when MD5 was not computed.
    """

    offset: int
    length: int
    headers: dict[str, Any]
    md5_hex: str = ""

    def proven_by(self, answer: dict[str, Any]) -> bool:
        """Whether the server's answer shows that the bytes arrived as they were meant."""
        wanted = self.headers.get("ChecksumSHA256")
        if wanted:
            return bool(answer.get("ChecksumSHA256") == wanted)
        return bool(self.md5_hex) and answer.get("ETag", "").strip('"') == self.md5_hex


@dataclass(frozen=True)
class Upload:
    """One object on its way to one key of a bucket."""

    client: S3Client
    bucket: str
    key: str
    incoming: Incoming
    checksum: Checksum

    def send(self) -> bool:
        """Send the object; whether the server's answers prove that it arrived as promised.

        :raises Damaged: the body is not what was promised (found while hashing it).
        """
        return self._single() if self.incoming.size <= SINGLE_MAX_BYTES else self._multipart()

    def _single(self) -> bool:
        size = self.incoming.size
        if self.checksum == "sha256":
            # The promise itself goes along: if the file holds other bytes, the server refuses them.
            sent = Sent(0, size, {"ChecksumSHA256": _base64(self.incoming.sha256)})
        elif self.checksum == "md5":
            whole = hashlib.sha256()
            sent = self._hashed(0, size, whole)
            self.incoming.check_digest(whole.digest())
        else:
            sent = Sent(0, size, {})
        answer = self.client.put_object(
            Bucket=self.bucket,
            Key=self.key,
            Body=self._window(sent),
            ContentLength=size,
            ContentType=_CONTENT_TYPE,
            **sent.headers,
        )
        return sent.proven_by(dict(answer))

    def _multipart(self) -> bool:
        algorithm: dict[str, Any] = {"ChecksumAlgorithm": "SHA256"} if self.checksum == "sha256" else {}
        place: dict[str, Any] = {"Bucket": self.bucket, "Key": self.key}
        answer = self.client.create_multipart_upload(**place, ContentType=_CONTENT_TYPE, **algorithm)
        place["UploadId"] = answer["UploadId"]
        try:
            parts, proven = self._send_parts(place)
            self.client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
        except BaseException:
            # Also on Ctrl-C: the parts would be paid for and never seen. What went wrong stays the error.
            with contextlib.suppress(*CLIENT_ERRORS):
                self.client.abort_multipart_upload(**place)
            raise
        return proven

    def _send_parts(self, place: dict[str, Any]) -> tuple[list[Any], bool]:
        step = part_bytes(self.incoming.size)
        whole = hashlib.sha256()
        parts: list[Any] = []
        proven = True
        for number, offset in enumerate(range(0, self.incoming.size, step), 1):
            sent = self._hashed(offset, min(step, self.incoming.size - offset), whole)
            answer = self.client.upload_part(
                **place, PartNumber=number, Body=self._window(sent), ContentLength=sent.length, **sent.headers
            )
            proven = proven and sent.proven_by(dict(answer))
            repeated = {k: v for k, v in sent.headers.items() if k == "ChecksumSHA256"}
            parts.append({"PartNumber": number, "ETag": answer["ETag"], **repeated})
        # Each part is proven; that together they are the promised object, only the digest of all says.
        self.incoming.check_digest(whole.digest())
        return parts, proven

    def _hashed(self, offset: int, length: int, whole: hashlib._Hash) -> Sent:
        """A part, hashed in one pass for its own checksum and into *whole*."""
        part = hashlib.md5(usedforsecurity=False) if self.checksum == "md5" else hashlib.sha256()
        for piece in bodies.pieces(self.incoming.body, offset, length):
            whole.update(piece)
            if self.checksum != "none":
                part.update(piece)
        if self.checksum == "md5":
            return Sent(offset, length, {"ContentMD5": _base64(part.digest())}, part.hexdigest())
        return Sent(offset, length, {"ChecksumSHA256": _base64(part.digest())} if self.checksum == "sha256" else {})

    def _window(self, sent: Sent) -> IO[bytes]:
        return cast(IO[bytes], Window(self.incoming.body, sent.offset, sent.length))


def part_bytes(size: int) -> int:
    """The length of each part but the last of an object of *size* bytes."""
    least = -(-size // PARTS_MAX)
    return max(PART_BYTES, -(-least // bounds.MIB) * bounds.MIB)


def abort_stale(client: S3Client, bucket: str, prefix: str) -> int:
    """Abort uploads below *prefix* that a dead process left over a week ago; how many were."""
    aborted = 0
    limit = datetime.now(UTC) - _STALE_AFTER
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for upload in page.get("Uploads", ()):
            if upload["Initiated"] < limit:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                aborted += 1
    return aborted


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
