"""A repository that is open: its store, its configuration and, when there is a credential, its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mingus_engine import ulids
from mingus_engine.codec import sealing
from mingus_engine.errors import Damaged, KeyUnavailable, RepositoryExists
from mingus_engine.repository import config as configs
from mingus_engine.repository import envelope, keyring, manifests, names, records, runs, slots
from mingus_engine.repository.objects import get_object, put_object
from mingus_engine.settings import Secret
from mingus_engine.store.base import Store


class Repository:
    """Made by :func:`open_repository` or :func:`init`. Objects are judged by ``state``, written by ``writer``.

    :param keys: ``None`` = opened without a key: listing and L0/L1 checks work, nothing can be opened.
    """

    def __init__(self, name: str, store: Store, config: configs.Config, keys: keyring.Keyring | None) -> None:
        self.name = name
        self.store = store
        self.config = config
        self._keys = keys

    @property
    def id(self) -> str:
        """The repository's id, part of every seal."""
        return self.config.repository_id

    @property
    def keys(self) -> keyring.Keyring:
        """:raises KeyUnavailable: it was opened without a key."""
        if self._keys is None:
            raise KeyUnavailable(f"repository {self.name} was opened without a key")
        return self._keys

    def seal(self, kind: str, header: Mapping[str, Any], body: bytes, placement: Mapping[str, Any]) -> bytes:
        """A new object, signed and sealed under the current epoch."""
        return envelope.make(
            kind, header, body, signer=self.keys.signer, repository_id=self.id, epoch=self.keys.epoch,
            epoch_key=self.keys.epoch_key(self.keys.epoch), placement=placement,
        )  # fmt: skip

    def reseal(self, e: envelope.Envelope, body: bytes, placement: Mapping[str, Any]) -> bytes:
        """An object of another repository for this one: header and signature as they are."""
        return envelope.place(
            e.kind, e.header, e.header_raw, e.signature, body, repository_id=self.id, epoch=self.keys.epoch,
            epoch_key=self.keys.epoch_key(self.keys.epoch), placement=placement,
        )  # fmt: skip

    def open(self, e: envelope.Envelope) -> bytes:
        """The body of an object of this repository. :raises Damaged: see ``Envelope.open``."""
        return e.open(self.keys.epoch_key, self.id)

    def manifest_body(self, manifest: manifests.Manifest) -> manifests.Body:
        """The sealed part of *manifest*."""
        return manifests.Body.decode(self.open(manifest.envelope), str(manifest.name))

    def put_record(
        self, kind: str, source: str, facts: Mapping[str, Any], body: Mapping[str, Any], *, run: str = ""
    ) -> str:
        """Store a record; its stored name."""
        raw = self.seal(
            envelope.RECORD, records.header(kind, source, facts, run=run), records.body(body), {"put_by": ""}
        )
        header = envelope.parse(raw, envelope.RECORD, "new record").header
        return put_object(
            self.store, raw, lambda sha: str(names.RecordName(source, str(header["ulid"]), kind, sha)), read_back=True
        )

    def get_record(self, name: names.RecordName) -> records.Record:
        """One record, verified."""
        return records.decode(get_object(self.store, str(name)), name, self.config.signing_public)

    def get_manifest(self, name: names.SnapshotName) -> manifests.Manifest:
        """One manifest, verified."""
        return manifests.decode(get_object(self.store, str(name)), name, self.config.signing_public)

    def get_run(self, name: names.RunName) -> envelope.Envelope:
        """The start or end of a run, verified."""
        return runs.decode(get_object(self.store, str(name)), name, self.config.signing_public)

    def run_keys(self, name: names.RunName) -> runs.RunKeys:
        """The keys that a run's ``.start`` seals."""
        return runs.RunKeys.decode(self.open(self.get_run(name)), str(name))

    def log_key(self, source: str, run: str) -> bytes:
        """The run key of a log writer. :raises KeyUnavailable: there is no whole log key of that run."""
        for info in self.store.list(f"logs/{source}/keys/{run}."):
            if (name := names.log_key(info.name)) is not None:
                e = envelope.parse(get_object(self.store, str(name)), envelope.LOG_KEY, str(name))
                e.verify(self.config.signing_public)
                if (e.text("source"), e.text("ulid")) != (source, run):
                    envelope.mismatch(str(name))
                return runs.RunKeys.decode(self.open(e), str(name)).run_key
        raise KeyUnavailable(f"no log key of run {run} of source {source} in {self.store.location}")

    def put_log_key(self, source: str, run: str, keys: runs.RunKeys) -> str:
        """Store the key of a log writer; always read back in full."""
        raw = self.seal(envelope.LOG_KEY, {"source": source, "ulid": run}, keys.encode(), {"put_by": run})
        return put_object(self.store, raw, lambda sha: str(names.LogKeyName(source, run, sha)), read_back=True)

    def sources(self) -> list[str]:
        """Ids of the sources that have anything here."""
        found = {run.source for info in self.store.list("runs/") if (run := names.run(info.name))}
        # A cleaner removes old runs, never the need to find what they wrote.
        found |= {s.source for info in self.store.list("snapshots/") if (s := names.snapshot(info.name))}
        return sorted(found)

    def list_snapshots(self, source: str) -> Iterator[names.SnapshotName]:
        """Names of the manifests of *source*."""
        for info in self.store.list(f"snapshots/{source}/"):
            if (name := names.snapshot(info.name)) is not None:
                yield name

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def open_repository(name: str, store: Store, credentials: slots.Credentials | None, *, pinned: str = "") -> Repository:
    """Open the repository in *store*.

    :param credentials: ``None`` = without a key. :param pinned: fingerprint of the installation, empty = first use.
    :raises NotARepository: :raises ForeignRepository: :raises KeyUnavailable: :raises Damaged: :raises FormatTooNew:
    """
    config, e = configs.current(store, pinned)
    if credentials is None:
        return Repository(name, store, config, None)
    keys = keyring.Keyring(store, config, credentials)
    mac_epoch = config.epoch if not config.previous else _previous_epoch(store, config)
    config.check_mac(e, keys.epoch_key(mac_epoch))
    return Repository(name, store, config, keys)


