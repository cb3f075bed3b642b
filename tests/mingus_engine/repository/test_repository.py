import dataclasses
import hashlib
from pathlib import Path

import pytest

from mingus_engine import ulids
from mingus_engine.codec import plainjson, sealing
from mingus_engine.errors import (
    Damaged,
    ForeignRepository,
    FormatTooNew,
    KeyUnavailable,
    MingusError,
    NotARepository,
    RepositoryExists,
    StoreUnreachable,
)
from mingus_engine.repository import config as configs
from mingus_engine.repository import keyring, names
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.config import Config
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret
from mingus_engine.store.faulty import Fault, FaultyStore
from mingus_engine.store.local import LocalStore
from tests.support import repositories as support
from tests.support.memory_store import MemoryStore
from tests.support.repositories import MadeRepository

KEY = support.credentials()


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


def opened(store: MemoryStore, keys: Credentials | None = KEY, pinned: str = "") -> Repository:
    return repositories.open_repository("r", store, keys, pinned=pinned)


def fresh() -> tuple[MemoryStore, Repository, str]:
    store = MemoryStore()
    repository, escrow = repositories.init("r", store, KEY)
    return store, repository, escrow.reveal()


@pytest.mark.parametrize(
    "there", ["config/x", "keys/x", "runs/x", "packs/x", "logs/x", "snapshots/x", "records/x", "somebodys-file", "a/b"]
)
def test_init_refuses_a_place_that_holds_anything(there: str) -> None:
    store = MemoryStore({there: b"x"})
    with pytest.raises(RepositoryExists, match=there):
        repositories.init("r", store, KEY)
    assert store.objects == {there: b"x"}


def test_init_refuses_a_repository_and_leaves_it_as_it_is(made: MadeRepository) -> None:
    before = {name: made.store.get(name) for name in made.names()}
    with pytest.raises(RepositoryExists):
        repositories.init("r", made.store, KEY)
    assert {name: made.store.get(name) for name in made.names()} == before


def test_init_does_not_mind_what_a_killed_probe_left() -> None:
    repositories.init("r", MemoryStore({"probe/x": b""}), KEY)


def test_init_without_any_key_makes_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(KeyUnavailable):
        repositories.init("r", store, Credentials())
    assert store.objects == {}


def test_the_configuration_is_put_last_after_every_slot_was_read_back() -> None:
    store = FaultyStore(MemoryStore())
    repositories.init("r", store, Credentials(KEY.environment, Secret("a long passphrase")))
    calls = [(c.operation, c.name.split("/")[0], c.name) for c in store.calls]
    put_config = next(i for i, c in enumerate(calls) if c[:2] == ("put", "config"))
    keys_put = {c[2] for c in calls[:put_config] if c[:2] == ("put", "keys")}
    keys_read = {c[2] for c in calls[:put_config] if c[:2] == ("get", "keys")}
    assert keys_put == keys_read
    assert len(keys_put) == 6
    assert calls[put_config + 1][:2] == ("get", "config")


@pytest.mark.parametrize("slot", ["environment", "passphrase", "escrow"])
def test_a_slot_that_does_not_open_ends_init_before_it_is_a_repository(slot: str) -> None:
    store = MemoryStore()
    faulty = FaultyStore(store, [Fault("put", "flip", name=f"keys/*/{slot}.*")])
    with pytest.raises(Damaged, match="keys/"):
        repositories.init("r", faulty, Credentials(KEY.environment, Secret("a long passphrase")))
    assert not configs.is_initialised(store)


def test_a_place_without_a_configuration_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotARepository):
        opened(MemoryStore())
    with pytest.raises(MingusError) as caught:
        repositories.open_repository("r", LocalStore(tmp_path / "none", create=False), KEY)
    assert str(tmp_path / "none") in caught.value.message


def test_a_listing_that_fails_is_not_read_as_no_repository(made: MadeRepository) -> None:
    with pytest.raises(StoreUnreachable):
        made.reopened(store=FaultyStore(made.store, [Fault("list", "raise", times=None)]))


