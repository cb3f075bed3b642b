"""Putting a further generation of a repository's configuration, also when somebody else does so at the same time.

Two changes may be put as the same generation; only one of them is current then, and what was sealed under the other
one's epoch could not be opened by anybody. So whoever puts a generation looks afterwards: if the current one lacks
something that a rival of its generation or later has, it puts the union as the next, until nothing is lacking.
Nothing is ever taken away here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from mingus_engine import ulids
from mingus_engine.codec import sealing
from mingus_engine.errors import CommitRefused, Damaged
from mingus_engine.repository import config as configs
from mingus_engine.repository import envelope, keyring, names
from mingus_engine.repository.config import Config
from mingus_engine.repository.keyring import Keyring
from mingus_engine.repository.objects import get_object, put_object
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials, Slot

#: From a configuration to the wanted one; applied to its own result it changes nothing.
Change = Callable[[Config], Config]
# Rivals that keep on changing the same repository are a fault, not a coincidence.
_ROUNDS = 10


def advance(repository: Repository, credentials: Credentials, change: Change, new_keys: Mapping[str, bytes]) -> Config:
    """Make *change* part of the current configuration; gives the configuration that is current then.

    :param new_keys: epoch ULID → key, of epochs that the change adds.
    :raises CommitRefused: somebody else changes it all the time. :raises Damaged: what was read back is not what was
        put.
    """
    store, pinned = repository.store, repository.config.fingerprint
    first = repository.config.generation + 1
    for _ in range(_ROUNDS):
        current, stored = configs.current(store, pinned)
        rivals = [c for c in _since(repository, first, credentials) if c.ulid != current.ulid]
        wanted = change(_union(current, rivals))
        if _content(wanted) == _content(current):
            return current
        keys = Keyring(store, replace(wanted, epoch=current.epoch), credentials)
        _seal_all(repository, wanted, [current, *rivals], keys, new_keys)
        following = replace(wanted, generation=current.generation + 1, previous=stored.name, ulid=ulids.new())
        raw = following.encode(keys.signer, keys.epoch_key(current.epoch))
        put_object(store, raw, partial(_name, following.ulid), read_back=True)
    raise CommitRefused(f"the configuration of {store.location} is being changed by somebody else")


def free_name(wanted: str, taken: set[str]) -> str:
    """*wanted*, or *wanted* with the first number that is free."""
    return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def with_slot(config: Config, slot: Slot) -> Config:
    """*config* with *slot*, under another name if its own is taken."""
    if slot.public in {s.public for s in config.slots}:
        return config
    name = free_name(slot.name, {s.name for s in config.slots})
    return replace(config, slots=(*config.slots, replace(slot, name=name)))


def new_epoch(since: str) -> tuple[Change, str, bytes]:
    """The change that makes a fresh epoch current; its ULID and key. *since*: the epoch that it replaces."""
    epoch, key = ulids.new(), sealing.random_key()
    commitment = sealing.commitment(key)

    def change(known: Config) -> Config:
        # Another rotation that came first made a fresh epoch, too: then this one is merely listed.
        chosen = epoch if known.epoch == since else known.epoch
        return replace(known, epochs={**known.epochs, epoch: commitment}, epoch=chosen)

    return change, epoch, key


def _name(ulid: str, sha256: str) -> str:
    return str(names.ConfigName(ulid, sha256))


def _union(current: Config, rivals: list[Config]) -> Config:
    known = current
    for rival in rivals:
        known = replace(known, epochs={**rival.epochs, **known.epochs})
        for slot in rival.slots:
            known = with_slot(known, slot)
    return known


def _content(config: Config) -> tuple[object, ...]:
    return config.epoch, dict(config.epochs), {s.public for s in config.slots}


def _since(repository: Repository, generation: int, credentials: Credentials) -> Iterator[Config]:
    """Whole configurations of *generation* or later, their MACs checked."""
    store = repository.store
    for info in store.list("config/"):
        name = names.config(info.name)
        if name is None:
            continue
        config, e = Config.decode(get_object(store, info.name), info.name)
        if config.generation < generation or config.fingerprint != repository.config.fingerprint:
            continue
        before, _ = Config.decode(get_object(store, config.previous), config.previous)
        config.check_mac(e, Keyring(store, before, credentials).epoch_key(before.epoch))
        yield config


def _seal_all(
    repository: Repository, wanted: Config, known: Sequence[Config], keys: Keyring, new_keys: Mapping[str, bytes]
) -> None:
    """Every epoch and the signing key sealed to every slot, and read back (DESIGN §4 "Keys").

    What one of the *known* configurations lists was sealed before that was put. An object alone says nothing: one of
    the same name may be for a slot of a rival.
    """
    sets = dict.fromkeys(wanted.epochs, "epoch") | {wanted.signing_set: "signing"}
    for key_set, what in sets.items():
        for slot in wanted.slots:
            if any(slot in c.slots and key_set in {*c.epochs, c.signing_set} for c in known):
                continue
            if what == "signing":
                key = keys.signer.private.private_bytes_raw()
            else:
                key = new_keys.get(key_set) or keys.epoch_key(key_set)
            before = _sealed(repository, key_set, slot)
            keyring.put_key(repository.store, repository.id, key_set, what=what, key=key, to=slot, signer=keys.signer)
            for name in _sealed(repository, key_set, slot) - before or {""}:
                _read_back(repository, wanted, name, (key_set, slot.name, what))
    for epoch, key in new_keys.items():
        if keys.epoch_key(epoch) != key:
            raise Damaged(f"keys/{epoch}/{keys.slot.name}: does not open to what was sealed")


def _sealed(repository: Repository, key_set: str, slot: Slot) -> set[str]:
    return {info.name for info in repository.store.list(f"keys/{key_set}/{slot.name}.")}


def _read_back(repository: Repository, config: Config, name: str, expected: tuple[str, str, str]) -> None:
    """Whole and signed; only the slot's owner could open it."""
    if not name:
        raise Damaged(f"keys/{expected[0]}/{expected[1]}: is not listed after it was put")
    e = envelope.parse(get_object(repository.store, name), envelope.EPOCH_KEY, name)
    e.verify(config.signing_public)
    if (e.text("ulid"), e.text("slot"), e.text("what")) != expected:
        raise Damaged(f"{name}: what was read back is not what was put")
