import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.codec import sealing
from mingus_engine.errors import Damaged, KeyUnavailable

KEY, SALT = bytes(range(32)), bytes(32)


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_different_purposes_never_have_the_same_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (sealing.purpose(*one) == sealing.purpose(*other)) == (one == other)


def test_the_derivation_is_hkdf_of_rfc_5869() -> None:
    # RFC 5869, A.1 and A.3 (no salt)
    okm = sealing.derive(bytes([0x0B]) * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    okm = sealing.derive(bytes([0x0B]) * 22, b"", b"", 42)
    assert okm.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"


def test_a_seal_opens_with_its_key_salt_purpose_and_aad_only() -> None:
    derived = sealing.derive_seal(KEY, SALT, b"purpose")
    sealed = sealing.seal(derived, b"plain", b"aad")
    assert sealing.open_seal(derived, derived.commitment, sealed, b"aad", "x") == b"plain"
    for key, salt, info in ((bytes(32), SALT, b"purpose"), (KEY, bytes([1]) * 32, b"purpose"), (KEY, SALT, b"other")):
        other = sealing.derive_seal(key, salt, info)
        with pytest.raises(KeyUnavailable, match="the object"):
            sealing.open_seal(other, derived.commitment, sealed, b"aad", "the object")
    with pytest.raises(Damaged, match="the object"):
        sealing.open_seal(derived, derived.commitment, sealed, b"other", "the object")
    for at, bit in itertools.product(range(len(sealed)), range(8)):
        changed = bytearray(sealed)
        changed[at] ^= 1 << bit
        with pytest.raises(Damaged, match="the object"):
            sealing.open_seal(derived, derived.commitment, bytes(changed), b"aad", "the object")


def test_what_is_published_of_a_key_is_no_key() -> None:
    derived = sealing.derive_seal(KEY, SALT, b"purpose")
    assert len({derived.key, derived.commitment, sealing.commitment(KEY), KEY}) == 4
