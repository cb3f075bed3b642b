"""Slots: ways to open a repository. A slot is an X25519 key pair; its public half is plain, its private half is
wrapped.

Kinds: ``environment`` (``BACKUP_ENCRYPTION_KEY``: 32 bytes as hex or base64, or any text as a passphrase),
``passphrase`` (Argon2id, RFC 9106) and ``escrow`` (the private half is shown once at ``init`` and kept off-line).
Epoch keys are sealed to the public halves by HPKE (RFC 9180, base mode, X25519, HKDF-SHA256, AES-256-GCM), so a
rotation needs no secret of any slot.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mingus_engine.codec import sealing
from mingus_engine.errors import Damaged, KeyUnavailable, SettingsError
from mingus_engine.repository.envelope import hexbytes, typed
from mingus_engine.settings import KeySettings, Secret, read_secret

ENVIRONMENT = "environment"
PASSPHRASE = "passphrase"  # noqa: S105 - the name of a slot kind
ESCROW = "escrow"
_ESCROW_PREFIX = "MINGUS-ESCROW-1"

# RFC 9106 asks for 64 MiB where memory allows; 32 MiB and four passes cost an attacker as much time and keep
# the engine within its memory bound.
_ARGON2 = {"memory_kib": 32 * 1024, "iterations": 4, "lanes": 1}
# A hostile configuration must not make a reader allocate or compute without end.
_ARGON2_MAX = {"memory_kib": 1024 * 1024, "iterations": 64, "lanes": 64}

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Credentials:
    """The secrets at hand for opening a repository; each may be missing."""

    environment: Secret | None = None
    passphrase: Secret | None = None
    escrow: Secret | None = None

    @classmethod
    def of(cls, keys: KeySettings, environ: Mapping[str, str] | None = None) -> Credentials:
        """What the settings name.

        :raises SettingsError: a named file cannot be read.
        """
        return cls(
            environment=read_secret(keys.environment, environ=environ, what="key"),
            passphrase=read_secret(keys.passphrase_env, keys.passphrase_file, environ=environ, what="passphrase"),
            escrow=read_secret("MINGUS_ESCROW_KEY", environ=environ, what="escrow key"),
        )

    def for_kind(self, kind: str) -> Secret | None:
        """The secret that opens slots of *kind*."""
        return {ENVIRONMENT: self.environment, PASSPHRASE: self.passphrase, ESCROW: self.escrow}.get(kind)


@dataclass(frozen=True)
class Slot:
    """One slot as the configuration lists it. ``wrap`` is empty for an escrow slot."""

    name: str
    kind: str
    public: bytes
    wrap: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the configuration."""
        return {"name": self.name, "kind": self.kind, "public": self.public.hex(), "wrap": dict(self.wrap)}

    @classmethod
    def from_dict(cls, raw: Any, what: str) -> Slot:
        """Read one slot of a configuration. :raises Damaged: not well-formed."""
        if not isinstance(raw, dict):
            raise Damaged(f"{what}: a slot is not a mapping")
        wrap = typed(raw, "wrap", dict, what)
        return cls(
            typed(raw, "name", str, what), typed(raw, "kind", str, what), hexbytes(raw, "public", 32, what), wrap
        )


def new_slot(kind: str, secret: Secret | None, repository_id: str, name: str = "") -> tuple[Slot, Secret | None]:
    """A fresh slot of *kind*; with ``escrow`` also the text to be shown once.

    :raises SettingsError: the kind needs a secret and there is none, or the passphrase is too short.
    """
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    if kind == ESCROW:
        return Slot(name or kind, kind, public, {}), Secret(_escrow_text(private.private_bytes_raw()))
    if secret is None:
        raise SettingsError(
            f"no secret for a slot of kind {kind}", hint="set BACKUP_ENCRYPTION_KEY or give a passphrase"
        )
    wrap: dict[str, Any] = {"salt": os.urandom(sealing.SALT_BYTES).hex()}
    wrap |= {"kdf": "hkdf"} if _as_key(kind, secret) else {"kdf": "argon2id", **_ARGON2}
    if wrap["kdf"] == "argon2id" and len(secret.reveal()) < 12:
        raise SettingsError(
            f"the passphrase for slot {name or kind} has fewer than 12 characters",
            hint="make a key by: openssl rand -base64 32",
        )
    seal = _wrap_seal(kind, secret, wrap, repository_id, "slot")
    wrap["sealed"] = sealing.seal(seal, private.private_bytes_raw(), public).hex()
    wrap["commitment"] = seal.commitment.hex()
    return Slot(name or kind, kind, public, wrap), None


