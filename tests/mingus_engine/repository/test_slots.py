import base64
import dataclasses
import tracemalloc

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine import ulids
from mingus_engine.errors import Damaged, KeyUnavailable, SettingsError
from mingus_engine.repository import slots
from mingus_engine.repository.slots import Credentials, Slot
from mingus_engine.settings import Secret

REPOSITORY = ulids.new()
KEY = bytes(range(32))
PASSPHRASE = "a long enough passphrase"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id as cheap as it can be: its parameters are stored with the slot."""
    monkeypatch.setattr(slots, "_ARGON2", {"memory_kib": 8, "iterations": 1, "lanes": 1})


def opens(slot: Slot, text: str, repository: str = REPOSITORY) -> bool:
    try:
        private = slots.open_slot(slot, Secret(text), repository, "the place")
    except KeyUnavailable:
        return False
    return private.public_key().public_bytes_raw() == slot.public


def made(kind: str, text: str) -> Slot:
    return slots.new_slot(kind, Secret(text), REPOSITORY)[0]


@pytest.mark.parametrize(
    "spelling",
    [
        KEY.hex(),
        KEY.hex().upper(),
        f"  {KEY.hex()}\n",
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode(),
        base64.b64encode(KEY).decode() + "\n",
    ],
)
def test_a_key_may_be_spelt_in_hex_or_base64(spelling: str) -> None:
    slot = made(slots.ENVIRONMENT, spelling)
    assert slot.wrap["kdf"] == "hkdf"
    assert opens(slot, KEY.hex())
    assert opens(made(slots.ENVIRONMENT, KEY.hex()), spelling)
    assert not opens(slot, bytes(32).hex())
    assert not opens(slot, PASSPHRASE)


@pytest.mark.parametrize("kind", [slots.ENVIRONMENT, slots.PASSPHRASE])
def test_anything_else_is_a_passphrase(kind: str) -> None:
    slot = made(kind, PASSPHRASE)
    assert slot.wrap["kdf"] == "argon2id"
    assert opens(slot, PASSPHRASE)
    assert not opens(slot, PASSPHRASE + " ")
    assert not opens(slot, KEY.hex())


def test_a_passphrase_slot_does_not_take_a_key_for_a_key() -> None:
    assert made(slots.PASSPHRASE, KEY.hex()).wrap["kdf"] == "argon2id"


def test_short_passphrases_and_missing_secrets_are_refused() -> None:
    with pytest.raises(SettingsError, match="fewer than 12"):
        made(slots.PASSPHRASE, "elevenchars")
    with pytest.raises(SettingsError, match="no secret"):
        slots.new_slot(slots.ENVIRONMENT, None, REPOSITORY)


def test_a_slot_is_bound_to_its_repository_and_kind() -> None:
    slot = made(slots.ENVIRONMENT, KEY.hex())
    assert not opens(slot, KEY.hex(), ulids.new())
    as_passphrase = dataclasses.replace(made(slots.ENVIRONMENT, PASSPHRASE), kind=slots.PASSPHRASE)
    assert not opens(as_passphrase, PASSPHRASE)


def test_a_slot_with_another_public_half_is_not_believed() -> None:
    """An attacker who could replace it would have the next epoch key sealed to himself."""
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for slot, text in ((made(slots.ENVIRONMENT, KEY.hex()), KEY.hex()), escrow()):
        with pytest.raises((Damaged, KeyUnavailable)):
            slots.open_slot(dataclasses.replace(slot, public=own), Secret(text), REPOSITORY, "x")


def escrow() -> tuple[Slot, str]:
    slot, secret = slots.new_slot(slots.ESCROW, None, REPOSITORY)
    assert secret is not None
    return slot, secret.reveal()


def test_the_escrow_key_opens_however_it_is_typed() -> None:
    slot, text = escrow()
    assert slot.wrap == {}
    for typed in (text, text.lower(), text.replace("-", " "), f"\n{text}  ", text.removeprefix("MINGUS-ESCROW-1-")):
        assert opens(slot, typed)


def test_every_mistyped_letter_of_an_escrow_key_is_noticed() -> None:
    slot, text = escrow()
    start = len("MINGUS-ESCROW-1-")
    for at in range(start, len(text)):
        if text[at] == "-":
            continue
        wrong = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        with pytest.raises(KeyUnavailable, match="mistyped"):
            slots.open_slot(slot, Secret(wrong), REPOSITORY, "x")
    short, long = text[:-1], f"{text}A"
    for wrong in (short, long, text[start : start + 20], "", "MINGUS-ESCROW-1-", "ü", text.replace("-", "1")):
        with pytest.raises(KeyUnavailable, match="mistyped"):
            slots.open_slot(slot, Secret(wrong), REPOSITORY, "x")


def test_another_repositorys_escrow_key_is_refused() -> None:
    assert not opens(escrow()[0], escrow()[1])


@pytest.mark.parametrize("field", ["salt", "commitment", "sealed"])
@pytest.mark.parametrize("text", [KEY.hex(), PASSPHRASE], ids=["key", "passphrase"])
def test_every_changed_bit_of_a_wrapped_half_is_noticed(field: str, text: str) -> None:
    slot = made(slots.ENVIRONMENT, text)
    raw = bytes.fromhex(slot.wrap[field])
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        with pytest.raises((Damaged, KeyUnavailable)) as caught:
            slots.open_slot(
                dataclasses.replace(slot, wrap={**slot.wrap, field: changed.hex()}),
                Secret(text),
                REPOSITORY,
                "the place",
            )
        assert "the place" in caught.value.message
    wrap = {k: v for k, v in slot.wrap.items() if k != field}
    with pytest.raises(Damaged, match=field):
        slots.open_slot(dataclasses.replace(slot, wrap=wrap), Secret(text), REPOSITORY, "the place")


@pytest.mark.parametrize(
    "hostile",
    [
        {"memory_kib": 2**40},
        {"memory_kib": 0},
        {"memory_kib": -1},
        {"iterations": 10**9},
        {"iterations": 0},
        {"lanes": 65},
        {"lanes": 64},
        {"memory_kib": "8"},
        {"iterations": True},
        {"kdf": "scrypt"},
        {"kdf": None},
    ],
    ids=str,
)
def test_hostile_costs_are_refused_without_paying_them(hostile: dict[str, object]) -> None:
    slot = made(slots.PASSPHRASE, PASSPHRASE)
    slot = dataclasses.replace(slot, wrap={**slot.wrap, **hostile})
    tracemalloc.start()
    with pytest.raises(Damaged, match="the place"):
        slots.open_slot(slot, Secret(PASSPHRASE), REPOSITORY, "the place")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_what_is_sealed_to_a_slot_opens_there_for_its_purpose_only() -> None:
    slot, other = made(slots.ENVIRONMENT, KEY.hex()), made(slots.ENVIRONMENT, KEY.hex())
    private = slots.open_slot(slot, Secret(KEY.hex()), REPOSITORY, "x")
    sealed = slots.seal_to(slot, b"k" * 32, b"purpose")
    assert slots.open_sealed(private, sealed, b"purpose", "x") == b"k" * 32
    assert len(sealed) == 80
    assert sealed != slots.seal_to(slot, b"k" * 32, b"purpose")
    stranger = slots.open_slot(other, Secret(KEY.hex()), REPOSITORY, "x")
    cases = [(private, sealed, b"other"), (stranger, sealed, b"purpose"), (private, b"", b"purpose")]
    cases += [(private, sealed[:n], b"purpose") for n in (31, 32, 47, 79)]
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << at % 7  # X25519 ignores the highest bit of a public key
        cases.append((private, bytes(changed), b"purpose"))
    cases.append((private, bytes(32) + sealed[32:], b"purpose"))
    for key, raw, info in cases:
        with pytest.raises(Damaged, match="the object"):
            slots.open_sealed(key, raw, info, "the object")


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda v: st.dictionaries(st.text(max_size=6), v)))
def test_hostile_slots_of_a_configuration_are_refused(raw: object) -> None:
    with pytest.raises(Damaged, match="the object"):
        Slot.from_dict(raw, "the object")


def test_no_secret_shows_in_a_repr() -> None:
    shown = repr(Credentials(environment=Secret(KEY.hex()), passphrase=Secret(PASSPHRASE)))
    assert KEY.hex() not in shown
    assert PASSPHRASE not in shown
