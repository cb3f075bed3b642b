"""Changing the keys of a repository: what must hold also when two do it at once, or one dies half-way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mingus_engine.errors import Damaged
from mingus_engine.jobs import generations
from mingus_engine.repository import config as configs
from mingus_engine.repository import envelope, slots
from mingus_engine.repository.config import Config
from mingus_engine.repository.objects import get_object
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret
from mingus_engine.store.base import Body, Store
from mingus_engine.store.wrapping import StoreWrapper
from tests.support import repositories
from tests.support.repositories import MadeRepository, credentials

PASSPHRASE = Secret("correct horse battery")


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return repositories.make_repository(tmp_path)


class Meddling(StoreWrapper):
    """A store in which somebody else gets in between: *deed* is done once, before a put or after it."""

    def __init__(self, inner: Store, deed: Callable[[], object], *, before: str = "", after: str = "") -> None:
        super().__init__(inner)
        self._deed: Callable[[], object] | None = deed
        self._before, self._after = before, after

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        if self._before and name.startswith(self._before):
            self._do()
        super().put(name, body, size=size, sha256=sha256)
        if self._after and name.startswith(self._after):
            self._do()

    def _do(self) -> None:
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()


def rotate(repository: Repository) -> tuple[Config, str]:
    """A rotation; also the epoch that it made."""
    change, epoch, key = generations.new_epoch(repository.config.epoch)
    return generations.advance(repository, credentials(), change, {epoch: key}), epoch


def add(repository: Repository) -> tuple[Config, slots.Slot]:
    """A further passphrase slot."""
    slot, _ = slots.new_slot(slots.PASSPHRASE, PASSPHRASE, repository.id)
    config = generations.advance(repository, credentials(), lambda known: generations.with_slot(known, slot), {})
    return config, slot


def all_credentials(made: MadeRepository) -> list[Credentials]:
    return [credentials(), Credentials(escrow=Secret(made.escrow)), Credentials(passphrase=PASSPHRASE)]


def test_a_rotation_is_the_next_generation_maced_under_the_epoch_before(made: MadeRepository) -> None:
    before = made.repository
    config, epoch = rotate(before)
    current, e = configs.current(made.store, config.fingerprint)
    assert (current.generation, current.epoch, set(current.epochs)) == (2, epoch, {epoch, before.config.epoch})
    current.check_mac(e, before.keys.epoch_key(before.config.epoch))
    with pytest.raises(Damaged):
        current.check_mac(e, made.reopened().keys.epoch_key(epoch))


def test_after_a_rotation_every_slot_opens_both_epochs(made: MadeRepository) -> None:
    old = made.repository.config.epoch
    config, new = rotate(made.repository)
    for keys in all_credentials(made)[:2]:
        opened = made.reopened(keys=keys).keys
        assert opened.epoch == new
        assert len({opened.epoch_key(old), opened.epoch_key(new)}) == 2
    for slot in config.slots:
        assert len(made.names(f"keys/{new}/{slot.name}.")) == 1


@pytest.mark.parametrize("moment", [{"before": "config/"}, {"after": "config/"}])
def test_of_two_rotations_at_once_no_epoch_is_lost(made: MadeRepository, moment: dict[str, str]) -> None:
    others: list[str] = []
    rival = made.reopened()
    meddled = Meddling(made.store, lambda: others.append(rotate(rival)[1]), **moment)
    repository = made.reopened(store=meddled)
    old = repository.config.epoch
    _, mine = rotate(repository)
    current, _ = configs.current(made.store, repository.config.fingerprint)
    assert set(current.epochs) == {old, mine, *others}
    assert current.epoch != old
    for keys in all_credentials(made)[:2]:
        opened = made.reopened(keys=keys).keys
        assert len({opened.epoch_key(epoch) for epoch in current.epochs}) == 3


@pytest.mark.parametrize("moment", [{"before": "config/"}, {"after": "config/"}])
def test_a_slot_that_is_added_during_a_rotation_opens_everything(made: MadeRepository, moment: dict[str, str]) -> None:
    rival = made.reopened()
    repository = made.reopened(store=Meddling(made.store, lambda: add(rival), **moment))
    old = repository.config.epoch
    _, mine = rotate(repository)
    for keys in all_credentials(made):
        opened = made.reopened(keys=keys).keys
        assert opened.epoch == mine
        assert opened.epoch_key(old) != opened.epoch_key(mine)
        assert opened.signer.public == repository.config.signing_public


def test_two_slots_of_one_name_get_two_names(made: MadeRepository) -> None:
    rival = made.reopened()
    repository = made.reopened(store=Meddling(made.store, lambda: add(rival), before="config/"))
    config, slot = add(repository)
    names = [s.name for s in config.slots]
    assert sorted(names) == ["environment", "escrow", "passphrase", "passphrase-2"]
    assert len({s.public for s in config.slots}) == 4
    mine = next(s for s in config.slots if s.public == slot.public)
    only = replace(config, slots=(mine,))
    assert made.reopened(keys=Credentials(passphrase=PASSPHRASE)).keys.epoch == only.epoch


@pytest.mark.parametrize("prefix", ["keys/", "config/"])
def test_a_change_that_dies_half_way_changes_nothing_and_can_be_repeated(made: MadeRepository, prefix: str) -> None:
    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    repository = made.reopened(store=Meddling(made.store, die, before=prefix))
    with pytest.raises(Killed):
        rotate(repository)
    assert made.reopened().config.generation == 1
    _, epoch = rotate(made.reopened())
    assert made.reopened().config.epoch == epoch


def test_an_epoch_does_not_become_current_when_a_key_is_not_stored_as_sealed(made: MadeRepository) -> None:
    class Flipping(StoreWrapper):
        """Stores one key object with another content."""

        def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
            if "/escrow." in name:
                body = bytes([*bytes(body)[:-1], bytes(body)[-1] ^ 1])  # type: ignore[arg-type]
                made.path(name).parent.mkdir(exist_ok=True)
                made.path(name).write_bytes(body)
                return
            super().put(name, body, size=size, sha256=sha256)

    with pytest.raises(Damaged, match="SHA-256"):
        rotate(made.reopened(store=Flipping(made.store)))
    assert made.reopened().config.generation == 1


def test_what_an_older_epoch_sealed_stays_readable(made: MadeRepository) -> None:
    tree = repositories.small_source()
    manifest = repositories.backed_up(made, tree)
    rotate(made.repository)
    repository = made.reopened()
    assert repositories.contents(repository, manifest) == tree.digests()
    e = envelope.parse(get_object(made.store, str(manifest.name)), envelope.SNAPSHOT, "manifest")
    assert e.placement["epoch"] != repository.config.epoch
