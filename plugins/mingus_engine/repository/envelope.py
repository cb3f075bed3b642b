"""The one form of every small object: plain header, signature, placement, sealed body.

::

    magic "MINGUSOB" (8) · u16 version · u16 zero · kind (4, ASCII) · u32 header length · u32 placement length · u32
    sealed length · header (JSON) · Ed25519 signature (64) · placement (JSON) · sealed body

The signature covers version, kind and header (the header holds the body's SHA-256), so it goes with the object to
every repository. The placement belongs to one repository: its id, the run that put the object here, epoch, salt and
key commitment. All bytes before the sealed body are its AAD. Objects that are readable before any key is there
(``CONF``, ``EKEY``) have no sealed body.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mingus_engine import bounds
from mingus_engine.codec import plainjson, sealing
from mingus_engine.codec.blobs import Compressor, Decompressor
from mingus_engine.errors import Damaged, ForeignRepository, FormatTooNew, KeyUnavailable

MAGIC = b"MINGUSOB"
VERSION = 1
_FIXED = struct.Struct("<8sHH4sIII")
_SIGNATURE_BYTES = 64

CONFIG = "CONF"
EPOCH_KEY = "EKEY"
RUN_START = "RUNS"
RUN_END = "RUNE"
SNAPSHOT = "SNAP"
LOG_KEY = "LKEY"
RECORD = "RECD"

T = TypeVar("T")

#: Looks up the long-term key of an epoch; raises KeyUnavailable.
EpochKeys = Callable[[str], bytes]


@dataclass(frozen=True)
class Signer:
    """The installation's signing key. ``key_id`` is the SHA-256 (hex) of its raw public key: the fingerprint."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """The fingerprint."""
        return hashlib.sha256(self.public).hexdigest()


@dataclass(frozen=True)
class Envelope:
    """An object as it was stored, not yet opened.

    :param header: plain part, the same in every repository. :param placement: plain part of this repository.
    :param raw: all stored bytes. :param name: where it was found, for errors.
    """

    kind: str
    header: Mapping[str, Any]
    placement: Mapping[str, Any]
    raw: bytes
    name: str
    sealed_at: int
    header_raw: bytes
    signature: bytes

    def text(self, key: str) -> str:
        """A text of the header.

        :raises Damaged: not there, or no text.
        """
        return typed(self.header, key, str, self.name)

    def number(self, key: str) -> int:
        """A whole number of the header. :raises Damaged: not there, or no number."""
        return typed(self.header, key, int, self.name)

    def verify(self, public: bytes) -> None:
        """Check the signature.

        :raises Damaged: it is not the one of the key with raw public half *public*.
        """
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, _signed(self.kind, self.header_raw))
        except (InvalidSignature, ValueError):
            raise Damaged(f"{self.name}: its signature is not valid") from None

    def open(self, epoch_keys: EpochKeys, repository_id: str, max_bytes: int = bounds.BODY_MAX_BYTES) -> bytes:
        """The body's plain bytes, checked against the header's digest.

        :raises KeyUnavailable: no key for its epoch. :raises Damaged: changed, swapped, or of another repository.
        """
        if typed(self.placement, "repository", str, self.name) != repository_id:
            raise ForeignRepository(f"{self.name}: belongs to another repository")
        epoch = typed(self.placement, "epoch", str, self.name)
        salt = hexbytes(self.placement, "salt", sealing.SALT_BYTES, self.name)
        try:
            epoch_key = epoch_keys(epoch)
        except KeyUnavailable as error:
            raise KeyUnavailable(f"{self.name}: {error.message}") from None
        derived = sealing.derive_seal(epoch_key, salt, _info(repository_id, self.kind, self.header))
        published = hexbytes(self.placement, "commitment", sealing.COMMITMENT_BYTES, self.name)
        aad, sealed = self.raw[: self.sealed_at], self.raw[self.sealed_at :]
        plain_form = sealing.open_seal(derived, published, sealed, aad, self.name)
        body = Decompressor().data(plain_form, self.name, max_bytes)
        if hashlib.sha256(body).hexdigest() != self.text("digest"):
            raise Damaged(f"{self.name}: body does not have the digest of its header")
        return body


def make(
    kind: str,
    header: Mapping[str, Any],
    body: bytes,
    *,
    signer: Signer,
    repository_id: str,
    epoch: str,
    epoch_key: bytes,
    placement: Mapping[str, Any],
) -> bytes:
    """A new sealed and signed object; ``digest`` and ``signer`` are added to the header."""
    full = {**header, "digest": hashlib.sha256(body).hexdigest(), "signer": signer.key_id}
    header_raw = plainjson.encode(full)
    signature = signer.private.sign(_signed(kind, header_raw))
    return place(
        kind, full, header_raw, signature, body,
        repository_id=repository_id, epoch=epoch, epoch_key=epoch_key, placement=placement,
    )  # fmt: skip


