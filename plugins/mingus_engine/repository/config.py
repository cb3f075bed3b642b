"""The configuration of a repository: its id, slots, epochs and the installation key; signed, and MACed under the
previous epoch.

Changing anything puts a new object of the next generation; the greatest valid generation is current. A slot or an
epoch that the current configuration does not list is ignored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from mingus_engine import ulids
from mingus_engine.codec import plainjson, sealing
from mingus_engine.errors import Damaged, ForeignRepository, FormatTooNew, NotARepository
from mingus_engine.repository import envelope, names
from mingus_engine.repository.slots import Slot
from mingus_engine.store.base import Store

FORMAT = 1
#: What a repository may ask of its readers; one it does not know, a program must not touch.
KNOWN_FEATURES: frozenset[str] = frozenset()
_CONFIG_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Config:
    """One generation. ``epochs``: ULID → key commitment; ``epoch`` is the current one; ``signing_set`` names the
    sealed signing key; ``ulid`` is the one of its name.
    """

    repository_id: str
    generation: int
    epoch: str
    epochs: Mapping[str, bytes]
    signing_set: str
    signing_public: bytes
    slots: tuple[Slot, ...]
    ulid: str = field(default_factory=ulids.new)
    previous: str = ""
    features: tuple[str, ...] = ()
    rescue: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the installation's public signing key."""
        return hashlib.sha256(self.signing_public).hexdigest()

    def encode(self, signer: envelope.Signer, mac_key: bytes) -> bytes:
        """The stored object. *mac_key*: the previous epoch's key (of the first generation: its own)."""
        header = {
            "format": FORMAT,
            "ulid": self.ulid,
            "repository": self.repository_id,
            "generation": self.generation,
            "epoch": self.epoch,
            "epochs": {ulid: commitment.hex() for ulid, commitment in self.epochs.items()},
            "signing_set": self.signing_set,
            "signing_public": self.signing_public.hex(),
            "slots": [slot.as_dict() for slot in self.slots],
            "previous": self.previous,
            "features": list(self.features),
            "rescue": dict(self.rescue),
        }
        mac = _mac(mac_key, plainjson.encode({**header, "signer": signer.key_id}))
        return envelope.make_plain(
            envelope.CONFIG, header, signer, {"repository": self.repository_id, "mac": mac.hex()}
        )

    @classmethod
    def decode(cls, raw: bytes, name: str) -> tuple[Config, envelope.Envelope]:
        """Read one object; its signature is verified against the key it carries (the pin is the caller's check).

        :raises FormatTooNew: written by a newer program. :raises Damaged: not well-formed.
        """
        e = envelope.parse(raw, envelope.CONFIG, name)
        if e.number("format") > FORMAT:
            raise FormatTooNew(f"{name}: repository format {e.number('format')}, this program knows {FORMAT}")
        public = envelope.hexbytes(e.header, "signing_public", 32, name)
        e.verify(public)
        epochs = envelope.typed(e.header, "epochs", dict, name)
        config = cls(
            repository_id=e.text("repository"),
            generation=e.number("generation"),
            epoch=e.text("epoch"),
            epochs={ulid: envelope.hexbytes(epochs, ulid, 32, name) for ulid in epochs},
            signing_set=e.text("signing_set"),
            signing_public=public,
            slots=tuple(Slot.from_dict(s, name) for s in envelope.typed(e.header, "slots", list, name)),
            ulid=e.text("ulid"),
            previous=e.text("previous"),
            features=tuple(envelope.typed(e.header, "features", list, name)),
            rescue=envelope.typed(e.header, "rescue", dict, name),
        )
        if config.epoch not in config.epochs:
            raise Damaged(f"{name}: its current epoch is not in its list")
        if unknown := sorted(map(str, set(map(str, config.features)) - KNOWN_FEATURES)):
            raise FormatTooNew(f"{name}: asks for {', '.join(unknown)}, which this program does not know")
        if envelope.typed(e.placement, "repository", str, name) != config.repository_id:
            raise Damaged(f"{name}: its two repository ids differ")
        return config, e

    def check_mac(self, e: envelope.Envelope, mac_key: bytes) -> None:
        """:raises Damaged: the MAC is not of this epoch key."""
        published = envelope.hexbytes(e.placement, "mac", 32, e.name)
        if not hmac.compare_digest(published, _mac(mac_key, e.header_raw)):
            raise Damaged(f"{e.name}: its MAC is not valid under the epoch key")


def is_initialised(store: Store) -> bool:
    """Whether *store* holds a configuration."""
    return any(names.config(info.name) for info in store.list("config/"))


def current(store: Store, pinned: str) -> tuple[Config, envelope.Envelope]:
    """The current configuration.

    :param pinned: fingerprint the signature must have; empty = whatever is there (first use).
    :raises NotARepository: none there. :raises ForeignRepository: signed by another installation.
    :raises Damaged: none is whole.
    """
    found = [name for info in store.list("config/") if (name := names.config(info.name))]
    if not found:
        raise NotARepository(f"{store.location} holds no repository")
    best: tuple[Config, envelope.Envelope] | None = None
    for name in found:
        raw = store.get(str(name), max_bytes=_CONFIG_MAX_BYTES)
        if hashlib.sha256(raw).hexdigest() != name.sha256:
            raise Damaged(f"{name} in {store.location}: bytes do not have the SHA-256 of its name")
        config, e = Config.decode(raw, str(name))
        if pinned and config.fingerprint != pinned:
            raise ForeignRepository(
                f"{store.location}: {name} is signed by installation {config.fingerprint[:16]}…,"
                f" pinned is {pinned[:16]}…"
            )
        if config.ulid != name.ulid:
            envelope.mismatch(str(name))
        if best is None or (config.generation, config.ulid) > (best[0].generation, best[0].ulid):
            best = config, e
    if best is None:
        raise Damaged(f"{store.location}: no usable configuration")
    return best


def _mac(key: bytes, header_raw: bytes) -> bytes:
    return hmac.digest(sealing.derive(key, b"", sealing.purpose("mingus/1", "config mac")), header_raw, "sha256")
