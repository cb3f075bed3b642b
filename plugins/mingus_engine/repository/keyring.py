"""Opening a repository's keys: a credential opens a slot, the slot opens epoch keys and the signing key."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mingus_engine.codec import sealing
from mingus_engine.errors import Damaged, KeyUnavailable, MingusError
from mingus_engine.repository import envelope, names, slots
from mingus_engine.repository.config import Config
from mingus_engine.repository.objects import get_object, put_object
from mingus_engine.store.base import Store

_KEY_OBJECT_MAX_BYTES = 1 << 16


class Keyring:
    """The keys of one repository, opened when they are first needed and kept in memory only.

    :raises KeyUnavailable: (constructor) no slot opens with *credentials*; the message says what was tried.
    """

    def __init__(self, store: Store, config: Config, credentials: slots.Credentials) -> None:
        self._store = store
        self._config = config
        self.slot, self._private = _open_any(config, credentials, store.location)
        self._epochs: dict[str, bytes] = {}
        self._signer: envelope.Signer | None = None

    @property
    def epoch(self) -> str:
        """ULID of the current epoch."""
        return self._config.epoch

    def epoch_key(self, epoch: str) -> bytes:
        """The key of *epoch*.

        :raises KeyUnavailable: the configuration does not list it, or no object of it is for this slot.
        """
        if epoch not in self._epochs:
            if epoch not in self._config.epochs:
                raise KeyUnavailable(f"epoch {epoch} is not in the configuration of {self._store.location}")
            key = self._unseal(epoch, "epoch")
            if not hmac.compare_digest(sealing.commitment(key), self._config.epochs[epoch]):
                raise Damaged(f"keys/{epoch}/{self.slot.name}: is not the key that the configuration commits to")
            self._epochs[epoch] = key
        return self._epochs[epoch]

    @property
    def signer(self) -> envelope.Signer:
        """The installation's signing key."""
        if self._signer is None:
            private = Ed25519PrivateKey.from_private_bytes(self._unseal(self._config.signing_set, "signing"))
            signer = envelope.Signer(private)
            if signer.public != self._config.signing_public:
                raise Damaged(f"keys/{self._config.signing_set}: is not the signing key of the configuration")
            self._signer = signer
        return self._signer

    def _unseal(self, key_set: str, what: str) -> bytes:
        prefix = f"keys/{key_set}/{self.slot.name}."
        trouble: MingusError = KeyUnavailable(f"no {what} key {prefix}* in {self._store.location}")
        for info in self._store.list(prefix):
            name = names.key(info.name)
            if name is None:
                continue
            try:
                e = envelope.parse(
                    get_object(self._store, str(name), max_bytes=_KEY_OBJECT_MAX_BYTES), envelope.EPOCH_KEY, str(name)
                )
                e.verify(self._config.signing_public)
                # Binding is the seal's (HPKE info); this only says sooner that an object lies in the wrong place.
                here = (self._config.repository_id, self._config.repository_id, key_set, self.slot.name, what)
                if here != (
                    envelope.typed(e.placement, "repository", str, e.name),
                    *map(e.text, ("repository", "ulid", "slot", "what")),
                ):
                    envelope.mismatch(str(name))
                sealed = bytes.fromhex(e.text("sealed"))
                return slots.open_sealed(
                    self._private, sealed, _info(self._config.repository_id, key_set, what, self.slot), str(name)
                )
            except (Damaged, ValueError) as error:
                trouble = error if isinstance(error, Damaged) else Damaged(f"{name}: not well-formed")
        raise trouble


def put_key(
    store: Store, repository_id: str, key_set: str, *, what: str, key: bytes, to: slots.Slot, signer: envelope.Signer
) -> None:
    """Store *key* (``what``: ``epoch`` or ``signing``) sealed to one slot."""
    sealed = slots.seal_to(to, key, _info(repository_id, key_set, what, to))
    header = {"repository": repository_id, "ulid": key_set, "slot": to.name, "what": what, "sealed": sealed.hex()}
    raw = envelope.make_plain(envelope.EPOCH_KEY, header, signer, {"repository": repository_id})
    put_object(store, raw, lambda sha256: str(names.KeyName(key_set, to.name, sha256)))


def _info(repository_id: str, key_set: str, what: str, slot: slots.Slot) -> bytes:
    return sealing.purpose("mingus/1", "key", what, repository_id, key_set, slot.name, slot.public)


def _open_any(config: Config, credentials: slots.Credentials, where: str) -> tuple[slots.Slot, X25519PrivateKey]:
    tried: list[str] = []
    for slot in config.slots:
        secret = credentials.for_kind(slot.kind)
        if secret is None:
            continue
        try:
            return slot, slots.open_slot(slot, secret, config.repository_id, where)
        except KeyUnavailable as error:
            tried.append(f"{slot.name}: {error.message}" if slot.kind == slots.ESCROW else slot.name)
    known = ", ".join(slot.name for slot in config.slots)
    if not tried:
        raise KeyUnavailable(f"no key for {where}; its slots are: {known}")
    raise KeyUnavailable(f"wrong key or passphrase for {where}; tried {', '.join(tried)}, its slots are: {known}")
