"""Key derivation and the seal of small objects.

Every seal derives a key of its own from a long-term key and 32 random salt bytes by HKDF-SHA256 (RFC 5869), so that
the nonce may be fixed, and a commitment of 32 bytes, compared before opening: AES-GCM alone lets one ciphertext
open under two keys. Purposes are length-prefixed lists, so no two different lists give the same bytes.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mingus_engine.errors import Damaged, KeyUnavailable

KEY_BYTES = 32
SALT_BYTES = 32
COMMITMENT_BYTES = 32
TAG_BYTES = 16
_ZERO_NONCE = bytes(12)


def purpose(*parts: str | bytes) -> bytes:
    """*parts* as one unambiguous byte string: each with its length (u16 LE) before it."""
    raw = [p.encode("utf-8") if isinstance(p, str) else p for p in parts]
    return b"".join(len(p).to_bytes(2, "little") + p for p in raw)


def derive(key: bytes, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """*length* bytes of HKDF-SHA256 (RFC 5869) of *key*."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


def random_key() -> bytes:
    """A fresh 32-byte key."""
    return os.urandom(KEY_BYTES)


def commitment(key: bytes) -> bytes:
    """What may be published of a long-term *key*: 32 bytes that only this key gives."""
    return derive(key, b"", purpose("mingus/1", "key commitment"), COMMITMENT_BYTES)


@dataclass(frozen=True, slots=True)
class Seal:
    """The derived key of one sealed object and what is published of it."""

    key: bytes
    commitment: bytes


def derive_seal(long_term_key: bytes, salt: bytes, info: bytes) -> Seal:
    """Key and commitment of the object with this *salt* and purpose *info*."""
    raw = derive(long_term_key, salt, info, KEY_BYTES + COMMITMENT_BYTES)
    return Seal(raw[:KEY_BYTES], raw[KEY_BYTES:])


def seal(derived: Seal, plain: bytes, aad: bytes) -> bytes:
    """AES-256-GCM of *plain*. The nonce is zero: a derived key seals exactly once."""
    return AESGCM(derived.key).encrypt(_ZERO_NONCE, plain, aad)


def open_seal(derived: Seal, published: bytes, sealed: bytes, aad: bytes, what: str) -> bytes:
    """The plain text of *sealed*.

    :raises KeyUnavailable: the key is another one than the object was sealed with.
    :raises Damaged: the key is right, the bytes are not.
    """
    if not hmac.compare_digest(derived.commitment, published):
        raise KeyUnavailable(f"{what}: sealed under another key")
    try:
        return AESGCM(derived.key).decrypt(_ZERO_NONCE, sealed, aad)
    except InvalidTag:
        raise Damaged(f"{what}: sealed bytes or header were changed") from None