def open_slot(slot: Slot, secret: Secret, repository_id: str, what: str) -> X25519PrivateKey:
    """The private half of *slot*.

    :raises KeyUnavailable: the secret is not the slot's. :raises Damaged: the slot was changed.
    """
    if slot.kind == ESCROW:
        private = X25519PrivateKey.from_private_bytes(_escrow_bytes(secret))
    else:
        seal = _wrap_seal(slot.kind, secret, slot.wrap, repository_id, what)
        published = hexbytes(slot.wrap, "commitment", sealing.COMMITMENT_BYTES, what)
        sealed = hexbytes(slot.wrap, "sealed", 32 + sealing.TAG_BYTES, what)
        raw = sealing.open_seal(seal, published, sealed, slot.public, f"{what} slot {slot.name}")
        private = X25519PrivateKey.from_private_bytes(raw)
    if private.public_key().public_bytes_raw() != slot.public:
        raise KeyUnavailable(f"{what}: the key given does not belong to slot {slot.name}")
    return private


def seal_to(slot: Slot, key: bytes, info: bytes) -> bytes:
    """*key* sealed to the public half of *slot* (HPKE, single shot)."""
    return bytes(_HPKE.encrypt(key, X25519PublicKey.from_public_bytes(slot.public), info))


def open_sealed(private: X25519PrivateKey, sealed: bytes, info: bytes, what: str) -> bytes:
    """Inverse of :func:`seal_to`. :raises Damaged: changed, or sealed to another slot."""
    try:
        return bytes(_HPKE.decrypt(sealed, private, info))
    except (InvalidTag, ValueError):
        raise Damaged(f"{what}: does not open with the key of its slot") from None


def _wrap_seal(kind: str, secret: Secret, wrap: Mapping[str, Any], repository_id: str, what: str) -> sealing.Seal:
    salt = hexbytes(wrap, "salt", sealing.SALT_BYTES, what)
    info = sealing.purpose("mingus/1", "slot", repository_id, kind)
    if wrap.get("kdf") == "hkdf":
        key = _as_key(kind, secret)
        if key is None:
            raise KeyUnavailable(f"{what}: slot {kind} needs a key of 32 bytes, a passphrase was given")
        return sealing.derive_seal(key, salt, info)
    if wrap.get("kdf") != "argon2id":
        raise Damaged(f"{what}: slot {kind} has an unknown key derivation")
    cost = {name: typed(wrap, name, int, what) for name in _ARGON2}
    if any(not 1 <= cost[name] <= _ARGON2_MAX[name] for name in cost):
        raise Damaged(f"{what}: slot {kind} has an impossible Argon2id cost")
    try:
        kdf = Argon2id(
            salt=salt, length=32, iterations=cost["iterations"], lanes=cost["lanes"], memory_cost=cost["memory_kib"]
        )
    except ValueError:  # less than 8 KiB a lane
        raise Damaged(f"{what}: slot {kind} has an impossible Argon2id cost") from None
    stretched = kdf.derive(secret.reveal().encode("utf-8"))
    return sealing.derive_seal(stretched, salt, info)


def _as_key(kind: str, secret: Secret) -> bytes | None:
    """The 32 bytes that *secret* spells in hex or base64, ``None`` when it is a passphrase."""
    if kind != ENVIRONMENT:
        return None
    text = secret.reveal().strip()
    for decode in (bytes.fromhex, _base64):
        try:
            raw = decode(text)
        except ValueError:
            continue
        if len(raw) == sealing.KEY_BYTES:
            return raw
    return None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


def _escrow_text(private: bytes) -> str:
    """*private* as text to be printed and typed: base32 in groups of four, with four check bytes."""
    check = hashlib.sha256(b"mingus escrow" + private).digest()[:4]
    letters = base64.b32encode(private + check).decode("ascii").rstrip("=")
    return "-".join([_ESCROW_PREFIX, *(letters[i : i + 4] for i in range(0, len(letters), 4))])


def _escrow_bytes(secret: Secret) -> bytes:
    letters = "".join(secret.reveal().upper().replace("-", " ").split()).removeprefix(_ESCROW_PREFIX.replace("-", ""))
    try:
        raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    # The last letter has bits that no byte has: the text must be the one that was printed.
    printed = _escrow_text(raw[:32]).removeprefix(_ESCROW_PREFIX).replace("-", "")
    if letters != printed:
        raise KeyUnavailable("the escrow key was mistyped: its check letters do not match")
    return raw[:32]