def test_every_slot_opens_it_and_no_other_secret_does() -> None:
    store, repository, escrow = fresh()
    assert opened(store).keys.slot.name == "environment"
    assert opened(store, Credentials(escrow=Secret(escrow))).keys.slot.name == "escrow"
    both = opened(store, Credentials(environment=Secret(support.OTHER_KEY), escrow=Secret(escrow)))
    assert both.keys.slot.name == "escrow"
    for wrong in (
        Credentials(),
        Credentials(environment=Secret(support.OTHER_KEY)),
        Credentials(environment=Secret("a wrong passphrase")),
        Credentials(passphrase=Secret(support.TEST_KEY)),
        Credentials(escrow=Secret(fresh()[2])),
    ):
        with pytest.raises(KeyUnavailable, match="memory") as caught:
            opened(store, wrong)
        assert "escrow" in caught.value.message, "it says which slots there are"
        assert support.OTHER_KEY not in str(caught.value)
    assert repository.keys.epoch_key(repository.keys.epoch) == both.keys.epoch_key(repository.keys.epoch)


def test_without_a_key_it_lists_and_opens_nothing(made: MadeRepository) -> None:
    manifest = support.backed_up(made, support.small_source())
    keyless = made.reopened(with_key=False)
    found = keyless.get_manifest(manifest.name)
    assert found.stored_names()
    with pytest.raises(KeyUnavailable):
        keyless.manifest_body(found)


def test_another_installation_than_the_pinned_one_is_refused() -> None:
    store, repository, _ = fresh()
    assert opened(store, pinned=repository.config.fingerprint)
    for keys in (KEY, None):
        with pytest.raises(ForeignRepository, match=repository.config.fingerprint[:16]):
            opened(store, keys, pinned="0" * 64)


def test_a_configuration_planted_by_another_installation_is_refused() -> None:
    store, repository, _ = fresh()
    mallory, _, _ = fresh()
    store.objects |= {n: raw for n, raw in mallory.objects.items() if n.startswith("config/")}
    with pytest.raises(ForeignRepository):
        opened(store, pinned=repository.config.fingerprint)


def next_generation(store: MemoryStore, repository: Repository, **changes: object) -> Config:
    """A configuration after the current one, put as a rotation puts it."""
    current, _ = configs.current(store, "")
    previous = next(n for n in store.objects if n.startswith(f"config/{current.ulid}"))
    new = dataclasses.replace(
        current, generation=current.generation + 1, ulid=ulids.new(), previous=previous, **changes
    )  # type: ignore[arg-type]
    raw = new.encode(repository.keys.signer, repository.keys.epoch_key(current.epoch))
    store.objects[f"config/{new.ulid}.{hashlib.sha256(raw).hexdigest()}"] = raw
    return new


def rotated(store: MemoryStore, repository: Repository) -> str:
    epoch, key = ulids.new(), sealing.random_key()
    for slot in repository.config.slots:
        keyring.put_key(
            store, repository.id, epoch, what="epoch", key=key, to=slot, signer=repository.keys.signer
        )  # fmt: skip
    epochs = {**repository.config.epochs, epoch: sealing.commitment(key)}
    next_generation(store, repository, epoch=epoch, epochs=epochs)
    return epoch


