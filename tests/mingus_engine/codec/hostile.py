"""Bytes that nobody should trust, made from good ones."""

import random
from collections.abc import Callable, Iterator

import pytest

from mingus_engine.errors import Damaged, FormatTooNew


def truncations(raw: bytes) -> Iterator[bytes]:
    """*raw* cut at every length, and one byte too long."""
    for length in range(len(raw)):
        yield raw[:length]
    yield raw + b"\0"


def flips(raw: bytes) -> Iterator[bytes]:
    """*raw* with one bit of every byte changed; which one differs from byte to byte."""
    chosen = random.Random(len(raw))
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << chosen.randrange(8)
        yield bytes(changed)


def must_refuse(decode: Callable[[bytes], object], raw: bytes, what: str = "the object") -> None:
    """*decode* ends in an error of the format that names the object, whatever *raw* is."""
    with pytest.raises((Damaged, FormatTooNew)) as caught:
        decode(raw)
    assert what in str(caught.value)


def may_refuse(decode: Callable[[bytes], object], raw: bytes, what: str = "the object") -> None:
    """*decode* gives a value or the format's own error, and nothing else ever."""
    assert what in (refusal(decode, raw) or what)


def refusal(decode: Callable[[bytes], object], raw: bytes) -> str | None:
    """What the format's own error says, ``None`` when *decode* takes *raw*; any other exception is a failure."""
    try:
        decode(raw)
    except (Damaged, FormatTooNew) as error:
        return str(error)
    return None
