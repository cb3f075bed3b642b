"""Sealed files of many blobs: a pack, or a log container.

``header (64) · [extra header] · sealed blobs · sealed directory · directory length (4, LE)``

The header's first 32 bytes (magic, version, kind, blob kind slot, number, run) are the AAD of every blob, with the
blob's own kind in byte 11; the nonce is the blob's position in the file, so a blob cannot be moved within a file,
between files, or be taken for one of another kind. The key is HKDF-SHA256(run key, salt, purpose): one key per file,
so no position repeats under a key.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mingus_engine import bounds, ulids
from mingus_engine.codec import sealing
from mingus_engine.codec.blobs import PREFIX
from mingus_engine.errors import Damaged, FormatTooNew

VERSION = 1
_HEADER = struct.Struct("<8sHBBI16s32s")
HEADER_BYTES = _HEADER.size
AAD_BYTES = 32
_KIND_AT = 11
LENGTH = struct.Struct("<I")
OVERHEAD_BYTES = PREFIX.size + sealing.TAG_BYTES
#: The longest sealed blob a reader accepts.
SEALED_MAX_BYTES = bounds.BLOB_PLAIN_MAX_BYTES + OVERHEAD_BYTES

PACK_MAGIC = b"MINGUSPK"
LOG_MAGIC = b"MINGUSLG"


class ContainerKind(enum.IntEnum):
    """What a file of blobs is for."""

    DATA = 1
    TREE = 2
    WAL = 16
    HISTORY = 17


class BlobKind(enum.IntEnum):
    """What a blob is; part of its AAD."""

    DATA = 1
    SHARD = 2
    EXTENTS = 3
    HASHES = 4
    DIRECTORY = 255


@dataclass(frozen=True, slots=True)
class Header:
    """The plain head of a container. ``number``: pack number in its run (0 for logs); ``salt``: 32 bytes."""

    magic: bytes
    kind: ContainerKind
    number: int
    run: str
    salt: bytes

    def encode(self) -> bytes:
        """The 64 bytes of the header."""
        return _HEADER.pack(self.magic, VERSION, self.kind, 0, self.number, ulids.to_bytes(self.run), self.salt)

    @classmethod
    def decode(cls, raw: bytes, magic: bytes, what: str) -> Header:
        """Read the first 64 bytes of a container.

        :raises FormatTooNew: a newer version. :raises Damaged: not such a container.
        """
        if len(raw) < HEADER_BYTES:
            raise Damaged(f"{what}: shorter than its header")
        found, version, kind, zero, number, run, salt = _HEADER.unpack_from(raw)
        if found != magic:
            raise Damaged(f"{what}: does not start with {magic.decode('ascii')}")
        if version > VERSION:
            raise FormatTooNew(f"{what}: format version {version}, this program knows {VERSION}")
        if version != VERSION or zero or kind not in ContainerKind.__members__.values():
            raise Damaged(f"{what}: impossible header (version {version}, kind {kind})")
        return cls(magic, ContainerKind(kind), number, ulids.from_bytes(run), salt)

    def key(self, run_key: bytes, *info: str | bytes) -> bytes:
        """The file's key."""
        return sealing.derive(run_key, self.salt, sealing.purpose("mingus/1", self.magic, *info))


class Cipher:
    """Seals and opens the blobs of one container. May be shared by threads."""

    def __init__(self, header: Header, key: bytes, extra_aad: bytes = b"") -> None:
        self._aead = AESGCM(key)
        head = bytearray(header.encode()[:AAD_BYTES])
        self._aad = {}
        for kind in BlobKind:
            head[_KIND_AT] = kind
            self._aad[kind] = bytes(head) + extra_aad

    def seal(self, kind: BlobKind, position: int, plain_form: bytes) -> bytes:
        """The sealed blob that will stand at byte *position* of the container."""
        return self._aead.encrypt(position.to_bytes(12, "little"), plain_form, self._aad[kind])

    def open(self, kind: BlobKind, position: int, sealed: bytes | memoryview, what: str) -> bytes:
        """The plain form of the blob at *position*.

        :raises Damaged: the bytes are not the ones sealed for this place and kind, or the key is not the file's.
        """
        try:
            return self._aead.decrypt(position.to_bytes(12, "little"), sealed, self._aad[kind])
        except InvalidTag:
            raise Damaged(f"{what}: blob at {position} ({len(sealed)} bytes) was changed") from None


def directory_span(size: int, tail: bytes, what: str, head_bytes: int = HEADER_BYTES) -> tuple[int, int]:
    """Position and sealed length of the directory of a container of *size* bytes, from its last 4 bytes.

    :raises Damaged: the length cannot be.
    """
    (length,) = LENGTH.unpack(tail[-LENGTH.size :])
    position = size - LENGTH.size - length
    if length < OVERHEAD_BYTES or length > SEALED_MAX_BYTES or position < head_bytes:
        raise Damaged(f"{what}: directory length {length} cannot be in {size} bytes")
    return position, length