def init(
    name: str,
    store: Store,
    credentials: slots.Credentials,
    *,
    signer: envelope.Signer | None = None,
    features: Sequence[str] = (),
    rescue: Mapping[str, bytes] | None = None,
) -> tuple[Repository, Secret]:
    """Make a repository in an empty store; also the escrow key, which is stored nowhere.

    :param signer: of the installation, where another repository has it; ``None`` makes one.
    :param rescue: file name → content of what reads the repository without the product; the configuration lists them.
    :raises RepositoryExists: the store holds something. :raises SettingsError: no usable secret.
    """
    for info in store.list(""):
        if not info.name.startswith("probe/"):  # what a killed probe left
            raise RepositoryExists(f"{store.location} is not empty: it holds {info.name}")
    signer = signer or envelope.Signer(Ed25519PrivateKey.generate())
    repository_id, epoch, signing_set = ulids.new(), ulids.new(), ulids.new()
    made: list[slots.Slot] = []
    for kind, secret in ((slots.ENVIRONMENT, credentials.environment), (slots.PASSPHRASE, credentials.passphrase)):
        if secret is not None:
            made.append(slots.new_slot(kind, secret, repository_id)[0])
    if not made:
        raise KeyUnavailable(
            f"no key to make {name} with", hint="set BACKUP_ENCRYPTION_KEY, e.g. openssl rand -base64 32"
        )
    escrow_slot, escrow = slots.new_slot(slots.ESCROW, None, repository_id)
    epoch_key = sealing.random_key()
    for slot in (*made, escrow_slot):
        keyring.put_key(store, repository_id, epoch, what="epoch", key=epoch_key, to=slot, signer=signer)
        signing_key = signer.private.private_bytes_raw()
        keyring.put_key(store, repository_id, signing_set, what="signing", key=signing_key, to=slot, signer=signer)
    config = configs.Config(
        repository_id=repository_id, generation=1, epoch=epoch, epochs={epoch: sealing.commitment(epoch_key)},
        signing_set=signing_set, signing_public=signer.public, slots=(*made, escrow_slot),
        features=tuple(features), rescue=_put_rescue(store, rescue or {}),
    )  # fmt: skip
    # An epoch becomes current by a configuration written after all its slots were read back (DESIGN §4).
    for check in (
        slots.Credentials(environment=credentials.environment),
        slots.Credentials(passphrase=credentials.passphrase),
        slots.Credentials(escrow=escrow),
    ):
        if check == slots.Credentials():
            continue
        keys = keyring.Keyring(store, config, check)
        if keys.epoch_key(epoch) != epoch_key or keys.signer.public != signer.public or escrow is None:
            raise Damaged(f"{store.location}: slot {keys.slot.name} does not open what was sealed to it")
    raw = config.encode(signer, epoch_key)
    put_object(store, raw, lambda sha: str(names.ConfigName(config.ulid, sha)), read_back=True)
    return open_repository(name, store, credentials, pinned=config.fingerprint), escrow or Secret("")


def _put_rescue(store: Store, files: Mapping[str, bytes]) -> dict[str, str]:
    """Stored name → SHA-256."""
    listed = {}
    for file, raw in files.items():
        stem, _, suffix = file.rpartition(".")
        sha256 = hashlib.sha256(raw).hexdigest()
        stored = put_object(store, raw, str(names.RescueName(stem, sha256, suffix)), read_back=True)
        listed[stored] = sha256
    return listed


def utc_now() -> datetime:
    """The writer's clock."""
    return datetime.now(UTC)


def _previous_epoch(store: Store, config: configs.Config) -> str:
    name = names.config(config.previous)
    if name is None:
        raise Damaged(f"{store.location}: the configuration names no previous one")
    return configs.Config.decode(get_object(store, str(name)), str(name))[0].epoch