def place(
    kind: str,
    header: Mapping[str, Any],
    header_raw: bytes,
    signature: bytes,
    body: bytes,
    *,
    repository_id: str,
    epoch: str,
    epoch_key: bytes,
    placement: Mapping[str, Any],
) -> bytes:
    """The object for one repository: header and signature as they are, the body sealed under its own epoch."""
    salt = os.urandom(sealing.SALT_BYTES)
    derived = sealing.derive_seal(epoch_key, salt, _info(repository_id, kind, header))
    plain_form = Compressor(3).plain_form_long(body)
    here = {
        **placement,
        "repository": repository_id,
        "epoch": epoch,
        "salt": salt.hex(),
        "commitment": derived.commitment.hex(),
    }
    placement_raw = plainjson.encode(here)
    sealed_bytes = len(plain_form) + sealing.TAG_BYTES
    fixed = _FIXED.pack(MAGIC, VERSION, 0, kind.encode("ascii"), len(header_raw), len(placement_raw), sealed_bytes)
    head = fixed + header_raw + signature + placement_raw
    return head + sealing.seal(derived, plain_form, head)


def make_plain(kind: str, header: Mapping[str, Any], signer: Signer, placement: Mapping[str, Any]) -> bytes:
    """A signed object without a sealed body."""
    header_raw = plainjson.encode({**header, "signer": signer.key_id})
    placement_raw = plainjson.encode(dict(placement))
    fixed = _FIXED.pack(MAGIC, VERSION, 0, kind.encode("ascii"), len(header_raw), len(placement_raw), 0)
    return fixed + header_raw + signer.private.sign(_signed(kind, header_raw)) + placement_raw


def parse(raw: bytes, kind: str, name: str) -> Envelope:
    """Take *raw* apart; nothing in it is to be believed before ``verify`` and ``open``.

    :raises FormatTooNew: a newer version. :raises Damaged: not such an object, or not all of it.
    """
    if len(raw) < _FIXED.size:
        raise Damaged(f"{name}: {len(raw)} bytes, shorter than its head")
    magic, version, zero, found, header_bytes, placement_bytes, sealed_bytes = _FIXED.unpack_from(raw)
    if magic != MAGIC:
        raise Damaged(f"{name}: not an object of this format")
    if version > VERSION:
        raise FormatTooNew(f"{name}: format version {version}, this program knows {VERSION}")
    if zero or version != VERSION:
        raise Damaged(f"{name}: impossible head")
    if found != kind.encode("ascii"):
        raise Damaged(f"{name}: holds a {found!r} object instead of {kind}")
    total = _FIXED.size + header_bytes + _SIGNATURE_BYTES + placement_bytes + sealed_bytes
    if header_bytes > bounds.HEADER_MAX_BYTES or placement_bytes > bounds.HEADER_MAX_BYTES or len(raw) != total:
        raise Damaged(f"{name}: {len(raw)} bytes where its head says {total}")
    at = _FIXED.size + header_bytes
    header_raw, signature = raw[_FIXED.size : at], raw[at : at + _SIGNATURE_BYTES]
    sealed_at = total - sealed_bytes
    placement = plainjson.decode(raw[at + _SIGNATURE_BYTES : sealed_at], name)
    return Envelope(kind, plainjson.decode(header_raw, name), placement, raw, name, sealed_at, header_raw, signature)


def typed(values: Mapping[str, Any], key: str, kind: type[T], name: str) -> T:
    """``values[key]`` if it is a *kind*. :raises Damaged: it is not."""
    value = values.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Damaged(f"{name}: {key!r} is missing or not a {kind.__name__}")
    return value


def hexbytes(values: Mapping[str, Any], key: str, length: int, name: str) -> bytes:
    """``values[key]`` read as *length* bytes in lower-case hex. :raises Damaged: it is not that."""
    text = typed(values, key, str, name)
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != length or raw.hex() != text:
        raise Damaged(f"{name}: {key!r} is not {length} bytes in hex")
    return raw


def _signed(kind: str, header_raw: bytes) -> bytes:
    return sealing.purpose("mingus/1 signature", VERSION.to_bytes(2, "little"), kind) + header_raw


def _info(repository_id: str, kind: str, header: Mapping[str, Any]) -> bytes:
    source, ulid = str(header.get("source", "")), str(header.get("ulid", ""))
    return sealing.purpose("mingus/1", "seal", repository_id, kind, source, ulid)


def mismatch(name: str) -> NoReturn:
    """:raises Damaged: always: the object says it is another one than its name."""
    raise Damaged(f"{name}: holds the header of another object (swapped?)")
