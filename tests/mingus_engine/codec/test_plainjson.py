import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mingus_engine.codec import plainjson
from tests.mingus_engine.codec.hostile import flips, may_refuse, must_refuse, truncations

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.text() | numbers
values = st.dictionaries(
    st.text(), st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=10), max_size=5
)


def decode(raw: bytes) -> object:
    return plainjson.decode(raw, "the object")


@settings(max_examples=50)
@given(values)
def test_what_goes_in_comes_out_and_equal_values_have_equal_bytes(value: dict[str, object]) -> None:
    raw = plainjson.encode(value)
    assert decode(raw) == value
    assert plainjson.encode(dict(reversed(value.items()))) == raw
    assert raw.isascii()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"b":{"a":1,"a":1}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        '{"a":"é"}'.encode(),
        b"\xef\xbb\xbf{}",
        b"[]",
        b"1",
        b"",
        b"{} {}",
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b"{'a':1}",
    ],
    ids=lambda raw: raw[:20].decode("ascii", "replace"),
)
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes) -> None:
    must_refuse(decode, raw)


def test_what_no_parser_could_read_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        plainjson.encode({"a": float("nan")})


def test_truncated_json_is_refused_and_a_flipped_bit_is_never_another_exception() -> None:
    raw = plainjson.encode({"a": [1, 2.5, "x", None], "b": {"c": True}})
    for cut in list(truncations(raw))[:-1]:
        must_refuse(decode, cut)
    for changed in flips(raw):
        may_refuse(decode, changed)


@given(st.binary(max_size=50))
def test_random_bytes_end_in_an_object_or_in_damaged(raw: bytes) -> None:
    may_refuse(decode, raw)
