"""Patterns of keys mean what they mean to a server."""

from __future__ import annotations

import random

import pytest

from mingus_engine.redis.glob import matcher
from tests.support.fixtures import MakeRedis

PATTERNS = [
    "*", "session:*", "*:1", "session:?", "s*n:*2", "[sS]ession:*", "session:[^1]", "session:[0-1]", "session:[1-0]",
    "a\\*b", "a[*]b", "a[\\]]b", "a[]b", "a[^]b", "a[b", "a\\", "**:**", "", "a]b", "[a-", "[a-]", "[^a", "a?b", "\\a*",
    "[a-c]*[0-9]", "x[\\-]y", "x[a\\-z]y", "[[]*", "*]", "[]", "[^]",
]  # fmt: skip
NAMES = [
    "session:1", "session:2", "Session:1", "session:", "session:12", "a*b", "a]b", "ab", "a[b", "a\\", "a", "b", "a-",
    "-", "[", "]", "x-y", "xby", "a\nb", "\r\n", "ab1", "c9", "a^b", "",
]  # fmt: skip


@pytest.fixture
def server_says(make_redis: MakeRedis):
    server = make_redis()

    def ask(pattern: bytes, names: list[bytes]) -> list[bytes]:
        with server.client() as client:
            client.flushdb()
            client.mset(dict.fromkeys(names, 1))
            return sorted(client.keys(pattern))

    return ask


def test_patterns_match_the_keys_that_the_server_finds(server_says) -> None:
    names = sorted(name.encode() for name in NAMES)
    for pattern in PATTERNS:
        matches = matcher([pattern.encode()])
        assert [name for name in names if matches(name)] == server_says(pattern.encode(), names), pattern


def test_patterns_made_by_chance_do_too(server_says) -> None:
    chance = random.Random(5)
    for _ in range(400):
        pattern = bytes(chance.choices(b"ab*?[]^-\\", k=chance.randint(1, 7)))
        names = sorted({bytes(chance.choices(b"ab-]\\^", k=chance.randint(1, 5))) for _ in range(25)})
        matches = matcher([pattern])
        assert [name for name in names if matches(name)] == server_says(pattern, names), pattern


def test_one_of_several_patterns_is_enough_and_none_is_everything() -> None:
    assert matcher([])(b"x")
    for several in ([b"a:*", b"b:*"], [b"a:*", b"b:?"]):
        matches = matcher(several)
        assert [name for name in (b"a:1", b"b:2", b"c:3") if matches(name)] == [b"a:1", b"b:2"]
