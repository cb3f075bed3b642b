"""``keys``: who can open a repository, and changing that.

Rotating makes a fresh epoch key, seals it to every slot and makes it current: from then on what one key opens is
limited. What older epochs sealed stays readable, nothing is sealed again (that is `rekey`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mingus_engine import ulids
from mingus_engine.errors import KeyUnavailable, MingusError
from mingus_engine.jobs import generations, places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.repository import slots
from mingus_engine.repository.config import Config
from mingus_engine.repository.keyring import Keyring
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret, Settings


@dataclass(frozen=True)
class SlotInfo:
    """One slot. ``opens``: ``None`` = no secret for it is at hand (or it was not asked); ``trouble``: why not."""

    name: str
    kind: str
    derivation: str
    opens: bool | None = None
    trouble: str = ""


@dataclass(frozen=True)
class EpochInfo:
    """One epoch; ``made_at`` by its maker's clock."""

    ulid: str
    made_at: datetime
    current: bool


@dataclass(frozen=True, kw_only=True)
class KeysInfo:
    """What the configuration of a repository says of its keys; none of it is secret."""

    repository: str
    repository_id: str
    location: str
    generation: int
    fingerprint: str
    pinned: bool
    slots: tuple[SlotInfo, ...]
    epochs: tuple[EpochInfo, ...]


@dataclass(frozen=True, kw_only=True)
class KeysReport(Report):
    """What was changed: the epoch or slot that was added, and what is current now."""

    repository: str
    generation: int
    epoch: str
    added: str
    slots: list[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {k: v for k, v in self.__dict__.items() if k != "source"}


def list_keys(settings: Settings, repository: str, *, context: JobContext) -> KeysInfo:
    """Slots and epochs of *repository*. Needs no key."""
    with places.opened(settings, repository, context, with_key=False) as place:
        return _info(settings, place, tuple(_slot(s) for s in place.config.slots))


def check_keys(settings: Settings, repository: str, *, context: JobContext) -> KeysInfo:
    """Open every slot for which a secret is at hand, and every key through it.

    :raises KeyUnavailable: there is a secret for no slot. A slot that does not open is in the result.
    """
    with places.opened(settings, repository, context, with_key=False) as place:
        credentials = Credentials.of(settings.repository(repository).keys)
        checked = []
        for slot in place.config.slots:
            context.progress("check keys", 0, 0, slot.name)
            context.checkpoint()
            checked.append(_opened(place, slot, credentials))
        if all(s.opens is None for s in checked):
            known = ", ".join(s.name for s in checked)
            raise KeyUnavailable(f"no key for {place.store.location}; its slots are: {known}")
        info = _info(settings, place, tuple(checked))
    if any(s.opens for s in checked):
        with places.opened(settings, repository, context):  # the MAC of the configuration, too
            return info
    return info


def add_passphrase(
    settings: Settings, repository: str, passphrase: Secret, *, name: str = "", context: JobContext
) -> KeysReport:
    """A further slot, opened by *passphrase*; every epoch key is sealed to it.

    :param name: of the slot; default: ``passphrase``, with a number if there is one already.
    :raises SettingsError: the passphrase is too short. :raises KeyUnavailable: no other slot opens.
    """
    clock = Stopwatch()
    with places.opened(settings, repository, context) as place:
        slot, _ = slots.new_slot(slots.PASSPHRASE, passphrase, place.id, name)
        credentials = Credentials.of(settings.repository(repository).keys)
        config = generations.advance(place, credentials, lambda known: generations.with_slot(known, slot), {})
        added = next(s.name for s in config.slots if s.public == slot.public)
        return _report("keys add-passphrase", clock, place, config, added)


def rotate(settings: Settings, repository: str, *, context: JobContext) -> KeysReport:
    """A fresh epoch key for *repository*, current from now on; older epochs stay readable.

    :raises KeyUnavailable: no slot opens. :raises CommitRefused: somebody else changes the keys all the time.
    """
    clock = Stopwatch()
    with places.opened(settings, repository, context) as place:
        change, epoch, key = generations.new_epoch(place.config.epoch)
        credentials = Credentials.of(settings.repository(repository).keys)
        config = generations.advance(place, credentials, change, {epoch: key})
        return _report("keys rotate", clock, place, config, epoch)


def _opened(place: Repository, slot: slots.Slot, credentials: Credentials) -> SlotInfo:
    if credentials.for_kind(slot.kind) is None:
        return _slot(slot)
    try:
        keys = Keyring(place.store, replace(place.config, slots=(slot,)), credentials)
        for epoch in place.config.epochs:
            keys.epoch_key(epoch)
        opens = keys.signer.public == place.config.signing_public
    except MingusError as error:
        if error.transient:
            raise
        return replace(_slot(slot), opens=False, trouble=error.message)
    return replace(_slot(slot), opens=opens)


def _slot(slot: slots.Slot) -> SlotInfo:
    derivation = str(slot.wrap.get("kdf", "")) or "kept off-line"
    if derivation == "argon2id":
        derivation = f"argon2id, {slot.wrap.get('memory_kib')} KiB, {slot.wrap.get('iterations')} passes"
    return SlotInfo(slot.name, slot.kind, derivation)


def _info(settings: Settings, place: Repository, found: tuple[SlotInfo, ...]) -> KeysInfo:
    config = place.config
    return KeysInfo(
        repository=place.name,
        repository_id=config.repository_id,
        location=place.store.location,
        generation=config.generation,
        fingerprint=config.fingerprint,
        pinned=places.pinned_fingerprint(settings) == config.fingerprint,
        slots=found,
        epochs=tuple(EpochInfo(e, ulids.made_at(e), e == config.epoch) for e in sorted(config.epochs)),
    )


def _report(job: str, clock: Stopwatch, place: Repository, config: Config, added: str) -> KeysReport:
    return KeysReport(
        job=job,
        source="",
        duration_s=clock.seconds,
        repository=place.name,
        generation=config.generation,
        epoch=config.epoch,
        added=added,
        slots=[s.name for s in config.slots],
    )