def test_after_a_rotation_old_and_new_objects_open_with_the_old_secrets(tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    old = support.backed_up(made, support.small_source())
    store = MemoryStore.copy_of(made.store)
    epoch = rotated(store, opened(store))
    for keys in (KEY, Credentials(escrow=Secret(made.escrow))):
        repository = opened(store, keys, pinned=made.repository.config.fingerprint)
        assert repository.keys.epoch == epoch
        assert support.contents(repository, old) == support.small_source().digests()
    again = support.MadeRepository(tmp_path, tmp_path / "spool", opened(store), "")
    new = support.backed_up(again, support.small_source(1))
    assert new.envelope.placement["epoch"] == epoch
    assert support.contents(opened(store), new) == support.small_source(1).digests()


def test_an_epoch_that_the_configuration_does_not_list_is_not_used(tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    old = support.backed_up(made, support.small_source())
    store = MemoryStore.copy_of(made.store)
    epoch = rotated(store, opened(store))
    repository = opened(store)
    next_generation(store, repository, epochs={epoch: repository.config.epochs[epoch]})
    with pytest.raises(KeyUnavailable, match="not in the configuration") as caught:
        opened(store).manifest_body(old)
    assert str(old.name) in caught.value.message


def test_a_slot_that_the_configuration_does_not_list_opens_nothing() -> None:
    store, repository, escrow = fresh()
    next_generation(store, repository, slots=repository.config.slots[:1])
    with pytest.raises(KeyUnavailable):
        opened(store, Credentials(escrow=Secret(escrow)))
    assert opened(store)


def test_the_greatest_generation_is_current_whatever_the_clock_said() -> None:
    store, repository, _ = fresh()
    current = repository.config
    older = ulids.new(at=0)
    previous = next(n for n in store.objects if n.startswith("config/"))
    new = dataclasses.replace(current, generation=2, ulid=older, previous=previous, features=())
    raw = new.encode(repository.keys.signer, repository.keys.epoch_key(current.epoch))
    store.objects[f"config/{older}.{hashlib.sha256(raw).hexdigest()}"] = raw
    assert opened(store).config.generation == 2


def test_a_configuration_whose_mac_is_of_another_epoch_is_refused() -> None:
    store, repository, _ = fresh()
    epoch, key = ulids.new(), sealing.random_key()
    for slot in repository.config.slots:
        keyring.put_key(
            store, repository.id, epoch, what="epoch", key=key, to=slot, signer=repository.keys.signer
        )  # fmt: skip
    epochs = {**repository.config.epochs, epoch: sealing.commitment(key)}
    previous = next(n for n in store.objects if n.startswith("config/"))
    new = dataclasses.replace(
        repository.config, generation=2, ulid=ulids.new(), previous=previous, epoch=epoch, epochs=epochs
    )
    raw = new.encode(repository.keys.signer, key)
    store.objects[f"config/{new.ulid}.{hashlib.sha256(raw).hexdigest()}"] = raw
    with pytest.raises(Damaged, match="MAC"):
        opened(store)


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"features": ["something new"]}], ids=["a newer format", "an unknown feature"]
)
def test_what_a_newer_program_wrote_is_too_new(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    store, repository, _ = fresh()
    encode = plainjson.encode
    monkeypatch.setattr(plainjson, "encode", lambda v: encode({**v, **changes} if "generation" in v else v))
    next_generation(store, repository)
    for keys in (KEY, None):
        with pytest.raises(FormatTooNew, match="config/"):
            opened(store, keys)


def test_a_signed_key_that_the_configuration_does_not_commit_to_is_refused() -> None:
    """Everybody can seal to a slot; what counts is the commitment."""
    store, repository, _ = fresh()
    epoch, slot = repository.config.epoch, repository.config.slots[0]
    for name in [n for n in store.objects if n.startswith(f"keys/{epoch}/{slot.name}.")]:
        del store.objects[name]
    other, signer = sealing.random_key(), repository.keys.signer
    keyring.put_key(store, repository.id, epoch, what="epoch", key=other, to=slot, signer=signer)
    with pytest.raises(Damaged, match="commits to"):
        opened(store)


def test_a_configuration_under_another_ulid_is_refused() -> None:
    store, _, _ = fresh()
    name = next(n for n in store.objects if n.startswith("config/"))
    parsed = names.config(name)
    assert parsed is not None
    store.objects[str(parsed._replace(ulid=ulids.new()))] = store.objects[name]
    with pytest.raises(Damaged, match="config/"):
        opened(store)


def test_two_repositories_have_nothing_in_common_but_the_signer() -> None:
    _, one, _ = fresh()
    signer = one.keys.signer
    other, _ = repositories.init("other", MemoryStore(), KEY, signer=signer)
    assert one.config.fingerprint == other.config.fingerprint
    assert one.id != other.id
    assert one.keys.epoch_key(one.keys.epoch) != other.keys.epoch_key(other.keys.epoch)
    assert {s.public for s in one.config.slots}.isdisjoint(s.public for s in other.config.slots)


def test_no_secret_is_in_any_stored_byte(made: MadeRepository) -> None:
    keys = made.repository.keys
    secrets = [
        keys.epoch_key(keys.epoch),
        keys.signer.private.private_bytes_raw(),
        bytes.fromhex(support.TEST_KEY),
    ]
    for name in made.names():
        raw = made.store.get(name)
        assert made.escrow.encode() not in raw
        for secret in secrets:
            assert secret not in raw
            assert secret.hex().encode() not in raw
