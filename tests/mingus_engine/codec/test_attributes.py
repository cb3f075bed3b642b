import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.codec import attributes
from mingus_engine.codec.attributes import Attributes
from mingus_engine.errors import FormatTooNew
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations

NAMES = st.binary(min_size=1, max_size=255)
ATTRIBUTES = st.builds(
    Attributes,
    mark=st.just(b"") | st.builds(attributes.mark, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)),
    link=st.binary(max_size=300),
    xattrs=st.dictionaries(NAMES, st.binary(max_size=200), max_size=4).map(lambda found: tuple(sorted(found.items()))),
    device=st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)


def decode(raw: bytes) -> Attributes:
    return attributes.decode(raw, "the object")


@given(ATTRIBUTES)
def test_attributes_come_back(found: Attributes) -> None:
    raw = found.encode()
    assert decode(raw) == found
    assert attributes.has_more(raw) == bool(found.link or found.xattrs or found.device)
    assert raw.startswith(found.mark)


def test_a_cut_is_refused_and_a_flip_is_no_other_exception() -> None:
    raw = Attributes(attributes.mark(1, 2), b"a/b", ((b"user.x", b"1"), (b"user.y", b"")), (8, 1)).encode()
    ends = {len(Attributes(attributes.mark(1, 2)).encode()), len(Attributes(attributes.mark(1, 2), b"a/b").encode())}
    ends |= {len(Attributes(attributes.mark(1, 2), b"a/b", ((b"user.x", b"1"),)).encode()), len(raw) - 11, 0}
    for cut in truncations(raw):
        if len(cut) not in ends:
            must_refuse(decode, cut)
    for changed in flips(raw):
        may_refuse(decode, changed)


@given(st.binary(max_size=100))
def test_random_bytes_end_in_a_value_or_a_refusal(raw: bytes) -> None:
    may_refuse(decode, raw)


def test_an_unknown_attribute_is_passed_over_below_64_and_refused_from_there() -> None:
    known = Attributes(attributes.mark(1, 2), b"a").encode()
    assert decode(known + b"\x3f\x01\x00x") == decode(known)
    with pytest.raises(FormatTooNew):
        decode(known + b"\x40\x01\x00x")
